"""The TOML of a head-to-head, every field of it known before the first run."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
)

from nftbench.benchmark.faults import in_words
from rewards.base import ConfigError


class Fields(BaseModel):
    """Section `protocol` of the TOML."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    screen_images: int = Field(ge=1)
    screen_seed: int = Field(ge=0)
    confirm_images: int = Field(ge=1)
    confirm_seeds: list[Annotated[int, Field(ge=0)]]
    thresholds: list[FiniteFloat] = Field(min_length=1)
    benchmark: str
    metric: str
    every_images: int = Field(ge=1)
    validation: list[str]
    common: list[str]

    @field_validator("thresholds")
    @classmethod
    def _rising(cls, value: list[float]) -> list[float]:
        if sorted(set(value)) != value:
            raise ValueError("expected rising thresholds, for a run ends at the last")
        return value


class Side(BaseModel):
    """Section `sides.NAME`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    recipe: str
    settings: list[list[str]]
    first_stage: bool = False


class Whole(BaseModel):
    """The TOML."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    protocol: Fields
    sides: dict[str, Side]


def read_protocol(path: Path) -> dict[str, Any]:
    """The protocol of a file, every field of it known.

    Raises:
        ConfigError: no such file, no TOML, or a field that is missing, unknown or out of range.
    """
    try:
        found = Whole.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is no protocol: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {in_words(error)}") from None
    return found.model_dump()
