"""What all parts of a recipe refuse, whatever they hold."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

LEAST, MOST = 1.2e-38, 3.4e38
"""Ends of the sizes that float32 can hold in full."""


class Frozen(BaseModel):
    """A part of a recipe: no unknown key, and no value that would mean another one than was written."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for the number 1; who writes it means a switch, which most keys are not."""
        listed = value if isinstance(value, list | tuple) else [value]
        switches = any(isinstance(one, bool) for one in listed)
        if switches and "bool" not in str(cls.model_fields[str(info.field_name)]):
            raise ValueError("expected another value than true or false")
        return value

    @field_validator("*")
    @classmethod
    def _in_float32(cls, value: Any) -> Any:
        """The network counts in float32, where a larger number is endless and a smaller one nothing, without a word."""
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and number and not LEAST <= abs(number) <= MOST:
                raise ValueError(f"expected 0 or a number of float32, {LEAST:g} to {MOST:g}")
        return value
