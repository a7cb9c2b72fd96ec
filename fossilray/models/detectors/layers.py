"""The layers that a detector's description may name, and the values that each of their arguments may have.

A description comes with a file of weights: it is data. What is not named here is not built, and ultralytics is given
nothing else: no names of its own, no text that it would evaluate or look up, no paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fossilray.core.errors import WeightsError
from fossilray.core.formats.plain_values import Check, either, many, number, one_of, shown, whole

if TYPE_CHECKING:
    import torch

DETECTION_HEADS = frozenset({"Detect", "v10Detect"})
MOST_ROWS = 400
MOST_REPEATS = 64
MOST_REPEATS_IN_ALL = 800
MOST_CLASSES = 10_000
MOST_CHANNELS = 16_384

_SWITCH = one_of(True, False)
_CHANNELS = whole(1, MOST_CHANNELS)
_KERNEL = either(whole(1, 63), many(whole(1, 63), most=2))
_STEP = either(whole(1, 16), many(whole(1, 16), most=2))
_PAD = either(one_of(None), whole(0, 31))
_GROUPS = whole(1, MOST_CHANNELS)
_DILATION = whole(1, 32)
_SHARE = number(0.01, 8)
_FEW = whole(1, 64)

_BLOCK = (_CHANNELS, _SWITCH, _GROUPS, _SHARE)
LAYERS: Mapping[str, tuple[Check, ...]] = {
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
    **dict.fromkeys(("Detect", "v10Detect"), (whole(1, MOST_CLASSES),)),
}
"""Arguments in the order of ultralytics' YAML: the last may be left out."""

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
"""Values as ultralytics' YAML writes them for text."""


def plain_description(described: Mapping[str, Any], *, nc: int, source: str) -> dict[str, Any]:
    """The description in ultralytics' form, made anew of nothing but what is known and within bounds.

    Raises:
        WeightsError: it names another layer or another value, or describes no detector of RGB images.
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
                f"{source}: its architecture has a head {name!r} before its end; train it anew"
            )
    if described.get("channels", described.get("ch", 3)) != 3:
        raise WeightsError(
            f"{source}: the network does not take RGB images; give the weights of one that does"
        )
    repeats = sum(row[1] for row in (*backbone, *head))
    if len(backbone) + len(head) > MOST_ROWS or repeats > MOST_REPEATS_IN_ALL:
        raise WeightsError(
            f"{source}: its architecture has {len(backbone) + len(head)} layers, {repeats} with repeats, and at most "
            f"{MOST_ROWS} and {MOST_REPEATS_IN_ALL} are built; train it anew"
        )
    plain = {"nc": nc, "backbone": backbone, "head": head, **_scale(described, source)}
    for name, check in (("end2end", one_of(None, True, False)), ("reg_max", whole(1, 64))):
        if name in described:
            plain[name] = _checked(described[name], check, name, source)
    return plain


def activation_of(described: Mapping[str, Any], *, source: str) -> torch.nn.Module | None:
    """The layer that the description's `activation` names; None where it names none. The text is not evaluated.

    Raises:
        WeightsError: it is none of the activations that are known.
    """
    import torch

    stated = described.get("activation")
    if not stated:
        return None
    found = _ACTIVATION.fullmatch(stated) if isinstance(stated, str) and len(stated) < 80 else None
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
    argument = found.group(2) or "" if found else ""
    if found and found.group(1) in _PLAIN and argument.rpartition("=")[2] in ("", "True", "False"):
        return kinds[found.group(1)]()
    if found and found.group(1) in _SLOPED:
        text = argument.rpartition("=")[2]
        slope = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
        if slope is None or slope <= 10:
            return kinds[found.group(1)]() if slope is None else kinds[found.group(1)](slope)
    raise WeightsError(
        f"{source}: activation {shown(stated)} is not a torch.nn layer that is known here "
        f"({', '.join(sorted(kinds))}); train it anew with one of these, or export it to .onnx"
    )


def _scale(described: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Depth, width and most channels of the size that is meant, as ultralytics is told them."""
    scales, scale = described.get("scales"), described.get("scale")
    depth, width = number(0.01, 8), number(0.01, 8)
    if not scales:
        names = ("depth_multiple", "width_multiple")
        return {name: _checked(described[name], depth, name, source) for name in names if name in described}
    if not isinstance(scales, Mapping):
        raise WeightsError(f"{source}: its scales are {shown(scales)}, not a table of sizes; train it anew")
    scale = scale or next(iter(scales))
    if not isinstance(scale, str) or not re.fullmatch(r"[a-z0-9]{1,8}", scale) or scale not in scales:
        raise WeightsError(f"{source}: its scale is {shown(scale)}, none of its scales; train it anew")
    size = scales[scale]
    if not isinstance(size, (list, tuple)) or len(size) != 3:
        raise WeightsError(
            f"{source}: scale {scale} is {shown(size)}, not depth, width and channels; train it anew"
        )
    checks = (depth, width, number(1, MOST_CHANNELS))
    sizes = [_checked(one, check, f"scale {scale}", source) for one, check in zip(size, checks, strict=True)]
    return {"scale": scale, "scales": {scale: sizes}}


