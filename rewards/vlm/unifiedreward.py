"""UnifiedReward: a vision-language model that is asked for a mark from 1 to 5, behind an OpenAI-compatible server.

The server is the user's: `NFTBENCH_JUDGE_URL` (http://127.0.0.1:17140/v1), `NFTBENCH_JUDGE_KEY` and
`NFTBENCH_JUDGE_MODEL` say where it is and what it is asked for; `NFTBENCH_JUDGE_CONCURRENCY` and
`NFTBENCH_JUDGE_TIMEOUT` (seconds an attempt) how it is treated. A name with the variant behind it wins, so that two
judges can serve one run: `NFTBENCH_JUDGE_URL_2_0` for `unifiedreward@2.0`.
"""

import base64
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from rewards.base import Prompt, Reward, RewardInfo, Scores, unseen
from rewards.vlm.chat import CONCURRENCY, TIMEOUT, Endpoint, Reply, ask, probe
from rewards.vlm.exchange import number_above_zero

URL = "http://127.0.0.1:17140/v1"
"""Where DiffusionNFT's code looks for its judge."""
KEY = "flowgrpo"
TRAIN_SCALE = 5.0
"""Flow-GRPO and DiffusionNFT train on a fifth of the mark; published tables are native."""
MAX_TOKENS = 4096

Picture = Callable[[np.ndarray], str]
"""uint8 RGB (H, W, 3) -> data URI."""

# --- preparing and reading ------------------------------------------------------------------------


def png_512(image: np.ndarray) -> str:
    """A PNG of 512x512, whatever the shape was: stretched, bicubic."""
    return _png(Image.fromarray(image).resize((512, 512), Image.Resampling.BICUBIC))


def png_as_is(image: np.ndarray) -> str:
    """A PNG of the picture's own size."""
    return _png(Image.fromarray(image))


def jpeg_95(image: np.ndarray) -> str:
    """A JPEG of quality 95 and of the picture's own size."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def final_score(reply: str) -> dict[str, float]:
    """The first mark that follows `Final Score:`; none where there is no such mark.

    Quirk: only the first digit and what follows a point are read, as upstream: `10` is 1, `45` is 4, `5.5` is 5.5.

    Source: NVlabs/DiffusionNFT@24af555 flow_grpo/unifiedreward_scorer.py `_extract_scores`.
    Differs: a reply without a mark is 0 upstream.
    """
    found = re.search(r"Final Score:\s*([1-5](?:\.\d+)?)", reply)
    return {"final": float(found[1])} if found else {}


AXES = ("alignment", "coherence", "style")


def axis_scores(reply: str) -> dict[str, float]:
    """The marks of all three `AXES`; none where one is missing or not from 1 to 5."""
    found = {
        axis: re.search(rf"{axis.title()} Score \(1-5\):\s*(\d+(?:\.\d+)?)", reply) for axis in AXES
    }
    marks = {axis: float(match[1]) for axis, match in found.items() if match}
    return marks if len(marks) == 3 and all(1 <= mark <= 5 for mark in marks.values()) else {}


# --- variants -------------------------------------------------------------------------------------

_TASK = (
    "You are given a text caption and a generated image based on that caption. Your task is to evaluate this image"
    " based on two key criteria:\n1. Alignment with the Caption: Assess how well this image aligns with the provided"
    " caption. Consider the accuracy of depicted objects, their relationships, and attributes as described in the"
    " caption.\n2. Overall Image Quality: Examine the visual quality of this image, including clarity, detail"
    " preservation, color accuracy, and overall aesthetic appeal.\n"
)
_SHORT = "Based on the above criteria, assign a score from 1 to 5 after 'Final Score:'.\n"
_FULL = (
    "Extract key elements from the provided text caption, evaluate their presence in the generated image using the"
    " format: 'element (type): value' (where value=0 means not generated, and value=1 means generated), and assign a"
    " score from 1 to 5 after 'Final Score:'.\n"
)
_CAPTION = "Your task is provided as follows:\nText Caption: [{prompt}]"
_AXES = (
    "You are presented with a generated image and its associated text caption. Your task is to analyze the image"
    " across multiple dimensions in relation to the caption. Specifically:\nProvide overall assessments for the image"
    " along the following axes (each rated from 1 to 5):\n- Alignment Score: How well the image matches the caption"
    " in terms of content.\n- Coherence Score: How logically consistent the image is (absence of visual glitches,"
    " object distortions, etc.).\n- Style Score: How aesthetically appealing the image looks, regardless of caption"
    " accuracy.\n\nOutput your evaluation using the format below:\n\nAlignment Score (1-5): X\nCoherence Score (1-5):"
    " Y\nStyle Score (1-5): Z\n\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How a variant puts its question and reads the reply."""

    question: str
    """With `{prompt}` where the caption goes."""
    picture: Picture
    marks: Callable[[str], Mapping[str, float]]
    """Reply -> marks by name, empty where it holds none; the value is their mean."""
    model: str
    """What the server is asked for unless the user names another."""
    decoding: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0})
    parts: tuple[str, ...] = ()
    """Names of the marks, where there are several."""


