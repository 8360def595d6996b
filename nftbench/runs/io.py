"""Files of a run: written whole or not at all, read whole or refused with the reason."""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
from PIL import Image, UnidentifiedImageError

from rewards.base import ConfigError


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a parquet file whole or not at all."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomic(path, buffer.getvalue())


def read_image(path: Path) -> np.ndarray:
    """Pixels of an image file, uint8 RGB (H, W, 3).

    Raises:
        OSError: absent, truncated or no image; the message says which.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise OSError(f"{path.name} is no image") from None
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{path.name} is broken: {error}") from None


def read_table(path: Path, *, remedy: str) -> pd.DataFrame:
    """A parquet file.

    Args:
        path: the file.
        remedy: what to do when it is missing or broken, such as `run: nftbench score RUN`.

    Raises:
        ConfigError: it is not there, or is not a whole parquet file.
    """
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing; {remedy}") from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{path} is broken: {error}; {remedy}") from None
