"""An ONNX model looked through before onnxruntime is given it: what it calls, where its numbers lie, how large it is.

onnxruntime gets the bytes of what was looked at, numbers of files beside the model put in, so that it opens no file of
its own; it knows no operators but its own, and its memory on the CPU is bounded (`bound_memory`).
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

MOST_BYTES = 2**31 - 2**20
"""What protobuf takes, and more than any detector has."""
MOST_NODES = 100_000
DEEPEST = 8
MOST_MEMORY = 8 * 2**30
"""That onnxruntime may have on the CPU, of all models together."""

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
"""Operators that onnxruntime's own tools write into quantised and optimised models; others may open files."""

_bounding = threading.Lock()
_bounded: list[bool] = []


def checked_model(path: Path) -> bytes:
    """The model whole, in one run of bytes.

    Raises:
        WeightsError: it is none, calls something unknown, reaches for other files, or claims more than it holds; or
            the package `onnx` is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError, EncodeError
    except ImportError:
        raise WeightsError(
            f"{path} needs onnx, which is not installed: pip install 'fossilray[onnx]'"
        ) from None
    role = FileRole(str(path), "an exported detector", "export it anew", WeightsError)
    try:
        stored = read_regular(path, most_bytes=MOST_BYTES)
        if len(stored) > MOST_BYTES:
            raise role.damaged(f"it has more than {MOST_BYTES:,} bytes")
        model = onnx.ModelProto()
        model.ParseFromString(stored)
        del stored
        if not model.HasField("graph") or not model.graph.node:
            raise WeightsError(f"{path} is not an ONNX model: it has no graph; export it anew")
        del model.training_info[:]
        _check_calls(model, role)
        _check_tensors(model, path, role)
        content: bytes = model.SerializeToString()
    except (DecodeError, EncodeError, ValueError, RecursionError, MemoryError) as error:
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(f"{path} is not an ONNX model ({told}); export it anew") from None
    except OSError as error:
        raise role.damaged(error) from None
    return content


def bound_memory(onnxruntime: Any, options: Any) -> None:
    """Have sessions with these options share one arena of MOST_MEMORY bytes on the CPU."""
    with _bounding:
        if not _bounded:
            kinds = (onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT)
            place = onnxruntime.OrtMemoryInfo("Cpu", kinds[0], 0, kinds[1])
            # 1: the arena grows by what is asked for, not by powers of two.
            arena = onnxruntime.OrtArenaCfg({"max_mem": MOST_MEMORY, "arena_extend_strategy": 1})
            onnxruntime.create_and_register_allocator(place, arena)
            _bounded.append(True)
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")


def _check_calls(model: Any, role: FileRole) -> None:
    """Every operator is a known one, and functions that call each other unfold to a bounded number of nodes."""
    functions = {(one.domain, one.name): one for one in model.functions}
    unfolded: dict[tuple[str, str], int] = {}

    def count(nodes: Any, calling: tuple[tuple[str, str], ...], depth: int) -> int:
        if depth > DEEPEST:
            raise role.damaged(f"its graphs lie more than {DEEPEST} deep")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += 1
            if key in functions:
                if key in calling or len(calling) > DEEPEST:
                    raise role.damaged(f"its function {node.op_type[:60]!r} calls itself")
                if key not in unfolded:
                    unfolded[key] = count(functions[key].node, (*calling, key), depth)
                total += unfolded[key]
            elif not (
                node.domain in _STANDARD or (node.domain == "com.microsoft" and node.op_type in _OF_MICROSOFT)
            ):
                raise WeightsError(
                    f"{role.name} calls {node.op_type[:60]!r} of {node.domain[:60]!r}, which is none of ONNX's "
                    "operators; export it with these alone"
                )
            for attribute in node.attribute:
                for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                    total += count(graph.node, calling, depth + 1)
            if total > MOST_NODES:
                raise role.damaged(f"it unfolds to more than {MOST_NODES:,} operators")
        return total

    count(model.graph.node, (), 0)
    for key, function in functions.items():
        count(function.node, (key,), 0)


def _check_tensors(model: Any, path: Path, role: FileRole) -> None:
    left = MOST_BYTES
    for tensor in _tensors(model.graph, [one.node for one in model.functions], role):
        if tensor.data_location == tensor.EXTERNAL:
            tensor.raw_data = _beside(tensor, path, left, role)
            del tensor.external_data[:]
            tensor.data_location = tensor.DEFAULT
        left -= len(tensor.raw_data)
        stored = max(
            len(tensor.raw_data),
            *(
                len(one)
                for one in (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
            ),
            *(len(one) for one in (tensor.uint64_data, tensor.string_data)),
        )
        # Two numbers of 4 bits share a byte.
        if any(side < 0 for side in tensor.dims) or math.prod(tensor.dims) > 2 * stored:
            raise role.damaged(
                f"its tensor {tensor.name[:60]!r} claims {'x'.join(map(str, tensor.dims))[:60]} numbers and holds "
                f"{stored:,} bytes or numbers"
            )


def _tensors(graph: Any, bodies: list[Any], role: FileRole) -> Iterator[Any]:
    waiting = [(graph.node, graph.initializer, graph.sparse_initializer), *((one, [], []) for one in bodies)]
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
                waiting += [(one.node, one.initializer, one.sparse_initializer) for one in graphs]


def _beside(tensor: Any, path: Path, left: int, role: FileRole) -> bytes:
    """The numbers of a tensor that lie in a file of the model's folder."""
    stated = {entry.key: entry.value for entry in tensor.external_data}
    name = stated.get("location", "")
    if not name or name != Path(name).name or name in (".", "..") or "\0" in name or "\\" in name:
        raise role.damaged(f"it looks for numbers in {name[:80]!r}, which is no file of its own folder")
    texts = (stated.get("offset", "0"), stated.get("length", "0"))
    if not all(text.isascii() and text.isdigit() and len(text) < 16 for text in texts):
        raise role.damaged(f"it looks for numbers at {texts[0]!r:.40} of {name[:80]!r}")
    offset, length = (int(text) for text in texts)
    # A link could lead to any file.
    place = os.open(path.parent / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(place, "rb") as file:
        found = os.fstat(place)
        length = length or found.st_size - offset
        if not stat.S_ISREG(found.st_mode) or length < 0 or offset + length > found.st_size or length > left:
            raise role.damaged(
                f"it looks for {length:,} bytes at {offset:,} of {name[:80]!r}, which has not so many"
            )
        file.seek(offset)
        return file.read(length)
