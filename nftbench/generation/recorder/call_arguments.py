"""The arguments of a network call, nested as they come: what belongs to an image, what to the whole call.

A pipeline hands its network tensors, lists of tensors and dicts of both. Which of them hold one row an image is seen by
calling for one image and then for two of the same prompt: what doubled is the images', what stayed is shared.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from rewards.base import ConfigError

Kind = Literal["image", "shared", "absent"] | Mapping[str, Any] | Sequence[Any]
"""What a value is: one row an image, the same for all, None; or the kinds of its parts."""


def same(a: Any, b: Any, *, tolerance: float = 0.0) -> bool:
    """Whether two nested values are equal, up to `tolerance` of the largest number of each tensor."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or torch.equal(a, b) or not tolerance:
            return torch.equal(a, b)
        return bool((a - b).abs().max() <= tolerance * a.abs().max()) and a.is_floating_point()
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k], tolerance=tolerance) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        parts = zip(a, b, strict=False)
        return len(a) == len(b) and all(same(v, w, tolerance=tolerance) for v, w in parts)
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)


def convert(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A nested value with every tensor passed through `function`, in containers of its own."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {k: convert(v, function) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(convert(v, function) for v in value)
    return value


def count(value: Any) -> int | None:
    """Rows of a tensor or list; None where there is no such thing."""
    if isinstance(value, Tensor):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def flat(value: Any) -> Tensor | None:
    """The numbers of each image, (N, n); None for anything else.

    Args:
        value: a tensor (N, ...), a list of N tensors, or of N lists that hold one tensor each, however deep.
    """
    if isinstance(value, Tensor) and value.ndim:
        return value.reshape(len(value), -1)
    if isinstance(value, list | tuple) and value:
        rows = [unwrapped(v)[0] for v in value]
        if all(isinstance(row, Tensor) for row in rows) and len({r.numel() for r in rows}) == 1:
            return torch.stack([row.reshape(-1) for row in rows])
    return None


def unwrapped(row: Any) -> tuple[Any, int]:
    """What lists of one entry hold, and how many there are around it."""
    depth = 0
    while isinstance(row, list | tuple) and len(row) == 1:
        row, depth = row[0], depth + 1
    return row, depth


def wrapped(row: Any, depth: int) -> Any:
    """The inverse of `unwrapped`."""
    return row if depth == 0 else [wrapped(row, depth - 1)]


def kind_of(name: str, one: Any, two: Any, mixed: Any) -> Kind:
    """Whether a value of a call belongs to an image.

    Args:
        name: the argument, for the error.
        one: its value in a call for one image.
        two: in a call for two images of that prompt.
        mixed: in a call for this prompt and a longer one, where a padding mask may appear that was None before.

    Raises:
        ConfigError: it changed from one to two images, but not by one row an image.
    """
    if one is None and two is None:
        return "image" if count(mixed) == 2 else "absent"
    if (count(one), count(two)) == (1, 2) and _same_rows(one, two):
        return "image"
    if isinstance(one, Mapping) and isinstance(two, Mapping) and one.keys() == two.keys():
        return {k: kind_of(f"{name}[{k!r}]", one[k], two[k], mixed[k]) for k in one}
    if isinstance(one, list | tuple) and count(one) == count(two) == count(mixed):
        parts = zip(one, two, mixed, strict=True)
        return [kind_of(f"{name}[{i}]", *part) for i, part in enumerate(parts)]
    if same(one, two):
        return "shared"
    if not isinstance(one, Tensor | Mapping | list | tuple | str | int | float | None):
        raise ConfigError(
            f"argument {name} of the network is a {type(one).__name__}; expected tensors, numbers, or lists and dicts "
            "of them; this pipeline cannot be trained through its record"
        )
    raise ConfigError(
        f"argument {name} of the network was {shown(one)} for one image and {shown(two)} for two of the same prompt; "
        "expected one row an image, or no change; this pipeline cannot be trained through its record"
    )


def _same_rows(one: Any, two: Any) -> bool:
    """Whether tensors have rows of one shape; lists may have any."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape[1:] == two.shape[1:]
    return isinstance(one, list | tuple) and isinstance(two, list | tuple)


def take(value: Any, kind: Kind, images: Tensor, *, of: int) -> Any:
    """The part of a nested value that some images need.

    Args:
        value: of a call for `of` images.
        kind: what `kind_of` said of it.
        images: long (B,) in [0, of), any order, repeats allowed.
        of: images of the call; a value with fewer rows has one a prompt, and images go prompt by prompt.

    Returns:
        The same nesting with B rows where it belongs to images; what is shared is not copied.
    """
    if value is None or kind in ("shared", "absent"):
        return value
    if isinstance(kind, Mapping):
        return {k: take(v, kind[k], images, of=of) for k, v in value.items()}
    if kind != "image":
        parts = zip(value, kind, strict=True)
        return type(value)(take(v, k, images, of=of) for v, k in parts)
    assert of % len(value) == 0, f"{len(value)} rows cannot be shared by {of} images"
    rows = images * len(value) // of
    if isinstance(value, Tensor):
        return value[rows.to(value.device)]
    return type(value)(value[i] for i in rows.tolist())


def refuse_new(name: str, value: Any, kind: Kind) -> None:
    """Refuse a value that was None whenever the pipeline was watched, so that nobody knows whose it is."""
    if isinstance(kind, Mapping):
        for k, v in value.items():
            refuse_new(f"{name}[{k!r}]", v, kind[k])
    elif not isinstance(kind, str):
        for i, (v, k) in enumerate(zip(value, kind, strict=True)):
            refuse_new(f"{name}[{i}]", v, k)
    elif kind == "absent" and value is not None:
        raise ConfigError(
            f"argument {name} of the network is {shown(value)}, but was None while the pipeline was watched; "
            "watch it with the same sampling arguments"
        )


def shown(value: Any) -> str:
    """A nested value in a few words, for errors."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"{len(value)} x {shown(value[0])}" if value else "an empty list"
    return repr(value) if isinstance(value, int | float | str | None) else type(value).__name__
