"""Networks whose files lack weights, tokenizers whose files lack words: the libraries fill the gap, and go on.

Weights stay empty or become random numbers; a tokenizer reads every word as the unknown one.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nftbench.generation.sources.loading.leftovers import left_out, single_files_heard
from rewards.base import ConfigError

REPORTER = logging.getLogger("transformers.modeling_utils")
"""Prints transformers' own report of what it loaded."""


@contextmanager
def gaps_refused() -> Iterator[list[str]]:
    """Refuse, within the block, to load a network that lacks weights, or a tokenizer that lacks words.

    Of networks by the libraries' own report of what they loaded, which knows of tied, renamed, sharded and ignored
    names. The pipeline loads its parts itself, so their loaders are watched.

    Yields:
        What is to be said of weights that were left out; it grows within the block.
    """
    notes: list[str] = []
    watched = partial(_watched, notes=notes)
    with single_files_heard(notes), ExitStack() as undo:
        libraries: dict[Any, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
            ModelMixin: watched,
            PreTrainedModel: watched,
            PreTrainedTokenizerBase: _with_words,
        }
        for library, watch in libraries.items():
            original = library.__dict__["from_pretrained"]
            undo.callback(setattr, library, "from_pretrained", original)
            library.from_pretrained = classmethod(watch(original.__func__))
        yield notes


def _watched(load: Callable[..., Any], notes: list[str]) -> Callable[..., Any]:
    """A library's loader that refuses gaps, and notes what it left out."""

    def loaded(kind: type, source: Any, *args: Any, **kwargs: Any) -> Any:
        asked = kwargs.pop("output_loading_info", False)
        with _reported_unless_refused():
            network, report = load(kind, source, *args, output_loading_info=True, **kwargs)
            _refuse_gap(network, str(source), report)
            if getattr(network, "hf_quantizer", None) is None and source is not None:
                notes.extend(left_out(network, str(source), [*report["unexpected_keys"]]))
        return (network, report) if asked else network

    return loaded


def _with_words(load: Callable[..., Any]) -> Callable[..., Any]:
    """A loader of tokenizers that refuses one without a vocabulary, which makes one prompt of all of a length."""

    def loaded(*args: Any, **kwargs: Any) -> Any:
        tokenizer = load(*args, **kwargs)
        if _has_no_words(tokenizer):
            named = ", ".join(tokenizer.vocab_files_names.values())
            raise ConfigError(
                f"{tokenizer.name_or_path} lacks the {type(tokenizer).__name__}'s vocabulary ({named}), so that "
                "no prompt could be read; save or fetch it again"
            )
        return tokenizer

    return loaded


def _has_no_words(tokenizer: Any) -> bool:
    """Whether it knows special tokens alone, and at most the sign that words begin with."""
    try:
        known = set(tokenizer.get_vocab())
    except (AttributeError, NotImplementedError):  # one of a checkpoint's own code may not tell
        return False
    return len(known - {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}) < 2


@contextmanager
def _reported_unless_refused() -> Iterator[None]:
    """Hold transformers' report back until the block ends: a refusal says the same in one line, and stands alone."""
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        held.append(record)
        return False

    REPORTER.addFilter(hold)
    try:
        yield
    except ConfigError:
        held.clear()
        raise
    finally:
        REPORTER.removeFilter(hold)
        for record in held:
            REPORTER.handle(record)


def _refuse_gap(network: nn.Module, source: str, report: Mapping[str, Any]) -> None:
    lost, instead = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if getattr(network, "hf_quantizer", None) is not None:
        lost = _not_packed(lost, instead)
    if instead:  # an old file, perhaps, whose buffers had other names; they have values without it
        parameters = {name for name, _ in network.named_parameters()}
        lost = [name for name in lost if name in parameters]
    if not lost:
        return
    kind = type(network).__name__
    if instead:
        raise ConfigError(
            f"{source} holds other weights than a {kind} has: it lacks {len(lost)}, such as {lost[0]}, and holds "
            f"{len(instead)} of other names, such as {instead[0]}; save or fetch it again"
        )
    raise ConfigError(
        f"{source} lacks {len(lost)} of the {kind}'s weights, such as {lost[0]}; save or fetch it again"
    )


def _not_packed(lost: list[str], instead: list[str]) -> list[str]:
    """Of a quantised network: what is missing altogether, not packed under its layer's other names (`x.qweight`)."""
    layers = {name[:end] for name in instead for end, sign in enumerate(name) if sign == "."}
    return [name for name in lost if name.rpartition(".")[0] not in layers]


def refuse_empty(pipeline: DiffusionPipeline, places: Mapping[str, str | Path]) -> None:
    """Refuse a pipeline of which a loader without a report, such as that of single files, left a weight without value.

    Args:
        pipeline: as it was loaded.
        places: part -> where it was loaded from.

    Raises:
        ConfigError: with the place and the weight.
    """
    for name, network in pipeline.components.items():
        parameters = network.named_parameters() if isinstance(network, nn.Module) else ()
        if empty := next((n for n, p in parameters if p.is_meta), None):
            raise ConfigError(
                f"{places[name]} lacks weights of the {type(network).__name__}, such as {empty}; save or fetch it again"
            )
