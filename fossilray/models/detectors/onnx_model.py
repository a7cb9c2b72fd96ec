"""Checks of an ONNX model before onnxruntime loads it: its operators, the location of its tensors, its size.

onnxruntime receives the bytes that were checked, with tensors of external files inserted, so that it opens no files
itself; only its own operators are registered, and its memory on the CPU is limited (`bound_memory`).
"""

from __future__ import annotations

import math
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fossilray.core.errors import WeightsError
from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.regular_file import read_regular

_MAX_BYTES = 2**31 - 2**20
"""Limit of protobuf; detectors are far smaller."""
_MAX_NODES = 100_000
_MAX_DEPTH = 8
_MAX_MEMORY = 8 * 2**30
"""Memory of onnxruntime on the CPU, for all models together."""

_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_OF_MICROSOFT = frozenset(
    {
        "BiasGelu",
        "BiasSplitGelu",
        "DequantizeLinear",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gelu",
    }
    | {"GroupNorm", "MatMulInteger16", "NhwcFusedConv", "NhwcMaxPool", "QAttention", "QGemm", "QLinearAdd"}
    | {"QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu"}
    | {
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QuantizeLinear",
    }
    | {
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
        "QuickGelu",
        "SkipLayerNormalization",
        "LayerNormalization",
    }
    | {"Attention", "MultiHeadAttention", "EmbedLayerNormalization", "Crop", "GridSample", "Inverse", "Trilu"}
)
"""Operators that onnxruntime's tools write into quantised and optimised models; others may open files."""

_arena_lock = threading.Lock()
_arena_created: list[bool] = []


def check_model(path: Path) -> bytes:
    """Return the checked model as bytes, with external tensors inserted.

    Raises:
        WeightsError: the file is not a model, uses an unknown operator, refers to files outside its folder, or declares
            larger tensors than it holds; or the package `onnx` is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError, EncodeError
    except ImportError:
        raise WeightsError(
            f"{path} needs onnx, which is not installed: pip install 'fossilray[onnx]'"
        ) from None
    role = FileRole(str(path), "an exported detector", "export it again", WeightsError)
    try:
        stored = read_regular(path, most_bytes=_MAX_BYTES)
        if len(stored) > _MAX_BYTES:
            raise role.damaged(f"it has more than {_MAX_BYTES:,} bytes")
        model = onnx.ModelProto()
        model.ParseFromString(stored)
        del stored
        if not model.HasField("graph") or not model.graph.node:
            raise WeightsError(f"{path} is not an ONNX model: it has no graph; export it again")
        del model.training_info[:]
        _check_operators(model, role)
        _check_tensors(model, path, role)
        content: bytes = model.SerializeToString()
    except (DecodeError, EncodeError, ValueError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(f"{path} is not an ONNX model ({reason}); export it again") from None
    except OSError as error:
        raise role.damaged(error) from None
    return content


def bound_memory(onnxruntime: Any, options: Any) -> None:
    """Make sessions with these options share one arena of _MAX_MEMORY bytes on the CPU."""
    with _arena_lock:
        if not _arena_created:
            kinds = (onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT)
            memory = onnxruntime.OrtMemoryInfo("Cpu", kinds[0], 0, kinds[1])
            # 1: the arena grows by the requested size, not by powers of two.
            arena = onnxruntime.OrtArenaCfg({"max_mem": _MAX_MEMORY, "arena_extend_strategy": 1})
            onnxruntime.create_and_register_allocator(memory, arena)
            _arena_created.append(True)
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")


def _check_operators(model: Any, role: FileRole) -> None:
    """Refuse unknown operators, and functions whose expansion exceeds the limit of nodes."""
    functions = {(function.domain, function.name): function for function in model.functions}
    unfolded: dict[tuple[str, str], int] = {}

    def count(nodes: Any, calling: tuple[tuple[str, str], ...], depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise role.damaged(f"its graphs are nested more than {_MAX_DEPTH} deep")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += 1
            if key in functions:
                if key in calling or len(calling) > _MAX_DEPTH:
                    raise role.damaged(f"its function {node.op_type[:60]!r} calls itself")
                if key not in unfolded:
                    unfolded[key] = count(functions[key].node, (*calling, key), depth)
                total += unfolded[key]
            elif not (
                node.domain in _STANDARD or (node.domain == "com.microsoft" and node.op_type in _OF_MICROSOFT)
            ):
                raise WeightsError(
                    f"{role.name} calls {node.op_type[:60]!r} of {node.domain[:60]!r}, which is not an operator "
                    "of ONNX; export it with those only"
                )
            for attribute in node.attribute:
                for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                    total += count(graph.node, calling, depth + 1)
            if total > _MAX_NODES:
                raise role.damaged(f"it expands to more than {_MAX_NODES:,} operators")
        return total

    count(model.graph.node, (), 0)
    for key, function in functions.items():
        count(function.node, (key,), 0)


def _check_tensors(model: Any, path: Path, role: FileRole) -> None:
    remaining = _MAX_BYTES
    for tensor in _tensors(model.graph, [function.node for function in model.functions], role):
        if tensor.data_location == tensor.EXTERNAL:
            tensor.raw_data = _read_external(tensor, path, remaining, role)
            del tensor.external_data[:]
            tensor.data_location = tensor.DEFAULT
        remaining -= len(tensor.raw_data)
        stored = max(
            len(tensor.raw_data),
            *(
                len(values)
                for values in (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
            ),
            *(len(values) for values in (tensor.uint64_data, tensor.string_data)),
        )
        # A byte may hold two numbers of 4 bits.
        if any(side < 0 for side in tensor.dims) or math.prod(tensor.dims) > 2 * stored:
            raise role.damaged(
                f"its tensor {tensor.name[:60]!r} claims {'x'.join(map(str, tensor.dims))[:60]} numbers and holds "
                f"{stored:,} bytes or numbers"
            )


def _tensors(graph: Any, bodies: list[Any], role: FileRole) -> Iterator[Any]:
    waiting = [
        (graph.node, graph.initializer, graph.sparse_initializer),
        *((body, [], []) for body in bodies),
    ]
    while waiting:
        nodes, initializers, sparse = waiting.pop()
        if len(sparse):
            raise role.damaged("it holds sparse tensors, which no detector has")
        yield from initializers
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
                    raise role.damaged("it holds sparse tensors, which no detector has")
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t
                graphs = (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
                waiting += [(graph.node, graph.initializer, graph.sparse_initializer) for graph in graphs]


def _read_external(tensor: Any, path: Path, remaining: int, role: FileRole) -> bytes:
    """Read the values of a tensor from a file in the model's folder."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    name = fields.get("location", "")
    if not name or name != Path(name).name or name in (".", "..") or "\0" in name or "\\" in name:
        raise role.damaged(f"it refers to values in {name[:80]!r}, which is no file of its own folder")
    texts = (fields.get("offset", "0"), fields.get("length", "0"))
    if not all(text.isascii() and text.isdigit() and len(text) < 16 for text in texts):
        raise role.damaged(f"it refers to values at {texts[0]!r:.40} of {name[:80]!r}")
    offset, length = (int(text) for text in texts)
    # A symbolic link could point to any file.
    descriptor = os.open(path.parent / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        length = length or status.st_size - offset
        if (
            not stat.S_ISREG(status.st_mode)
            or length < 0
            or offset + length > status.st_size
            or length > remaining
        ):
            raise role.damaged(
                f"it refers to {length:,} bytes at {offset:,} of {name[:80]!r}, which is not a file of that size"
            )
        file.seek(offset)
        return file.read(length)
