"""Layers that the architecture of a detector may contain, and the bounds of their arguments.

The architecture comes from a weight file and is untrusted data. Layers that are not listed here are never built, and
ultralytics receives no other names, no text that it would evaluate or look up, and no paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fossilray.core.errors import WeightsError
from fossilray.core.formats.plain_values import ValueCheck, either, many, number, one_of, shown, whole

if TYPE_CHECKING:
    import torch

DETECTION_HEADS = frozenset({"Detect", "v10Detect"})
_MAX_ROWS = 400
_MAX_REPEATS = 64
_MAX_TOTAL_REPEATS = 800
_MAX_CLASSES = 10_000
_MAX_CHANNELS = 16_384

_SWITCH = one_of(True, False)
_CHANNELS = whole(1, _MAX_CHANNELS)
_KERNEL = either(whole(1, 63), many(whole(1, 63), most=2))
_STEP = either(whole(1, 16), many(whole(1, 16), most=2))
_PAD = either(one_of(None), whole(0, 31))
_GROUPS = whole(1, _MAX_CHANNELS)
_DILATION = whole(1, 32)
_SHARE = number(0.01, 8)
_FEW = whole(1, 64)

_BLOCK = (_CHANNELS, _SWITCH, _GROUPS, _SHARE)
LAYERS: Mapping[str, tuple[ValueCheck, ...]] = {
    "Conv": (_CHANNELS, _KERNEL, _STEP, _PAD, _GROUPS, _DILATION, _SWITCH),
    "DWConv": (_CHANNELS, _KERNEL, _STEP, _DILATION, _SWITCH),
    "ConvTranspose": (_CHANNELS, _KERNEL, _STEP, _PAD, _SWITCH, _SWITCH),
    "GhostConv": (_CHANNELS, _KERNEL, _STEP, _GROUPS, _SWITCH),
    "Focus": (_CHANNELS, _KERNEL, _STEP, _PAD, _GROUPS, _SWITCH),
    "RepConv": (_CHANNELS, _CHANNELS, _KERNEL, _STEP, _PAD, _GROUPS, _DILATION, _SWITCH, _SWITCH),
    "LightConv": (_CHANNELS, _CHANNELS, _KERNEL),
    "Bottleneck": (_CHANNELS, _SWITCH, _GROUPS, many(_KERNEL, most=2), _SHARE),
    "GhostBottleneck": (_CHANNELS, _KERNEL, _STEP),
    "BottleneckCSP": _BLOCK,
    "C1": (_CHANNELS,),
    "C2": _BLOCK,
    "C2f": _BLOCK,
    "C3": _BLOCK,
    "C3TR": _BLOCK,
    "C3Ghost": _BLOCK,
    "C3x": _BLOCK,
    "C3k2": (_CHANNELS, _SWITCH, _SHARE, _SWITCH, _GROUPS, _SWITCH),
    "C2fCIB": (_CHANNELS, _SWITCH, _SWITCH, _GROUPS, _SHARE),
    "A2C2f": (_CHANNELS, _SWITCH, whole(-1, 64), _SWITCH, _SHARE, _SHARE, _GROUPS, _SWITCH),
    "C2PSA": (_CHANNELS, _SHARE),
    "C2fPSA": (_CHANNELS, _SHARE),
    "PSA": (_CHANNELS, _SHARE),
    "RepC3": (_CHANNELS, _SHARE),
    "RepNCSPELAN4": (_CHANNELS, _CHANNELS, _CHANNELS, _FEW),
    "ELAN1": (_CHANNELS, _CHANNELS, _CHANNELS),
    "SPPELAN": (_CHANNELS, _CHANNELS, _KERNEL),
    "SPP": (_CHANNELS, many(whole(1, 63), most=8)),
    "SPPF": (_CHANNELS, whole(1, 63), _FEW, _SWITCH),
    "ADown": (_CHANNELS,),
    "AConv": (_CHANNELS,),
    "SCDown": (_CHANNELS, _KERNEL, _STEP),
    "DWConvTranspose2d": (_CHANNELS, _KERNEL, _STEP, whole(0, 31), whole(0, 31)),
    "HGStem": (_CHANNELS, _CHANNELS),
    "HGBlock": (_CHANNELS, _CHANNELS, _KERNEL, _SWITCH, _SWITCH),
    "ResNetLayer": (_CHANNELS, _CHANNELS, _STEP, _SWITCH, _FEW, _FEW),
    "AIFI": (_CHANNELS, _FEW),
    "CBAM": (_CHANNELS, one_of(3, 7)),
    "ChannelAttention": (_CHANNELS,),
    "SpatialAttention": (one_of(3, 7),),
    "CBLinear": (many(_CHANNELS, most=16), _KERNEL, _STEP, _PAD, _GROUPS),
    "CBFuse": (many(whole(0, 63), most=16),),
    "Concat": (one_of(1),),
    "nn.Identity": (),
    "nn.Upsample": (one_of(None), number(1, 8), one_of("nearest", "bilinear", "bicubic")),
    "nn.MaxPool2d": (_KERNEL, _STEP, whole(0, 31)),
    "nn.AvgPool2d": (_KERNEL, _STEP, whole(0, 31)),
    "nn.ZeroPad2d": (either(whole(0, 31), many(whole(0, 31), most=4)),),
    "nn.Conv2d": (_CHANNELS, _CHANNELS, _KERNEL, _STEP, whole(0, 31), _DILATION, _GROUPS, _SWITCH),
    "nn.ConvTranspose2d": (_CHANNELS, _KERNEL, _STEP, whole(0, 31)),
    "nn.BatchNorm2d": (_CHANNELS,),
    **{f"nn.{name}": (_SWITCH,) for name in ("SiLU", "ReLU", "ReLU6", "Hardswish", "Mish", "SELU")},
    **dict.fromkeys(("Detect", "v10Detect"), (whole(1, _MAX_CLASSES),)),
}
"""Arguments in the order of ultralytics' YAML; trailing ones are optional."""