NFT = Style(
    question=f"<image>\n{_TASK}{_SHORT}{_CAPTION}",
    picture=png_512,
    marks=final_score,
    model="UnifiedReward-7b-v1.5",
)
OFFICIAL = Style(
    question=f"{_TASK}{_FULL}{_CAPTION}",
    picture=png_as_is,
    marks=final_score,
    model="UnifiedReward-7b",
    decoding={"temperature": 0, "max_tokens": MAX_TOKENS},
)
V2_0 = Style(
    question=f"{_AXES}{_CAPTION}",
    picture=jpeg_95,
    marks=axis_scores,
    model="UnifiedReward",
    decoding={"temperature": 0, "max_tokens": MAX_TOKENS},
    parts=AXES,
)


class UnifiedReward:
    """A judge's mark from 1 to 5 for caption and quality together.

    Parts: the marks by name where there are several. Evidence: the judge's `reply`, how many `attempts` it took, the
    `model` that was asked for. A reply without a mark and a question without an answer are NaN with the reason.
    `score` of N images ends within `Endpoint.bound(N)` seconds, the encoding of the pictures not counted.

    Source: NVlabs/DiffusionNFT@24af555 flow_grpo/rewards.py `unifiedreward_score_sglang` (`@nft`);
    CodeGoat24/UnifiedReward@ff6f520 inference_llava/image_generation/point_score_image_generation.py (`@official`),
    inference_qwen/UnifiedReward-2.0-inference/point_score_ACS_image_generation.py (`@2.0`).
    Differs: upstream scores 0 without a mark, retries nothing (`@nft`) and hopes for greedy decoding by a field that
    servers ignore (`@2.0`; here temperature 0). `@official` runs the network itself upstream, where `<image>` in the
    text marks the picture's place; a server puts the picture there by itself, so the word is left out. The value of
    `@2.0` is the mean of its three marks, for which upstream defines no single number.
    """

    def __init__(
        self, endpoint: Endpoint, *, style: Style, info: RewardInfo, model: str = ""
    ) -> None:
        """Put a variant together; the server is not yet asked.

        Args:
            endpoint: the judge.
            style: of question and reply.
            info: what the numbers mean.
            model: what the server is asked for; the style's own when empty.
        """
        self.info = info
        self.ask = ask
        self._endpoint = endpoint
        self._reached = False
        self._style = style
        self._model = model or style.model

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Score images: see `Reward.score`."""
        nothing = unseen(images)
        if nothing is not None:
            return nothing
        pairs = zip(images, prompts, strict=True)
        questions = [lambda pair=pair: self._body(*pair) for pair in pairs]
        replies = self.ask(self._endpoint, questions)
        marks = [self._style.marks(reply.text) for reply in replies]
        means = [float(np.mean(list(each.values()))) if each else np.nan for each in marks]
        return Scores(
            values=np.array(means, dtype=np.float32),
            reasons=tuple(map(_reason, replies, marks)),
            parts={
                name: np.array([each.get(name, np.nan) for each in marks], dtype=np.float32)
                for name in self._style.parts
            },
            evidence=tuple(
                {"reply": reply.text, "attempts": reply.attempts, "model": self._model}
                for reply in replies
            ),
        )

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Any text can be judged, by a server that is there; it is asked once.

        Raises:
            ConfigError: no server answers, or it does not take the key.
        """
        if not self._reached:
            probe(self._endpoint)
            self._reached = True

    def _body(self, image: np.ndarray, prompt: Prompt) -> dict[str, Any]:
        text = self._style.question.replace("{prompt}", prompt.text)
        picture = {"type": "image_url", "image_url": {"url": self._style.picture(image)}}
        content = [picture, {"type": "text", "text": text}]
        message = {"role": "user", "content": content}
        return {"model": self._model, "messages": [message], **self._style.decoding}


