"""Text encoders that are asked each text once, and leave the device's memory while images are drawn.

Nothing is known of a pipeline but that text encoders are networks of transformers which are given token ids. What they
answered is kept row by row; a drawing that is stopped at the denoiser's first call has had all its texts encoded.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import wraps
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from transformers import PreTrainedModel

from nftbench.benchmark.samples import Sample
from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.sampling import generate
from nftbench.generation.settings.effective import Effective
from nftbench.generation.settings.probe import networks_of

BUDGET = {"rows": 4 * 2**30, "calls": 64 * 2**20}
"""Bytes of answers that are kept at once, in the host's memory."""
PLAIN = (str, int, float, bool, type(None))
Remembered = Literal["rows", "calls"]


class _Reached(Exception):
    """The denoiser was called: all texts of the drawing are encoded."""


class RememberedTexts(AbstractContextManager):
    """A pipeline whose text encoders are not asked twice, for the length of the block.

    They are frozen and draw nothing at random: what a whole call is answered is always the same; what a text of it is
    answered is the same in any batch up to rounding, which moves a few pixels by one grey level.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        *,
        park: bool | None = None,
        remembered: Remembered | None = None,
        stay_away: bool = False,
    ) -> None:
        """Nothing is changed before the block begins.

        Args:
            pipeline: any.
            park: whether encoders leave the device's memory between two uses; None where there is one to leave.
            remembered: `rows`, each distinct text is encoded once; `calls`, only the very same call is not made again.
                None is `rows` where encoders leave, else `calls`, which moves no byte.
            stay_away: whether encoders that left stay away behind the block, until they are called.
        """
        self.pipeline, self._stay_away = pipeline, stay_away
        self._encoders = {n: m for n, m in pipeline.components.items() if is_encoder(n, m)}
        self._answers: dict[tuple[str, str], Any] = {}
        self._bytes = 0
        self._own: dict[str, Any] = {}
        parking = _can_leave(pipeline) if park is None else park
        self._parked = [Parked(m) for m in self._encoders.values()] if parking else []
        self._kind: Remembered = remembered or ("rows" if parking else "calls")

    def __enter__(self) -> "RememberedTexts":
        for name, encoder in self._encoders.items():
            self._own[name] = vars(encoder).get("forward")
            encoder.forward = self._remembering(name, _in_own_precision(encoder.forward))
        return self

    def __exit__(self, *_: object) -> None:
        for name, encoder in self._encoders.items():
            _restore(encoder, self._own[name])
        if not self._stay_away:
            for parked in self._parked:
                parked.end()
        self._forget()

    def ahead(
        self,
        batches: Iterable[tuple[int, list[Sample]]],
        parameters: SamplingParameters | Effective,
    ) -> Iterator[tuple[int, list[Sample]]]:
        """The batches, the texts of as many as may be kept encoded before the first of them is drawn.

        Args:
            batches: numbered.
            parameters: how they will be drawn.
        """
        if not self._parked:
            yield from batches
            return
        waiting = []
        for number, batch in batches:
            self.encode(batch, parameters)
            waiting.append((number, batch))
            if self._bytes >= BUDGET[self._kind]:
                yield from self._drawn_without_encoders(waiting)
                waiting.clear()
        yield from self._drawn_without_encoders(waiting)

    def encode(self, batch: Sequence[Sample], parameters: SamplingParameters | Effective) -> None:
        """Encode the texts of a batch: draw it, and stop when the denoiser is called."""
        alone = getattr(parameters, "one_by_one", False)
        for part in [[s] for s in batch] if alone else [list(batch)]:
            with suppress(_Reached), _stopped_at_denoiser(self.pipeline):
                generate(self.pipeline, part, parameters)

    def _drawn_without_encoders(
        self, waiting: Iterable[tuple[int, list[Sample]]]
    ) -> Iterator[tuple[int, list[Sample]]]:
        for parked in self._parked:
            parked.leave()
        yield from waiting
        self._forget()

    def _forget(self) -> None:
        self._answers.clear()
        self._bytes = 0

    # --- answers --------------------------------------------------------------------------------------

    def _remembering(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def remembered(*args: Any, **kwargs: Any) -> Any:
            by_row = self._kind == "rows"
            keys = _keys(args, kwargs, by_row=by_row)
            if keys is None:
                return forward(*args, **kwargs)
            if not self._parked and self._bytes >= BUDGET[self._kind]:
                self._forget()
            wanted = [(name, k) for k in keys]
            new = [w for w in dict.fromkeys(wanted) if w not in self._answers]
            if new and by_row:
                places = torch.tensor([wanted.index(w) for w in new])
                answer = forward(*_rows(args, places), **_rows(kwargs, places))
                if not _has_rows(answer, len(new)):
                    return forward(*args, **kwargs)
                self._keep(new, [_rows(answer, torch.tensor([i])) for i in range(len(new))])
            elif new:
                self._keep(new, [forward(*args, **kwargs)])
            return _joined([self._answers[w] for w in wanted], _device_of((args, kwargs)))

        return remembered

    def _keep(self, keys: Sequence[tuple[str, str]], answers: Sequence[Any]) -> None:
        for key, answer in zip(keys, answers, strict=True):
            self._answers[key] = kept = _host(answer)
            self._bytes += sum(t.numel() * t.element_size() for t in _tensors(kept))


class Parked:
    """A network that can leave its device's memory, and comes back by itself when it, or a part of it, is called.

    While it is away its weights are views of one NaN, of the right shape, on the right device: what a pipeline asks of
    them is answered as before, and what would compute with them by another way gives no image, never a wrong one.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network, self._away = network, []
        self._own = vars(network).get("forward")
        network.forward = self._with_weights(network.forward)
        parts = [m for m in network.modules() if m is not network]
        self._hooks = [m.register_forward_pre_hook(lambda *_: self.back()) for m in parts]
        self._hooks.append(network.register_state_dict_pre_hook(lambda *_: self.back()))

    def _with_weights(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            self.back()
            return forward(*args, **kwargs)

        return called

    def leave(self) -> None:
        """Move the weights to the host's memory; those of a quantised network stay where they are."""
        if self._away:
            return
        for weight in self._network.parameters():
            if type(weight) is nn.Parameter and weight.is_floating_point():
                self._away.append((weight, weight.data.cpu(), weight.device))
                nothing = torch.full((), torch.nan, dtype=weight.dtype, device=weight.device)
                weight.data = nothing.expand(weight.shape)

    def back(self) -> None:
        """Move the weights back to their device."""
        while self._away:
            weight, data, device = self._away.pop()
            weight.data = data.to(device)

    def end(self) -> None:
        """Bring the weights back, and stop watching."""
        self.back()
        _restore(self._network, self._own)
        for hook in self._hooks:
            hook.remove()


def _restore(network: nn.Module, own: Callable[..., Any] | None) -> None:
    """Give a network back the forward pass that it had; None is that of its class."""
    del network.forward
    if own is not None:
        network.forward = own


def _in_own_precision(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Without automatic mixed precision: float32 weights that are run in float16 overflow where halved ones do not."""

    @wraps(forward)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(_device_of((args, kwargs)).type, enabled=False):
            return forward(*args, **kwargs)

    return plain


def is_encoder(name: str, part: Any) -> bool:
    """Whether a part of a pipeline reads text; one of transformers that is given images is never asked twice anyway."""
    return isinstance(part, PreTrainedModel) or (
        isinstance(part, nn.Module) and name.startswith("text_encoder")
    )


def _can_leave(pipeline: DiffusionPipeline) -> bool:
    """Whether the pipeline is on a device with a memory of its own, and nothing else moves its parts about."""
    parts = [p for p in pipeline.components.values() if isinstance(p, nn.Module)]
    moved = any(hasattr(part, "_hf_hook") for part in parts)
    return pipeline.device.type not in ("cpu", "meta") and not moved


@contextmanager
def _stopped_at_denoiser(pipeline: DiffusionPipeline) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Reached

    hooks = [n.register_forward_pre_hook(stop) for n in networks_of(pipeline).values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _keys(args: tuple, kwargs: Mapping[str, Any], *, by_row: bool) -> list[str] | None:
    """What tells each row of a call, or all of it, from others; None where it is not one for token ids, row by row."""
    given = [*args, *kwargs.values()]
    tensors = [v for v in given if isinstance(v, Tensor)]
    plain = all(isinstance(v, (Tensor, *PLAIN)) for v in given)
    if not plain or not tensors or tensors[0].is_floating_point() or tensors[0].ndim == 0:
        return None
    if any(t.ndim == 0 or len(t) != len(tensors[0]) for t in tensors):
        return None
    how = repr([[k, v] for k, v in kwargs.items() if not isinstance(v, Tensor)])
    how += repr([v for v in args if not isinstance(v, Tensor)])
    rows = zip(*tensors, strict=True) if by_row else [tensors]
    return [_digest(how, row) for row in rows]


def _digest(how: str, tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256(how.encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --- nested answers -------------------------------------------------------------------------------


def _rows(value: Any, places: Tensor) -> Any:
    """Rows of every tensor in nested arguments."""
    return _mapped(value, lambda t: t[places.to(t.device)])


def _host(value: Any) -> Any:
    """The same in the host's memory, without what is no tensor: a cache of keys and values is never asked for again."""
    return _mapped(value, lambda t: t.detach().cpu(), keep=PLAIN)


def _mapped(value: Any, change: Callable[[Tensor], Tensor], keep: Any = object) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        inner = {k: _mapped(v, change, keep) for k, v in value.items()}
        return inner if type(value) is dict else type(value)(**inner)
    if isinstance(value, tuple | list):
        return type(value)(_mapped(v, change, keep) for v in value)
    return value if isinstance(value, keep) else None


def _joined(values: Sequence[Any], device: torch.device) -> Any:
    """Answers to single rows as the answer to all of them."""
    first = values[0]
    if isinstance(first, Tensor):  # never the kept one itself: a pipeline may change what it gets
        return (torch.cat(list(values)) if first.ndim else first.clone()).to(device)
    if isinstance(first, Mapping):
        inner = {k: _joined([v[k] for v in values], device) for k in first}
        return inner if type(first) is dict else type(first)(**inner)
    if isinstance(first, tuple | list):
        return type(first)(_joined(row, device) for row in zip(*values, strict=True))
    return first


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, tuple | list) else []


def _has_rows(value: Any, count: int) -> bool:
    """Whether every tensor of an answer has one row a text."""
    found = _tensors(value)
    return bool(found) and all(t.ndim and len(t) == count for t in found)


def _device_of(value: Any) -> torch.device:
    args, kwargs = value
    found = (v.device for v in [*args, *kwargs.values()] if isinstance(v, Tensor))
    return next(found, torch.device("cpu"))
