"""Before a long run: do prompt and seed reach the image, is it its own whatever its batch, which prompts are cut."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from transformers import PreTrainedTokenizerBase

from nftbench.benchmark.samples import Sample
from nftbench.generation.foreign import ForeignErrors, said_by
from nftbench.generation.sampling import called, drawing_with, images_of
from nftbench.generation.settings.effective import PROBE, Effective
from nftbench.generation.settings.guidance import fitted_scale, follows
from nftbench.generation.settings.probe import brief_steps, watched
from rewards.base import ConfigError, Prompt

SAME_NOISE = "preflight"
SAME = 1e-6
"""Difference of pixels in [0, 1] up to which two images are one."""
QUOTED = 80
"""Characters of a prompt that a message shows."""
BATCH_TOLERANCE = 0.01
"""Mean difference, of pixels in [0, 1], between an image drawn alone and in a batch: rounding stays far below."""


def check_prompt_seen(
    pipeline: DiffusionPipeline,
    settings: Effective,
    prompts: Sequence[Prompt],
    images_per_prompt: int = 1,
) -> Effective:
    """Draw two different prompts from one noise, in two steps, one of them from two, and both at once.

    Args:
        pipeline: any.
        settings: learned for it.
        prompts: of the run.
        images_per_prompt: of the run; several have to be different ones.

    Returns:
        The settings; with `one_by_one` where an image would depend on its neighbours in a batch.

    Raises:
        ConfigError: both prompts give one image, and so does a third; or both noises do; or one is drawn with other
            guidance than was learned.
    """
    settings = replace(settings, one_by_one=settings.one_by_one or settings.unseeded)
    brief = settings.at(num_inference_steps=brief_steps(pipeline))
    texts = list(dict.fromkeys(p.text for p in prompts))
    # One id, so one noise: only the words differ; then only the noise.
    first, last = (Sample(Prompt(id=SAME_NOISE, text=text), 0) for text in (texts[0], texts[-1]))
    pair = [last, replace(first, index=1)]
    image, *alone = (_draw_as_learned(pipeline, one, brief) for one in (first, *pair))
    if first != last and _one(image, alone[0]):
        _refuse_unseen(pipeline, brief, (texts[0], texts[-1]), image)
    if images_per_prompt > 1 and _one(image, alone[1]):
        raise ConfigError(
            f"{type(pipeline).__name__} draws one image from two seeds: all images of a prompt would be copies; "
            "expected that it starts from the generator that it is given, or --images-per-prompt 1; nothing was drawn"
        )
    if settings.one_by_one:
        return settings
    try:
        together = _draw(pipeline, pair, brief)
    except ConfigError:
        return replace(settings, one_by_one=True)
    off = max(np.abs(a - b).mean() for a, b in zip(alone, together, strict=True))
    return replace(settings, one_by_one=bool(off > BATCH_TOLERANCE))


def _draw_as_learned(
    pipeline: DiffusionPipeline, sample: Sample, settings: Effective
) -> np.ndarray:
    """An image, watched: a pipeline may choose another guider for some prompts, such as those that quote a word."""
    with drawing_with(pipeline, settings.other_solver), watched(pipeline) as seen:
        image = _draw(pipeline, [sample], settings)[0]
    scale = settings.guidance_scale
    if settings.guidance == "cfg" and scale is not None and not follows(seen.last, scale):
        raise ConfigError(
            f"{type(pipeline).__name__} draws {_quoted(sample.prompt.text)} with guidance {fitted_scale(seen.last):g} "
            f"and other prompts with {scale:g}, which no row can say: expected one scale for all prompts, set in the "
            "checkpoint's own guiders; nothing was drawn"
        )
    return image


def _quoted(text: str) -> str:
    return f"{text[:QUOTED]!r}{'...' if len(text) > QUOTED else ''}"


def _one(image: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(image - other).max() <= SAME)


def _refuse_unseen(
    pipeline: DiffusionPipeline, brief: Effective, texts: tuple[str, str], image: np.ndarray
) -> None:
    """Refuse a model that draws one image for two prompts, unless a third text gives another.

    Prompts that differ only behind what the tokenizer keeps are counted as cut, not refused.
    """
    other = Sample(Prompt(id=SAME_NOISE, text=PROBE), 0)
    if not _one(image, _draw(pipeline, [other], brief)[0]):
        return
    length = brief.max_sequence_length
    known = f" (max_sequence_length {length})" if length is not None else ""
    first, last = map(_quoted, texts)
    raise ConfigError(
        f"{type(pipeline).__name__} draws one image for {first} and {last} from one noise: its network does not see "
        f"the prompt{known}; nothing was drawn"
    )


@torch.no_grad()
def _draw(pipeline: DiffusionPipeline, batch: list[Sample], settings: Effective) -> np.ndarray:
    name = type(pipeline).__name__

    def refusal(error: Exception) -> ConfigError:
        return ConfigError(f"{name} cannot draw {len(batch)} prompts at once: {said_by(error)}")

    with ForeignErrors(refusal):
        output = called(pipeline, batch, settings)
    return images_of(output, name, len(batch)).astype(np.float64)


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
    sample = Sample(Prompt(id=SAME_NOISE, text=PROBE), 0)
    seen = readings(lambda: draw_briefly(pipeline, [sample], settings), PROBE)
    return cut_prompts(seen, prompts)


def draw_briefly(
    pipeline: DiffusionPipeline, batch: list[Sample], settings: Effective
) -> np.ndarray:
    """Images of a batch in two steps, float (N, H, W, 3); in the pipeline's own words where it cannot."""
    return _draw(pipeline, batch, settings.at(num_inference_steps=brief_steps(pipeline)))


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