def _reason(reply: Reply, marks: Mapping[str, float]) -> str:
    if reply.failure:
        return f"the judge gave no answer in {reply.attempts} attempts: {reply.failure}"
    return "" if marks else f"the judge's reply holds no mark: {reply.text[:200]!r}"


# --- the registered variants ----------------------------------------------------------------------


def _setting(name: str, variant: str, default: str) -> str:
    tail = re.sub(r"\W", "_", variant).upper()
    names = (f"NFTBENCH_JUDGE_{name}_{tail}", f"NFTBENCH_JUDGE_{name}")
    return next(filter(None, map(os.environ.get, names)), default)


def _number(name: str, variant: str, default: float) -> float:
    return number_above_zero(f"NFTBENCH_JUDGE_{name}", _setting(name, variant, str(default)))


def endpoint(variant: str) -> Endpoint:
    """The judge that the environment names for a variant.

    Raises:
        ConfigError: a setting that is no number above 0.
    """
    return Endpoint(
        url=_setting("URL", variant, URL).rstrip("/"),
        key=_setting("KEY", variant, KEY),
        concurrency=max(1, int(_number("CONCURRENCY", variant, CONCURRENCY))),
        timeout=_number("TIMEOUT", variant, TIMEOUT),
    )


def _variant(variant: str, style: Style, summary: str, source: str) -> Callable[..., Reward]:
    """Factory of one variant, with its `info`."""
    info = RewardInfo(
        name="unifiedreward",
        variant=variant,
        summary=summary,
        low=1,
        high=5,
        ends=(1, 5),
        train_scale=TRAIN_SCALE,
        weights=(f"CodeGoat24/{style.model}, behind a server of the user's",),
        licence="MIT",
        source=source,
    )

    def factory(*, device: str = "cpu") -> Reward:
        del device  # the network runs elsewhere
        model = _setting("MODEL", variant, style.model)
        return UnifiedReward(endpoint(variant), style=style, info=info, model=model)

    factory.info = info  # type: ignore[attr-defined]
    return factory


nft = _variant(
    "nft",
    NFT,
    "mark of UnifiedReward v1.5 for caption and quality, asked as DiffusionNFT does",
    "NVlabs/DiffusionNFT@24af555 flow_grpo/rewards.py unifiedreward_score_sglang",
)
official = _variant(
    "official",
    OFFICIAL,
    "mark of UnifiedReward v1, asked as its authors do: elements first",
    "CodeGoat24/UnifiedReward@ff6f520 inference_llava/image_generation/point_score_image_generation.py",
)
v2_0 = _variant(
    "2.0",
    V2_0,
    "mean of UnifiedReward 2.0's marks for alignment, coherence and style",
    "CodeGoat24/UnifiedReward@ff6f520 inference_qwen/UnifiedReward-2.0-inference"
    "/point_score_ACS_image_generation.py",
)
