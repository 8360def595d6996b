"""Any text-to-image checkpoint, by name: packaged, a folder, a file, a training run or a hub id; LoRAs if wanted.

`sources/reference.py` says what a name may be made of.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from pydantic import ValidationError
from torch import nn

from nftbench.benchmark.faults import in_words
from nftbench.benchmark.schema import SamplingSettings
from nftbench.generation.image_service import is_service
from nftbench.generation.machine.hardware import Hardware, described, dtype_of, numerics, settle
from nftbench.generation.sources.digest import folder_digest, stamps, written_over
from nftbench.generation.sources.files import read_index
from nftbench.generation.sources.hub import NotOnHub
from nftbench.generation.sources.lora import LoraReport, add_loras, merge_loras
from nftbench.generation.sources.packaged import (
    POLICY_FILE,
    packaged,
    place_of,
    refuse_unknown,
    unknown,
)
from nftbench.generation.sources.pipelines import build
from nftbench.generation.sources.reference import (
    INDEX,
    LORA,
    WORDS,
    Part,
    Reference,
    hub_place,
    parse,
    scale_text,
)
from nftbench.parsing import parse_json, parse_toml
from rewards.base import ConfigError

OWN_FILE = "nftbench.toml"
"""What a checkpoint says for itself, beside its weights: a suite, and sampling parameters."""
WEIGHTS_FOLDER = {"lora": "lora", "full": "pipeline"}
"""Method of a training -> folder of its weights, beside `POLICY_FILE`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowed:
    """What a user has to allow by name, each time: it is never read from a file."""

    remote_code: bool = False
    """Python that a checkpoint brings along may run."""
    partial_lora: bool = False
    """A LoRA may be taken of which not every layer fits."""


NOTHING = Allowed()
"""Neither."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A checkpoint made ready to sample."""

    name: str
    """As the user wrote it; packaged checkpoints by their short name."""
    digest: str
    """sha256 over all files that load (16 hexadecimal digits), or the hub's commit; with those of parts and LoRAs."""
    pipeline: DiffusionPipeline
    loras: tuple[LoraReport, ...] = ()
    """What came of each LoRA, those that a trained policy rests on among them."""
    notes: tuple[str, ...] = ()
    """What else was chosen while loading, in words."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters that the checkpoint asks for where a benchmark leaves them open."""
    numerics: str | None = None
    """What of the hardware's settings moves numbers beyond rounding; see `hardware.numerics`."""
    hardware: Mapping[str, Any] = field(default_factory=dict)
    """On what it runs, and how; see `hardware.described`."""

    stamps: Mapping[Path, tuple[int, int, int]] = field(default_factory=dict)
    """Of its files on this disk, from before they were read; see `sources.digest.stamps`."""

    def refuse_written_over(self) -> None:
        """Refuse to go on with weights in the host's memory that were changed in the files they may be views of.

        Raises:
            ConfigError: with the first such file.
        """
        if (path := written_over(self.stamps)) is not None:
            raise ConfigError(
                f"{path} was written over while {self.name} was in use, which may read it as it draws: not of digest "
                f"{self.digest} any more; save to a folder of its own, and run this again on weights that stay"
            )

    @property
    def dtype(self) -> str:
        """The precision that it computes in."""
        return dtype_of(self.pipeline)

    @property
    def kind(self) -> str:
        """Class of its pipeline."""
        return type(self.pipeline).__name__

    @property
    def said(self) -> list[str]:
        """What the user should read before any number: notes, and a line a LoRA."""
        return [*self.notes, *map(str, self.loras)]


def own_suite(checkpoint: str) -> str | None:
    """The suite that a checkpoint recommends for itself, in `nftbench.toml` beside its weights.

    Raises:
        ConfigError: neither packaged, nor on this disk, nor a hub id.
    """
    refuse_unknown(checkpoint)
    return _own(checkpoint).get("suite")


def own_settings(checkpoint: str) -> dict[str, Any]:
    """The sampling parameters that a checkpoint asks for, `[sampling]` of its `nftbench.toml`."""
    try:
        own = SamplingSettings.model_validate(_own(checkpoint).get("sampling", {}))
    except ValidationError as error:
        fault = in_words(error, SamplingSettings, ("sampling",))
        raise ConfigError(f"nftbench.toml of {checkpoint}: {fault}") from None
    return own.given


