"""What all sections of a configuration have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, without unknown keys, and every number in it finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
