"""State dicts out of other projects' weight files, read without running anything that the files contain."""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fossilray.embed.backbone_file import BackboneMeta, parse_meta
from fossilray.embed.efficientnet_lite import timm_names
from fossilray.errors import WeightsError

if TYPE_CHECKING:
    import torch

WRAPPERS = (
    "teacher",  # DINO, iBOT, SCAMPI: the average of the student, what the papers evaluate
    "state_dict_ema",  # timm's training script
    "model_ema",
    "state_dict",
    "model",
    "student",
    "backbone",
)
"""Keys under which training scripts keep the weights, best first."""

PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.")
"""What DistributedDataParallel, torch.compile and multi-crop wrappers put before every key."""


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], BackboneMeta | None]:
    """The state dict in a .safetensors, .pth or .pt file, and what it says of itself if it is one of ours.

    Tensors are on the CPU, floats as float32. Pickles are read with weights_only=True.

    Raises:
        WeightsError: the file is missing, truncated, unsafe, or holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"backbone weights {path} do not exist; set embedder.weights to file:<path>")
    if path.suffix == ".safetensors":
        state, meta = _read_safetensors(path)
    else:
        state, meta = timm_names(_unwrap(_read_pickle(path), path)), None
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}, meta


def read_meta(path: Path) -> BackboneMeta | None:
    """What a .safetensors file says of itself if it is one of ours; its tensors are not read.

    Raises:
        WeightsError: it is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            return parse_meta(path, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _not_whole(path, error) from None


def without_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict with wrappers' prefixes taken off; what lay beside a wrapped backbone is dropped."""
    bare = dict(state)
    found = True
    while found:
        found = False
        for prefix in PREFIXES:
            wrapped = {key.removeprefix(prefix): t for key, t in bare.items() if key.startswith(prefix)}
            if wrapped:
                bare, found = wrapped, True
    return bare


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], BackboneMeta | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            meta = parse_meta(path, file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _not_whole(path, error) from None


def _not_whole(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path} is not a whole safetensors file ({error}); fetch or export it again")


def _read_pickle(path: Path) -> Any:
    """Tensors and plain containers only; an argparse.Namespace, which DINO checkpoints carry, is harmless."""
    import torch

    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is no weight file or contains more than tensors, and nothing in it was run "
            f"({_first_line(error)}); save its state dict alone: torch.save(model.state_dict(), …)"
        ) from None
    # What torch raises on files cut short or made of something else depends on where the damage lies.
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        raise WeightsError(
            f"{path} is truncated or no PyTorch weight file ({_first_line(error)}); fetch or export it again"
        ) from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch's refusal opens with advice to load unsafely, which is not ours to give; the reason follows it.
    reasons = [line for line in lines if "Unsupported" in line or "GLOBAL" in line]
    return (reasons or lines or [type(error).__name__])[0][:200]


def _unwrap(loaded: Any, path: Path) -> dict[str, torch.Tensor]:
    """The mapping of names to tensors inside whatever a training script saved."""
    import torch

    while isinstance(loaded, Mapping):
        inner = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = loaded[inner]
    if not isinstance(loaded, Mapping):
        raise WeightsError(
            f"{path} holds a {type(loaded).__name__}, not a state dict; save model.state_dict()"
        )
    state = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not state:
        keys = ", ".join(str(key) for key in list(loaded)[:5]) or "nothing"
        raise WeightsError(f"{path} holds no tensors but {keys}; save model.state_dict()")
    return state
