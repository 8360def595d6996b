"""Before a long run: does the prompt reach the image, is an image its own whatever its batch, which prompts are cut."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from transformers import PreTrainedTokenizerBase

from nftbench.benchmark.samples import Sample
from nftbench.generation.sampling import FOREIGN, call_arguments, drawing_with, images_of
from nftbench.generation.settings.effective import Effective
from nftbench.generation.settings.probe import STEPS
from rewards.base import ConfigError, Prompt

SAME_NOISE = "preflight"
BATCH_TOLERANCE = 0.01
"""Mean difference, of pixels in [0, 1], between an image drawn alone and in a batch: rounding stays far below."""


def check_prompt_seen(
    pipeline: DiffusionPipeline, settings: Effective, prompts: Sequence[Prompt]
) -> Effective:
    """Draw two different prompts from one noise, in two steps.

    Args:
        pipeline: any.
        settings: learned for it.
        prompts: of the run.

    Returns:
        The settings; with `one_by_one` where an image would depend on its neighbours in a batch.

    Raises:
        ConfigError: both prompts give one image.
    """
    texts = list(dict.fromkeys(p.text for p in prompts))
    if len(texts) < 2:
        return settings
    # One id, so one noise: only the words differ.
    pair = [Sample(Prompt(id=SAME_NOISE, text=text), 0) for text in (texts[0], texts[-1])]
    brief = settings.at(num_inference_steps=STEPS)
    alone = [_draw(pipeline, [sample], brief)[0] for sample in pair]
    if np.abs(alone[0] - alone[1]).max() <= 1e-6:
        raise ConfigError(
            f"{type(pipeline).__name__} draws one image for {texts[0]!r} and {texts[-1]!r} from one noise: its network "
            f"does not see the prompt (max_sequence_length {settings.max_sequence_length}); nothing was drawn"
        )
    if settings.one_by_one:
        return settings
    try:
        together = _draw(pipeline, pair, brief)
    except ConfigError:
        return replace(settings, one_by_one=True)
    off = max(np.abs(a - b).mean() for a, b in zip(alone, together, strict=True))
    return replace(settings, one_by_one=bool(off > BATCH_TOLERANCE))


@torch.no_grad()
def _draw(pipeline: DiffusionPipeline, batch: list[Sample], settings: Effective) -> np.ndarray:
    draw: Any = pipeline
    try:
        with drawing_with(pipeline, settings.other_solver):
            output = draw(**call_arguments(pipeline, batch, settings), output_type="np")
    except FOREIGN as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{type(pipeline).__name__} cannot draw {len(batch)} prompts at once: {type(error).__name__}: {said}"
        ) from error
    return images_of(output, type(pipeline).__name__).astype(np.float64)


@dataclass(frozen=True, slots=True)
class TokenizerCall:
    """How one tokenizer is called for a prompt."""

    tokenizer: PreTrainedTokenizerBase
    length: int
    """Tokens that it keeps."""
    before: str
    """What stands around the prompt."""
    after: str

    def cuts(self, prompt: str) -> bool:
        """Whether tokens of a prompt are lost."""
        text = f"{self.before}{prompt}{self.after}"
        return len(self.tokenizer(text, truncation=False)["input_ids"]) > self.length


def count_cut(pipeline: DiffusionPipeline, settings: Effective, prompts: Sequence[Prompt]) -> int:
    """How many prompts are cut: watches one short drawing, then counts tokens."""
    text = "a photo of a cat"
    sample = Sample(Prompt(id=SAME_NOISE, text=text), 0)
    return cut_prompts(readings(lambda: draw_briefly(pipeline, [sample], settings), text), prompts)


def draw_briefly(
    pipeline: DiffusionPipeline, batch: list[Sample], settings: Effective
) -> np.ndarray:
    """Images of a batch in two steps, float (N, H, W, 3); in the pipeline's own words where it cannot."""
    return _draw(pipeline, batch, settings.at(num_inference_steps=STEPS))


def readings(draw: Callable[[], object], prompt: str) -> list[TokenizerCall]:
    """Watch every tokenizer while one prompt is drawn.

    Args:
        draw: one short call of the pipeline for this prompt.
        prompt: the text.
    """
    found: list[TokenizerCall] = []
    with _tokenizing(prompt, found):
        draw()
    return list({(id(r.tokenizer), r.length, r.before, r.after): r for r in found}.values())


def cut_prompts(found: Sequence[TokenizerCall], prompts: Sequence[Prompt]) -> int:
    """How many prompts no tokenizer of the pipeline reads whole."""
    if not found:
        return 0
    return sum(all(reading.cuts(p.text) for reading in found) for p in prompts)


@contextmanager
def _tokenizing(prompt: str, found: list[TokenizerCall]) -> Iterator[None]:
    original = PreTrainedTokenizerBase.__call__

    def called(self: PreTrainedTokenizerBase, *args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs.get("text")
        texts = [given] if isinstance(given, str) else given
        length = kwargs.get("max_length") or self.model_max_length
        if kwargs.get("truncation") and isinstance(texts, list | tuple):
            for text in texts:
                if isinstance(text, str) and prompt.lower() in text.lower():
                    at = text.lower().index(prompt.lower())
                    found.append(
                        TokenizerCall(self, int(length), text[:at], text[at + len(prompt) :])
                    )
        return original(self, *args, **kwargs)

    PreTrainedTokenizerBase.__call__ = called  # type: ignore[method-assign]
    try:
        yield
    finally:
        PreTrainedTokenizerBase.__call__ = original  # type: ignore[method-assign]