_ACTIVATION = re.compile(r"(?:torch\.)?nn\.(\w+)\(((?:inplace=)?(?:True|False)|[\w.]*=?-?\d+(?:\.\d+)?)?\)")
_SLOPED = frozenset({"LeakyReLU", "ELU", "CELU"})
_PLAIN = frozenset(
    {
        "SiLU",
        "ReLU",
        "ReLU6",
        "Hardswish",
        "Hardsigmoid",
        "Mish",
        "SELU",
        "GELU",
        "Sigmoid",
        "Tanh",
        "Identity",
    }
)
_WRITTEN = {"None": None, "True": True, "False": False}
"""Values that ultralytics' YAML writes as text."""


def check_description(described: Mapping[str, Any], *, nc: int, source: str) -> dict[str, Any]:
    """Return a copy of the architecture, in ultralytics' form, that contains only known layers within their bounds.

    Raises:
        WeightsError: a layer or a value is unknown, or the network is not a detector of RGB images.
    """
    last = _listed(described, "head", source)[-1][2]
    if not isinstance(last, str) or last not in DETECTION_HEADS:
        raise WeightsError(
            f"{source}: its head is {shown(last)}, not a detection head "
            f"({', '.join(sorted(DETECTION_HEADS))}); give the weights of a detection model"
        )
    backbone = _rows(described, "backbone", 0, nc=nc, source=source)
    head = _rows(described, "head", len(backbone), nc=nc, source=source)
    for _, _, name, _ in [*backbone, *head[:-1]]:
        if name in DETECTION_HEADS:
            raise WeightsError(
                f"{source}: its architecture has a head {name!r} before its end; train it again"
            )
    if described.get("channels", described.get("ch", 3)) != 3:
        raise WeightsError(
            f"{source}: the network does not take RGB images; give the weights of one that does"
        )
    repeats = sum(row[1] for row in (*backbone, *head))
    if len(backbone) + len(head) > _MAX_ROWS or repeats > _MAX_TOTAL_REPEATS:
        raise WeightsError(
            f"{source}: its architecture has {len(backbone) + len(head)} layers, {repeats} with repeats, more than the "
            f"limits of {_MAX_ROWS} and {_MAX_TOTAL_REPEATS}; train it again"
        )
    plain = {"nc": nc, "backbone": backbone, "head": head, **_scale(described, source)}
    for name, check in (("end2end", one_of(None, True, False)), ("reg_max", whole(1, 64))):
        if name in described:
            plain[name] = _checked(described[name], check, name, source)
    return plain


def activation_of(described: Mapping[str, Any], *, source: str) -> torch.nn.Module | None:
    """Return the layer that `activation` of the architecture names, or None; the text is never evaluated.

    Raises:
        WeightsError: the activation is unknown.
    """
    import torch

    stated = described.get("activation")
    if not stated:
        return None
    match = _ACTIVATION.fullmatch(stated) if isinstance(stated, str) and len(stated) < 80 else None
    kinds: Mapping[str, type[torch.nn.Module]] = {
        kind.__name__: kind
        for kind in (
            torch.nn.SiLU,
            torch.nn.ReLU,
            torch.nn.ReLU6,
            torch.nn.Hardswish,
            torch.nn.Hardsigmoid,
            torch.nn.Mish,
            torch.nn.SELU,
            torch.nn.GELU,
            torch.nn.Sigmoid,
            torch.nn.Tanh,
            torch.nn.Identity,
            torch.nn.LeakyReLU,
            torch.nn.ELU,
            torch.nn.CELU,
        )
    }
    argument = match.group(2) or "" if match else ""
    if match and match.group(1) in _PLAIN and argument.rpartition("=")[2] in ("", "True", "False"):
        return kinds[match.group(1)]()
    if match and match.group(1) in _SLOPED:
        text = argument.rpartition("=")[2]
        slope = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
        if slope is None or slope <= 10:
            return kinds[match.group(1)]() if slope is None else kinds[match.group(1)](slope)
    raise WeightsError(
        f"{source}: activation {shown(stated)} is not a known torch.nn layer "
        f"({', '.join(sorted(kinds))}); train it again with one of these, or export it to .onnx"
    )