def own_file(checkpoint: str) -> Path | None:
    """`nftbench.toml` beside a checkpoint's weights, if there is one; a trained policy has that of its base."""
    base = parse(checkpoint).base
    path = place_of(base) / OWN_FILE
    if path.is_file():
        return path
    trained = trained_folder(base)
    return own_file(trained.base) if trained else None


def _own(checkpoint: str) -> dict[str, Any]:
    path = own_file(checkpoint)
    try:
        return parse_toml(path.read_text(encoding="utf-8")) if path else {}
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML ({error})") from None


def local_folder(base: str) -> Path:
    """The folder of a packaged checkpoint or of one on this disk.

    Raises:
        ConfigError: it does not hold a checkpoint.
    """
    read_index(place_of(base) / INDEX)
    return place_of(base)


def load_model(
    checkpoint: str,
    *,
    hardware: Hardware = Hardware(),  # noqa: B008 (frozen)
    allowed: Allowed = NOTHING,
) -> LoadedModel:
    """Load a checkpoint for sampling.

    Args:
        checkpoint: a packaged name, a folder in diffusers' layout, a training run's, one `.safetensors` file or a hub
            id; and parts of it that come from elsewhere, as `sources/reference.py` has it.
        hardware: on what it runs, and how.
        allowed: what is refused unless the user says otherwise.

    Raises:
        ConfigError: no such checkpoint, a folder that holds none, a LoRA that does not fit, or a pipeline that makes no
            images from text.
    """
    if is_service(checkpoint):
        raise ConfigError(
            f"{checkpoint} is an image service: `nftbench eval` asks it for images; its weights are not here to be "
            "trained, inspected or stressed"
        )
    precision = hardware.precision()
    dtype = getattr(torch, precision) if precision else None
    before = _stamps(parse(checkpoint))
    model = _load(parse(checkpoint), dtype, allowed)
    model.pipeline.set_progress_bar_config(disable=True)
    settle(model.pipeline, hardware)
    return replace(
        model,
        name=checkpoint,
        own=own_settings(checkpoint),
        numerics=numerics(model.pipeline, hardware),
        hardware=described(hardware),
        stamps=before if _in_host_memory(model.pipeline) else {},
    )


def _in_host_memory(pipeline: DiffusionPipeline) -> bool:
    """Whether some weights lie there, where they may be views of their files; a GPU's are copies."""
    networks = [p for p in pipeline.components.values() if isinstance(p, nn.Module)]
    return any(w.device.type == "cpu" for network in networks for w in network.parameters())


def _stamps(reference: Reference) -> dict[Path, tuple[int, int, int]]:
    """Those of all files on this disk that hold a checkpoint's weights."""
    trained, base = trained_folder(reference.base), place_of(reference.base)
    places = [place_of(part.source) for part in reference.parts if part.kind not in WORDS]
    if trained or base.is_file() or (base / INDEX).is_file():
        places.append(trained.weights_folder if trained else base)
    found = {path: stamp for place in places for path, stamp in stamps(place).items()}
    return found | (_stamps(parse(trained.base)) if trained else {})


@dataclass(frozen=True, slots=True)
class TrainedFolder:
    """What a training leaves as a checkpoint: `POLICY_FILE`, and beside it `lora/` or `pipeline/`.

    `pipeline/` may hold the trained network alone (`_whole`), as those that ship with the project do.
    """

    folder: Path
    base: str
    """The checkpoint that was trained, as it is found from here."""
    base_digest: str
    method: str
    """`lora`, or `full` where every weight of the network was trained."""
    weights: str = ""
    """Digest of `weights_folder` as the training left it; empty in folders from before this was noted."""

    @property
    def weights_folder(self) -> Path:
        """Where the trained weights lie."""
        return self.folder / WEIGHTS_FOLDER[self.method]


def trained_folder(checkpoint: str) -> TrainedFolder | None:
    """Read what a trained policy's folder says of itself.

    Args:
        checkpoint: a packaged name or a folder.

    Returns:
        None where the checkpoint is not a trained policy.

    Raises:
        ConfigError: its `POLICY_FILE` cannot be read.
    """
    path = place_of(checkpoint) / POLICY_FILE
    if not path.is_file():
        return None
    try:
        trained = TrainedFolder(path.parent, **parse_json(path.read_text(encoding="utf-8")))
        said = (trained.base, trained.base_digest, trained.method, trained.weights)
        if not all(isinstance(v, str) for v in said):
            raise ValueError("each of them a text")
        if trained.method not in WEIGHTS_FOLDER:
            raise ValueError(f"method is {trained.method!r}, not {' or '.join(WEIGHTS_FOLDER)}")
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} does not describe a trained policy: expected base, base_digest and method ({error}); "
            "train it again"
        ) from None
    return replace(trained, base=str(parse(trained.base).found_from(path.parent)))


