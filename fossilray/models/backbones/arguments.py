"""Names and arguments of networks that a file or a configuration may pass to timm.create_model, with their bounds.

The metadata of a backbone file are untrusted data. Arguments that are not listed here never reach timm: no paths of
checkpoints, no locations of weights, no hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fossilray.core.errors import WeightsError
from fossilray.core.formats.plain_values import ValueCheck, either, many, number, one_of, shown, whole
from fossilray.core.text import list_some

LARGEST_INPUT_PX = 4096

_SWITCH = one_of(True, False)
_SIDE = either(whole(1, LARGEST_INPUT_PX), many(whole(1, LARGEST_INPUT_PX), most=2))
_PATCH = either(whole(1, 256), many(whole(1, 256), most=2))
_RATE = number(0, 0.99)
_POOLS = ("", "token", "avg", "avgmax", "max", "catavgmax", "fast", "fastavg", "map", "prr")
_LAYERS = (
    "relu",
    "relu6",
    "leaky_relu",
    "gelu",
    "gelu_tanh",
    "quick_gelu",
    "silu",
    "swish",
    "mish",
    "elu",
    "celu",
)
_NORMS = (
    "layernorm",
    "layernorm2d",
    "batchnorm",
    "batchnorm2d",
    "groupnorm",
    "groupnorm1",
    "rmsnorm",
    "rmsnorm2d",
)


def _each(check: ValueCheck) -> ValueCheck:
    """Return a check for one value, or one for each stage."""
    return either(check, many(check, most=8))


ARGUMENTS: Mapping[str, ValueCheck] = {
    "num_classes": whole(0, 100_000),
    "in_chans": one_of(3),
    "img_size": _SIDE,
    "patch_size": _PATCH,
    "window_size": either(one_of(None), _each(whole(1, 256))),
    "strict_img_size": _SWITCH,
    "dynamic_img_size": _SWITCH,
    "dynamic_img_pad": _SWITCH,
    "global_pool": one_of(*_POOLS),
    "depth": whole(1, 100),
    "depths": many(whole(1, 100), most=8),
    "layers": many(whole(1, 100), most=8),
    "embed_dim": _each(whole(1, 8192)),
    "channels": many(whole(1, 8192), most=8),
    "dims": many(whole(1, 8192), most=8),
    "embed_dims": many(whole(1, 8192), most=8),
    "mlp_ratios": many(number(0.01, 16), most=8),
    "norm_eps": either(one_of(None), number(1e-12, 1)),
    "head_hidden_size": either(one_of(None), whole(1, 16_384)),
    "layer_scale_init_value": either(one_of(None), number(0, 100)),
    "num_heads": _each(whole(1, 256)),
    "mlp_ratio": _each(number(0.01, 16)),
    "cardinality": whole(1, 1024),
    "base_width": whole(1, 1024),
    "stem_width": whole(1, 1024),
    "stem_type": one_of("", "deep", "deep_tiered"),
    "output_stride": one_of(8, 16, 32),
    "avg_down": _SWITCH,
    "class_token": _SWITCH,
    "no_embed_class": _SWITCH,
    "reg_tokens": whole(0, 256),
    "pos_embed": one_of("", "none", "learn"),
    "init_values": either(one_of(None), number(0, 100)),
    "ls_init_value": either(one_of(None), number(0, 100)),
    "qkv_bias": _SWITCH,
    "qk_norm": _SWITCH,
    "proj_bias": _SWITCH,
    "pre_norm": _SWITCH,
    "final_norm": _SWITCH,
    "fc_norm": either(one_of(None), _SWITCH),
    "use_fc_norm": _SWITCH,
    "act_layer": one_of(*_LAYERS),
    "norm_layer": one_of(*_NORMS),
    "zero_init_last": _SWITCH,
    "weight_init": one_of("", "jax", "jax_nlhb", "moco", "reset"),
    **dict.fromkeys(
        ("drop_rate", "drop_path_rate", "drop_block_rate", "pos_drop_rate", "patch_drop_rate"), _RATE
    ),
    **dict.fromkeys(("proj_drop_rate", "attn_drop_rate"), _RATE),
}

_NAME = re.compile(r"[a-z0-9_]{2,100}(\.[a-z0-9_]{1,100})?", re.IGNORECASE)


def check_name(name: str) -> None:
    """Refuse names that are not networks of timm; a tag of weights may follow after a dot.

    Raises:
        WeightsError: the name is unknown; hub addresses and folders, which timm accepts too, are refused.
    """
    import timm

    bare = name.split(".", maxsplit=1)[0]
    known = _NAME.fullmatch(name) is not None and timm.is_model(bare)
    if not known or not timm.model_entrypoint(bare).__module__.startswith("timm.models."):
        raise WeightsError(
            f"{shown(name)} is no network of timm; give embedder.architecture or timm:<name> one of timm.list_models()"
        )


def check_arguments(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments if each of them is known and within its bounds.

    Raises:
        WeightsError: an argument is unknown or out of bounds.
    """
    if unknown := sorted(shown(key) for key in kwargs if key not in ARGUMENTS):
        raise WeightsError(
            f"{name} has the unknown arguments {list_some(unknown)}; remove them from the file's metadata or from "
            f"arch_kwargs (known are {', '.join(sorted(ARGUMENTS))})"
        )
    for argument, value in kwargs.items():
        if not ARGUMENTS[argument](value):
            raise WeightsError(
                f"{name} has the argument {argument}={shown(value)}, which is out of bounds; correct the file's "
                "metadata, or arch_kwargs"
            )
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