def _scale(described: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return depth, width and maximum channels of the network's size in ultralytics' form."""
    scales, scale = described.get("scales"), described.get("scale")
    depth, width = number(0.01, 8), number(0.01, 8)
    if not scales:
        names = ("depth_multiple", "width_multiple")
        return {name: _checked(described[name], depth, name, source) for name in names if name in described}
    if not isinstance(scales, Mapping):
        raise WeightsError(f"{source}: its scales are {shown(scales)}, not a table of sizes; train it again")
    scale = scale or next(iter(scales))
    if not isinstance(scale, str) or not re.fullmatch(r"[a-z0-9]{1,8}", scale) or scale not in scales:
        raise WeightsError(f"{source}: its scale is {shown(scale)}, not one of its scales; train it again")
    size = scales[scale]
    if not isinstance(size, (list, tuple)) or len(size) != 3:
        raise WeightsError(
            f"{source}: scale {scale} is {shown(size)}, not depth, width and channels; train it again"
        )
    checks = (depth, width, number(1, _MAX_CHANNELS))
    sizes = [
        _checked(value, check, f"scale {scale}", source) for value, check in zip(size, checks, strict=True)
    ]
    return {"scale": scale, "scales": {scale: sizes}}


def _rows(described: Mapping[str, Any], part: str, before: int, *, nc: int, source: str) -> list[list[Any]]:
    rows = _listed(described, part, source)
    return [_row(row, before + number, nc=nc, source=source) for number, row in enumerate(rows)]


def _listed(described: Mapping[str, Any], part: str, source: str) -> Sequence[Sequence[Any]]:
    rows = described.get(part)
    if (
        not isinstance(rows, (list, tuple))
        or not 0 < len(rows) <= _MAX_ROWS
        or any(len(row) != 4 if isinstance(row, (list, tuple)) else True for row in rows)
    ):
        raise WeightsError(
            f"{source}: its architecture has no {part} as ultralytics writes it (at most {_MAX_ROWS} rows of from, "
            "number, module, arguments); give the weights of an ultralytics detection model"
        )
    return rows


def _row(row: Sequence[Any], number: int, *, nc: int, source: str) -> list[Any]:
    origin, repeats, name, arguments = row
    name = "nn.Identity" if name == "Silence" else name  # its old name in YOLOv9
    name = (
        f"nn.{name.removeprefix('torch.nn.')}"
        if isinstance(name, str) and name.startswith("torch.nn.")
        else name
    )
    if not isinstance(name, str) or name not in LAYERS:
        raise WeightsError(
            f"{source}: its architecture names the layer {shown(name)}, which is not a known layer; "
            "export the model to .onnx where it was trained and set detector.weights to that"
        )
    checks = LAYERS[name]
    if not isinstance(arguments, (list, tuple)) or len(arguments) > len(checks):
        raise WeightsError(
            f"{source}: layer {name!r} has the arguments {shown(arguments)}, and it takes at most {len(checks)} plain "
            "values; train it again"
        )
    given = [_plain(argument, name, nc) for argument in arguments]
    for argument, check in zip(given, checks, strict=False):
        _checked(argument, check, f"an argument of layer {number}, {name!r},", source)
    earlier = whole(-max(number, 1), max(number - 1, -1))
    _checked(origin, either(earlier, many(earlier, most=32)), f"the input of layer {number}", source)
    _checked(repeats, whole(1, _MAX_REPEATS), f"the number of repeats of layer {number}", source)
    return [list(origin) if isinstance(origin, (list, tuple)) else origin, repeats, name, given]


def _plain(argument: Any, name: str, nc: int) -> Any:
    if isinstance(argument, str):
        if argument == "nc" and name in DETECTION_HEADS:
            return nc
        return _WRITTEN.get(argument, argument)
    return list(argument) if isinstance(argument, (list, tuple)) else argument


def _checked(value: Any, check: ValueCheck, subject: str, source: str) -> Any:
    if not check(value):
        raise WeightsError(
            f"{source}: {subject} is {shown(value)}, which is out of bounds; "
            "train it again, or export it to .onnx and set detector.weights to that"
        )
    return value
