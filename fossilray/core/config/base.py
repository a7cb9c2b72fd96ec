"""Base class of configuration sections."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

KEPT_BACK = "kept_back"
"""Type of validation errors whose message must not repeat the value, which may hold a password."""


class Section(BaseModel):
    """A section of a configuration: frozen, without unknown keys."""

    # A value may hold a password by mistake; `load_config` repeats values of fields that cannot.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
