"""What a checkpoint is, found by loading it and drawing a few steps of one image: nothing is read off its name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from nftbench.benchmark.samples import Sample
from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.checkpoint import LoadedModel
from nftbench.generation.distillation import distillation
from nftbench.generation.machine.memory import GB, DrawingMemory, drawing_memory
from nftbench.generation.recorder.replay import learn
from nftbench.generation.recorder.trace import denoiser_of, prediction_of
from nftbench.generation.sampling import generate
from nftbench.generation.settings.effective import PROBE, Effective, learn_settings
from nftbench.generation.settings.preflight import SAME_NOISE, draw_briefly, readings
from nftbench.generation.settings.probe import schedulers_of
from rewards.base import ConfigError, Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelinePart:
    """One network of a pipeline."""

    name: str
    kind: str
    parameters: int
    dtype: str
    megabytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What `nftbench inspect` says."""

    checkpoint: str
    digest: str
    family: str
    parts: tuple[PipelinePart, ...]
    schedulers: Mapping[str, str]
    """Class of each, with what its network predicts."""
    guidance: str
    """As the model has it, and the network calls a step that were counted."""
    guidance_choices: Mapping[str, str]
    """`off`, `cfg` and `embedded`: "yes", or why not."""
    height: int
    width: int
    num_inference_steps: int
    text_lengths: Mapping[str, int]
    """Tokens that each tokenizer keeps of a prompt."""
    loras: tuple[str, ...]
    trainable: str
    """"yes", or why not."""
    distilled: str
    """To few steps: "yes", "no" or "unknown", with the evidence."""
    memory_gb: Mapping[str, float]
    """Estimates of weights and of an evaluation without its rewards, with text encoders where they are, as on a CPU,
    and away while images are drawn, as on a GPU."""
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def inspect_model(
    model: LoadedModel, parameters: SamplingParameters, *, images: int = 16
) -> Inspection:
    """Look at a loaded checkpoint.

    Args:
        model: what to look at.
        parameters: size and text length, where they are not the model's own.
        images: drawn at once, for the estimate of memory.

    Raises:
        ConfigError: the model cannot draw at all.
    """
    pipeline = model.pipeline
    native = learn_settings(pipeline, parameters)
    scale = "" if native.guidance_scale in (None, 1) else f" {native.guidance_scale:g}"
    return Inspection(
        checkpoint=model.name,
        digest=model.digest,
        family=type(pipeline).__name__,
        parts=parts_of(pipeline),
        schedulers={name: _scheduler(one) for name, one in schedulers_of(pipeline).items()},
        guidance=f"{native.guidance}{scale}, {native.network_calls:g} network call(s) a step",
        guidance_choices=_choices(pipeline, parameters),
        height=native.height,
        width=native.width,
        num_inference_steps=native.num_inference_steps,
        text_lengths=_text_lengths(pipeline, native),
        loras=tuple(map(str, model.loras)),
        trainable=_trainable(pipeline, parameters),
        distilled=str(distillation(pipeline)),
        memory_gb=_memory(drawing_memory(pipeline, native), images),
        notes=(*model.notes, *native.notes),
    )


def parts_of(pipeline: DiffusionPipeline) -> tuple[PipelinePart, ...]:
    """The networks of a pipeline with their sizes."""
    found = []
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            tensors = list(part.parameters())
            dtypes = {str(t.dtype).removeprefix("torch.") for t in tensors}
            found.append(
                PipelinePart(
                    name=name,
                    kind=type(part).__name__,
                    parameters=sum(t.numel() for t in tensors),
                    dtype="+".join(sorted(dtypes)),
                    megabytes=round(sum(t.numel() * t.element_size() for t in tensors) / 1e6, 1),
                )
            )
    return tuple(found)


def _scheduler(scheduler: Any) -> str:
    try:
        return f"{type(scheduler).__name__}, {prediction_of(scheduler)}"
    except ConfigError:
        return f"{type(scheduler).__name__}, {scheduler.config.get('prediction_type', 'unknown')}"


def _choices(pipeline: DiffusionPipeline, parameters: SamplingParameters) -> dict[str, str]:
    """Each kind of guidance tried out."""
    tried = {"off": ("off", None), "cfg": ("cfg", 3.0), "embedded": ("embedded", 3.0)}
    found = {}
    for name, (kind, scale) in tried.items():
        try:
            change = {"guidance": kind, "guidance_scale": scale}
            learn_settings(pipeline, parameters.model_copy(update=change))
            found[name] = "yes"
        except ConfigError as error:
            found[name] = f"no: {error}"
    return found


def _memory(drawing: DrawingMemory, images: int) -> dict[str, float]:
    found = {
        "weights": drawing.weights,
        "text encoders": drawing.encoders,
        "eval": drawing.peak(images, encoders_leave=False),
        "eval, text encoders away": drawing.peak(images, encoders_leave=True),
    }
    return {name: round(size / GB, 4) for name, size in found.items()}


def _text_lengths(pipeline: DiffusionPipeline, settings: Effective) -> dict[str, int]:
    sample = Sample(Prompt(id=SAME_NOISE, text=PROBE), 0)
    seen = readings(lambda: draw_briefly(pipeline, [sample], settings), PROBE)
    names = {id(part): name for name, part in pipeline.components.items()}
    return {names.get(id(r.tokenizer), type(r.tokenizer).__name__): r.length for r in seen}


def _trainable(pipeline: DiffusionPipeline, parameters: SamplingParameters) -> str:
    """Whether a training could read the network's calls, as it would."""
    unguided = {"guidance": None, "guidance_scale": 1.0}
    try:
        denoiser_of(pipeline)
        settings = learn_settings(pipeline, parameters.model_copy(update=unguided))
        learn(pipeline, lambda texts: _draw(pipeline, texts, settings))
    except ConfigError as error:
        return f"no: {error}"
    saves = hasattr(pipeline, "save_lora_weights")
    return f"yes (LoRA{'' if saves else ' in the layout of peft'} and full)"


def _draw(pipeline: DiffusionPipeline, texts: list[str], settings: Effective) -> None:
    batch = [Sample(Prompt(id=str(i), text=text), 0) for i, text in enumerate(texts)]
    generate(pipeline, batch, settings.at(num_inference_steps=3))
