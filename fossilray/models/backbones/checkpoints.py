"""State dicts from backbone files and other projects' checkpoints, read without executing code in the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fossilray.core.errors import WeightsError
from fossilray.core.formats.plain_values import shown
from fossilray.models.backbones.backbone_file import BackboneMeta, backbone_role
from fossilray.models.backbones.efficientnet_lite import to_timm_keys
from fossilray.models.files.open_weights import missing_weights
from fossilray.models.files.stored_pickle import ForeignName, StoredObject, TensorRecord, TorchFileError
from fossilray.models.files.tensors import MAX_NAME_LENGTH
from fossilray.models.files.torch_file import open_torch_file
from fossilray.models.weights_file import read_weights

if TYPE_CHECKING:
    import torch

_WRAPPERS = (
    "teacher",  # DINO, iBOT, SCAMPI: the average of the student, what the papers evaluate
    "state_dict_ema",  # timm's training script
    "model_ema",
    "state_dict",
    "model",
    "student",
    "backbone",
)
"""Keys under which training scripts store the weights, in order of preference."""

_MAX_WRAPPERS = 12
"""Maximum nesting around a state dict or of prefixes; training scripts nest three."""

_KNOWN_ORIGINS = ("collections.", "torch.", "numpy.", "pathlib.")
_KNOWN_NAMES = frozenset({"argparse.Namespace", "builtins.set", "builtins.slice", "_codecs.encode"})
"""Objects beside the weights in checkpoints of training scripts: settings, epochs, metrics, optimiser states."""

_PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.")
"""Prefixes that DistributedDataParallel, torch.compile and multi-crop wrappers add to every key."""


def read_backbone_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], BackboneMeta | None]:
    """Read the state dict of a .safetensors, .pth or .pt file; with its description if it is a backbone file.

    Tensors are on the CPU, floats as float32. No code that a pickle names is run.

    Raises:
        WeightsError: the file is missing, truncated, unsafe, or holds no state dict.
    """
    if path.suffix != ".safetensors":
        return to_timm_keys(_read_pickle(path)), None
    return read_weights(path, BackboneMeta, backbone_role(path))


def without_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove the prefixes of wrappers from a state dict; keys outside a wrapped backbone are dropped."""
    bare = dict(state)
    for _ in range(_MAX_WRAPPERS):
        is_wrapped = False
        for prefix in _PREFIXES:
            wrapped = {key.removeprefix(prefix): t for key, t in bare.items() if key.startswith(prefix)}
            if wrapped:
                bare, is_wrapped = wrapped, True
        if not is_wrapped:
            break
    return bare


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        with open_torch_file(path, is_known=_is_known) as file:
            records = _unwrap(file.content, path)
            return {name: file.tensor(record) for name, record in records.items()}
    except ForeignName as error:
        raise WeightsError(
            f"{path} contains more than tensors ({error.name[:100]}), and nothing in it was run; save its state dict "
            "alone: torch.save(model.state_dict(), …)"
        ) from None
    except FileNotFoundError:
        raise missing_weights(backbone_role(path)) from None
    except (TorchFileError, OSError) as error:
        raise WeightsError(
            f"{path} is truncated or not a PyTorch weight file ({error}); fetch or export it again"
        ) from None


def _is_known(name: str) -> bool:
    return name.startswith(_KNOWN_ORIGINS) or name in _KNOWN_NAMES


def _unwrap(loaded: Any, path: Path) -> dict[str, TensorRecord]:
    """Return the mapping of names to tensors in the object that a training script saved."""
    for _ in range(_MAX_WRAPPERS):
        keys = [key for key in _WRAPPERS if isinstance(loaded, dict) and isinstance(loaded.get(key), dict)]
        if not keys:
            break
        loaded = loaded[keys[0]]
    if not isinstance(loaded, dict):
        kind = loaded.name if isinstance(loaded, StoredObject) else type(loaded).__name__
        raise WeightsError(f"{path} holds a {kind[:100]}, not a state dict; save model.state_dict()")
    state = {str(key): value for key, value in loaded.items() if isinstance(value, TensorRecord)}
    if not state:
        keys = [shown(key) for key in list(loaded)[:5]]
        raise WeightsError(
            f"{path} holds no tensors but {', '.join(keys) or 'nothing'}; save model.state_dict()"
        )
    longest = max(map(len, state))
    if longest > MAX_NAME_LENGTH:
        raise WeightsError(
            f"{path} names a tensor by {longest:,} characters, more than {MAX_NAME_LENGTH}; save model.state_dict()"
        )
    return state
