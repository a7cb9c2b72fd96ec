"""What every section of a configuration shares."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

KEPT_BACK = "kept_back"
"""Type of faults whose message does not repeat what was given."""


class Section(BaseModel):
    """What every section shares: frozen, strict about keys."""

    # What was given may hold a password, by mistake; `load_config` repeats it where that cannot be.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
