"""Checks of a TorchScript archive before PyTorch compiles it: the calls in its source, and its tensors.

An archive is a program. Its source is all that can be executed, both while it is loaded and when it is called, so
every call must be one of the operators listed here, which only compute. PyTorch receives a new archive that contains
only the members that were checked.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fossilray.core.errors import WeightsError
from fossilray.core.formats.regular_file import open_regular
from fossilray.models.files.stored_pickle import BYTES, PickleMachine, Storage, TorchFileError
from fossilray.models.files.torch_file import check_members, reporting_damage

_MAX_SOURCE_BYTES = 16 * 2**20
_MAX_DEPTH = 60
"""Maximum nesting of expressions and blocks; PyTorch's compiler recurses."""
_MAX_NODES = 3_000_000

_COMPUTING = frozenset(
    """
    abs acos acosh add add_ addcdiv addcmul addmm all alias amax amin aminmax any append arange arange argmax argmin
    argsort as_tensor asin asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm broadcast_tensors bucketize cat cdist
    ceil celu channel_shuffle chunk clamp clamp_ clamp_max clamp_min clear clone concat constant_pad_nd contiguous
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d copy_ cos cosh cumprod cumsum dequantize detach diff dim div
    div_ dot dropout dropout_ einsum elu elu_ embedding empty empty_like eq equal erf erfc exp expand expand_as expm1
    extend eye feature_dropout fill_ fill fix flatten flip floor floor_divide floordiv fmod format frac full full_like
    gather ge gelu get glu grid_sampler group_norm gt hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh
    hardtanh_ hstack im2col index index_put index_put_ index_select insert instance_norm isfinite isinf isnan item items
    keys kthvalue layer_norm le leaky_relu leaky_relu_ len lerp linear linspace list log log10 log1p log2 log_sigmoid
    log_softmax logical_and logical_not logical_or logical_xor logsumexp lt masked_fill masked_fill_ masked_select
    matmul max max_pool1d max_pool2d max_pool3d maximum mean median meshgrid min minimum mish mish_ mm movedim mul mul_
    multiply mv nan_to_num narrow native_batch_norm native_group_norm native_layer_norm ne neg neg_ new_empty new_full
    new_ones new_zeros nonzero nonzero_numpy norm numel numpy_T one_hot ones ones_like pad permute pixel_shuffle
    pixel_unshuffle pop pow prelu prod quantize_per_tensor reciprocal reflection_pad2d relu relu6 relu6_ relu_ remainder
    repeat repeat_interleave replication_pad2d reshape reshape_as resolve_conj resolve_neg reverse rms_norm roll rot90
    round rsqrt rsub scalar_tensor scaled_dot_product_attention scatter scatter_ scatter_add select selu selu_ sigmoid
    sigmoid_ sign silu silu_ sin sinh size slice softmax softplus sort split split_with_sizes sqrt square squeeze
    squeeze_ stack std std_mean stride sub sub_ sum swapaxes swapdims t take tan tanh tanh_ tensor tensor_split
    threshold tile to to_dense topk transpose tril triu true_divide trunc type_as unbind unflatten unfold unique_dim
    unsqueeze unsqueeze_ upsample_bicubic2d upsample_bilinear2d upsample_nearest1d upsample_nearest2d values var
    var_mean view view_as vstack warn where zero_ zeros zeros_like adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_max_pool2d _convolution _convolution_mode _set_item _unique2 _upsample_bilinear2d_aa
    _upsample_bicubic2d_aa __and__ __contains__ __derive_index __getitem__ __interpolate __is__ __isnot__ __not__
    __or__ __range_length __xor__ Bool Delete Float FloatImplicit Int IntImplicit ScalarImplicit index_fill
    percentFormat lower upper strip join startswith endswith copy update setdefault is_floating_point is_cuda dtype
    device unsafe_chunk unsafe_split clip absolute gcd ord chr hex sorted ceil_ floor_ sqrt_ exp_ round_ is_scripting
    requires_grad_ cpu float half resize adaptive_avg_pool3d smooth_l1_loss l1_loss binary_cross_entropy_with_logits
    _is_tracing tolist abs_
    """.split()  # noqa: SIM905
)
"""Operators of PyTorch's aten that only compute, as TorchScript's source writes them after `torch.`."""
_OTHERS = frozenset(
    {"annotate", "unchecked_cast", "uninitialized", "getattr", "int", "float", "bool", "str", "range", "len"}
    | {
        "Exception",
        "isinstance",
        "print",
        "torch.device",
        "torch.inf",
        "tuple",
        "list",
        "dict",
        "min",
        "max",
        "abs",
    }
    | {
        f"ops.torchvision.{name}"
        for name in ("nms", "roi_align", "roi_pool", "ps_roi_align", "deform_conv2d")
    }
    | {
        f"ops.prim.{name}"
        for name in (
            *(
                "NumToTensor",
                "TupleUnpack",
                "TupleIndex",
                "ListUnpack",
                "unchecked_unwrap_optional",
                "min",
                "max",
            ),
            *(
                "abs",
                "dtype",
                "device",
                "shape",
                "is_cuda",
                "requires_grad",
                "layout",
                "is_meta",
                "data",
                "itemsize",
            ),
            *(
                "RaiseException",
                "raise_exception",
                "tolist",
                "is_quantized",
                "isinstance",
                "range",
                "type",
                "IfThenElse",
            ),
        )
    }
)
_ROOTS = frozenset({"__torch__", "torch", "ops", "CONSTANTS", *_OTHERS})
"""First components of function names, which values must not use."""
_TEXT = re.compile(rb"[\n\x20-\x7e]*")
_OTHER_ESCAPE = re.compile(r"\\(?![\\nrtabfv'\"0-7])")