def note_of(folder: Path, *, base: str, base_digest: str, method: str) -> bytes:
    """Content of a trained policy's `POLICY_FILE`: its base's paths as they are seen from the folder that holds it."""
    seen = str(parse(base).seen_from(folder))
    weights = folder_digest(folder / WEIGHTS_FOLDER[method])
    note = {"base": seen, "base_digest": base_digest, "method": method, "weights": weights}
    return f"{json.dumps(note, indent=2)}\n".encode()


def _load(reference: Reference, dtype: torch.dtype | None, allowed: Allowed) -> LoadedModel:
    """A checkpoint with all its parts; the name is still the base's."""
    trained = trained_folder(reference.base)
    if trained is None:
        return _with_loras(_load_base(reference, dtype, allowed), reference.all(LORA), allowed)
    if reference.parts != tuple(reference.all(LORA)):
        raise ConfigError(
            f"{trained.folder} is a trained policy; it takes +lora= only, its base has the other parts"
        )
    model = _load_trained(trained, dtype, allowed)
    if reference.parts:
        merge_loras(model.pipeline)
    whole = _with_loras(model, reference.parts, allowed)
    added = whole.loras[len(model.loras) :]
    twice = next((r for r in added if any(map(r.is_of, model.loras))), None)
    if twice is not None:
        raise ConfigError(
            f"{reference.base} has the LoRA {twice.source} in it already; leave it out, or for another strength name "
            f"the base: {trained.base}+lora={twice.source}@SCALE"
        )
    return whole


def _load_base(reference: Reference, dtype: torch.dtype | None, allowed: Allowed) -> LoadedModel:
    place = place_of(reference.base)
    if not place.exists() and hub_place(reference.base) is None:
        raise ConfigError(unknown(reference.base))
    try:
        # A part may come from a packaged checkpoint too.
        parts = [replace(p, source=str(place_of(p.source))) for p in reference.parts]
        built = build(
            replace(reference, parts=tuple(parts)), place, dtype, remote_code=allowed.remote_code
        )
    except NotOnHub as error:
        raise ConfigError(
            f"unknown checkpoint {reference.base!r}: not packaged ({', '.join(packaged())}), not on this disk, and "
            f"{error}"
        ) from None
    return LoadedModel(
        name=reference.base,
        digest=built.digest,
        pipeline=built.pipeline,
        notes=tuple(built.notes),
    )


def _with_loras(
    model: LoadedModel, parts: list[Part] | tuple[Part, ...], allowed: Allowed
) -> LoadedModel:
    if not parts:
        return model
    reports = add_loras(model.pipeline, parts, partial=allowed.partial_lora)
    own = "".join(f"+{r.digest}{scale_text(r.scale)}" for r in reports)
    return replace(model, digest=model.digest + own, loras=(*model.loras, *reports))


def _whole(trained: TrainedFolder) -> Reference:
    """All parts of a fully trained policy: its pipeline; or what of that lies there, on the untrained one's parts."""
    place = trained.weights_folder
    if (place / INDEX).is_file():
        return Reference(str(place))
    start = parse(trained.base).base
    while (before := trained_folder(start)) is not None:
        start = parse(before.base).base
    own = tuple(Part(p.name, str(p)) for p in sorted(place.iterdir()) if p.is_dir())
    return Reference(start, own)


def _load_trained(
    trained: TrainedFolder, dtype: torch.dtype | None, allowed: Allowed
) -> LoadedModel:
    place = trained.weights_folder
    if not place.is_dir() or (trained.weights and folder_digest(place) != trained.weights):
        raise ConfigError(
            f"{place} does not hold the weights that the training left: they are missing, damaged or another's; "
            f"export them again: nftbench train --resume {trained.folder}"
        )
    if trained.method == "full":
        return _load_base(_whole(trained), dtype, allowed)
    model = _load(parse(trained.base), dtype, allowed)
    if model.digest != trained.base_digest:
        raise ConfigError(
            f"{trained.folder} was trained from {trained.base} with weights {trained.base_digest}, but "
            f"{trained.base} now holds {model.digest}; use the weights it was trained from"
        )
    merge_loras(model.pipeline)  # as they were before training began
    return _with_loras(model, [Part(LORA, str(place))], allowed)