def _rows(described: Mapping[str, Any], part: str, before: int, *, nc: int, source: str) -> list[list[Any]]:
    rows = _listed(described, part, source)
    return [_row(row, before + place, nc=nc, source=source) for place, row in enumerate(rows)]


def _listed(described: Mapping[str, Any], part: str, source: str) -> Sequence[Sequence[Any]]:
    rows = described.get(part)
    if (
        not isinstance(rows, (list, tuple))
        or not 0 < len(rows) <= MOST_ROWS
        or any(len(row) != 4 if isinstance(row, (list, tuple)) else True for row in rows)
    ):
        raise WeightsError(
            f"{source}: its architecture has no {part} as ultralytics writes it (at most {MOST_ROWS} rows of from, "
            "number, module, arguments); give the weights of an ultralytics detection model"
        )
    return rows


def _row(row: Sequence[Any], place: int, *, nc: int, source: str) -> list[Any]:
    origin, repeats, name, arguments = row
    name = "nn.Identity" if name == "Silence" else name  # YOLOv9's old name of it
    name = (
        f"nn.{name.removeprefix('torch.nn.')}"
        if isinstance(name, str) and name.startswith("torch.nn.")
        else name
    )
    if not isinstance(name, str) or name not in LAYERS:
        raise WeightsError(
            f"{source}: its architecture names the layer {shown(name)}, which no detection network here is built of; "
            "export the model to .onnx where it was trained and set detector.weights to that"
        )
    checks = LAYERS[name]
    if not isinstance(arguments, (list, tuple)) or len(arguments) > len(checks):
        raise WeightsError(
            f"{source}: layer {name!r} has the arguments {shown(arguments)}, and it takes {len(checks)} plain values "
            "at most; train it anew"
        )
    given = [_plain(argument, name, nc) for argument in arguments]
    for argument, check in zip(given, checks, strict=False):
        _checked(argument, check, f"an argument of layer {place}, {name!r},", source)
    earlier = whole(-max(place, 1), max(place - 1, -1))
    _checked(
        origin, either(earlier, many(earlier, most=32)), f"what layer {place} takes its input from", source
    )
    _checked(repeats, whole(1, MOST_REPEATS), f"the number of layers {place}", source)
    return [list(origin) if isinstance(origin, (list, tuple)) else origin, repeats, name, given]


def _plain(argument: Any, name: str, nc: int) -> Any:
    if isinstance(argument, str):
        if argument == "nc" and name in DETECTION_HEADS:
            return nc
        return _WRITTEN.get(argument, argument)
    return list(argument) if isinstance(argument, (list, tuple)) else argument


def _checked(value: Any, check: Check, what: str, source: str) -> Any:
    if not check(value):
        raise WeightsError(
            f"{source}: {what} is {shown(value)}, which is none of the values that its architecture may have there; "
            "train it anew, or export it to .onnx and set detector.weights to that"
        )
    return value