def check_archive(path: Path) -> io.BytesIO:
    """Return a new archive of the checked members.

    Raises:
        WeightsError: the source calls something other than the listed operators.
        TorchFileError: the file is damaged or not TorchScript.
    """
    copy = io.BytesIO()
    with reporting_damage(), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = check_members(archive, may_be_compressed=lambda name: "/code/" in name)
        root = next((name.partition("/")[0] for name in members if name.endswith("/constants.pkl")), None)
        if root is None or f"{root}/data.pkl" not in members:
            raise TorchFileError("it is a zip archive without TorchScript inside")
        texts = sum(member.file_size for name, member in members.items() if name.startswith(f"{root}/code/"))
        if texts > _MAX_SOURCE_BYTES:
            raise TorchFileError(f"its source has {texts:,} bytes, more than {_MAX_SOURCE_BYTES:,}")
        kept = {name: member for name, member in members.items() if _is_needed(name.removeprefix(f"{root}/"))}
        _check_calls(
            path,
            {
                name: _parse(name, archive.read(member))
                for name, member in kept.items()
                if name.endswith(".py")
            },
        )
        for pickle, folder in (("data.pkl", "data"), ("constants.pkl", "constants")):
            _check_tensors(archive, kept, f"{root}/{pickle}", f"{root}/{folder}")
        with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as sink:
            for name, member in kept.items():
                sink.writestr(name, archive.read(member))
    copy.seek(0)
    return copy


def _is_needed(name: str) -> bool:
    """Return whether a member is needed; traced inputs, debug files and files of other programs are not."""
    if name.startswith("code/"):
        return name.endswith(".py")
    return name.startswith(("data/", "constants/")) or name in (
        *("data.pkl", "constants.pkl", "version", "byteorder", "extra/config.txt"),
    )


def _check_tensors(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], pickle: str, folder: str
) -> None:
    """Refuse an invalid pickle, and tensors that exceed their storages or the size of the file."""
    storages: dict[str, Storage] = {}
    machine = PickleMachine(io.BytesIO(archive.read(members[pickle])), _is_plain, storages)
    machine.run()
    for storage in storages.values():
        size = members[f"{folder}/{storage.key}"].file_size
        if size < storage.count * (1 if storage.dtype is None else BYTES[storage.dtype]):
            raise TorchFileError(f"storage {storage.key} is smaller than declared")
    for record in machine.tensors:
        if not record.is_within(record.storage.count):
            raise TorchFileError(
                f"a tensor of {record.shape} reaches beyond its storage {record.storage.key}"
            )
    claimed = sum(record.numel * BYTES[record.dtype] for record in machine.tensors)
    size = sum(member.file_size for member in members.values())
    if claimed > 8 * size + 2**20:
        raise TorchFileError("its tensors claim more than eight times the size of the file")


def _is_plain(name: str) -> bool:
    return name.startswith(("__torch__.", "torch.jit._pickle.", "collections."))


def _parse(name: str, content: bytes) -> ast.Module:
    if not _TEXT.fullmatch(content):
        raise TorchFileError(f"{name} contains characters other than printable ASCII")
    text = content.decode("ascii")
    # If Python and PyTorch disagree on where a string ends, PyTorch might run code that is not checked here.
    if _OTHER_ESCAPE.search(text) or '"""' in text or "'''" in text:
        raise TorchFileError(
            f"{name} contains strings with triple quotes, or escapes that PyTorch does not write"
        )
    try:
        if any(
            token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline)
        ):
            raise TorchFileError(f"{name} contains comments, which PyTorch does not write")
        return ast.parse(text)
    except (SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise TorchFileError(f"{name} is not valid source ({type(error).__name__})") from None


def _check_calls(path: Path, sources: Mapping[str, ast.Module]) -> None:
    """Refuse source that calls anything but the listed operators and its own functions."""
    import torch

    defined = {
        node.name
        for tree in sources.values()
        for node, _ in _walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    # If a method has the name of an operator, a call on a value is ambiguous.
    known: Any = torch._C._jit_get_schemas_for_operator
    methods = {name for name in defined if name in _COMPUTING or not known(f"aten::{name}")}
    for name, tree in sources.items():
        _check_tree(path, name, list(_unknown_calls(tree, methods)))


def _check_tree(path: Path, name: str, calls: list[str]) -> None:
    unknown = sorted(set(calls))
    if "__setstate__" in unknown:
        raise WeightsError(
            f"{path} runs code of its own when it is loaded ({name}); export the network to .onnx instead"
        )
    if unknown:
        raise WeightsError(
            f"{path} does more than compute ({', '.join(unknown[:5])[:200]}); export the network to .onnx instead"
        )


def _unknown_calls(tree: ast.Module, methods: set[str]) -> Iterator[str]:
    aliases = _aliases(tree)
    for node, _ in _walk(tree):
        match node:
            case ast.FunctionDef(name="__setstate__" | "__getstate__"):
                yield "__setstate__"
            case ast.Name(id="__forward_hooks__" | "__forward_pre_hooks__" as hooks):
                yield hooks
            case ast.arg(arg=shadow) | ast.Name(id=shadow, ctx=ast.Store()) if shadow in _ROOTS:
                yield shadow
            case ast.ClassDef():
                yield from (ast.unparse(base) for base in node.bases if not _is_base(base))
            case ast.Call():
                yield from _unknown_call(node.func, aliases, methods)
            case ast.Import() | ast.ImportFrom() | ast.Lambda() | ast.Try() | ast.With() | ast.Global():
                yield type(node).__name__


def _aliases(tree: ast.Module) -> set[str]:
    """Return the names that refer to functions of the archive only."""
    assigned: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    for node, _ in _walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = node.value
            if _is_dotted(value) and ast.unparse(value).startswith("__torch__."):
                assigned[node.targets[0].id] += 1
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            stored[node.id] += 1
        elif isinstance(node, ast.arg):
            stored[node.arg] += 1
    return {name for name, count in assigned.items() if count == stored[name]}


def _is_base(base: ast.expr) -> bool:
    return isinstance(base, ast.Name) and base.id in ("Module", "NamedTuple")


def _unknown_call(called: ast.expr, aliases: set[str], methods: set[str]) -> Iterator[str]:
    """Yield the name of a call that is neither a listed operator nor a function of the archive."""
    if isinstance(called, ast.Name):
        if called.id not in _OTHERS and called.id not in aliases:
            yield called.id
        return
    if not isinstance(called, ast.Attribute):
        yield ast.unparse(called)[:80]
        return
    owner = ast.unparse(called.value) if _is_dotted(called.value) else ""
    if owner == "ops" or owner.startswith(("ops.", "torch.")):
        if f"{owner}.{called.attr}" not in _OTHERS:
            yield f"{owner.removeprefix('ops.')}::{called.attr}"
    elif owner.startswith("__torch__."):
        return
    elif called.attr not in _COMPUTING and (owner == "torch" or called.attr not in methods):
        # A method call on a value: PyTorch calls the operator of this name with the value as first argument.
        yield f"aten::{called.attr}"


def _is_dotted(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _walk(tree: ast.AST) -> Iterator[tuple[ast.AST, int]]:
    waiting, count = [(tree, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if depth > _MAX_DEPTH or count > _MAX_NODES:
            raise TorchFileError(f"its source is nested more than {_MAX_DEPTH} deep, or has too much of it")
        yield node, depth
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
