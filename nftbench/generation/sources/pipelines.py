"""A pipeline from where it lies: a folder, the hub, or one file; with parts of its own and quantised if wanted."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import fetch_diffusers_config as default_config
from diffusers.loaders.single_file_utils import (
    infer_diffusers_model_type,
    load_single_file_checkpoint,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from transformers import PreTrainedTokenizerBase

from nftbench.generation.foreign import ForeignErrors
from nftbench.generation.sources import files
from nftbench.generation.sources.digest import file_digest, files_below, folder_digest
from nftbench.generation.sources.hub import Fetched, fetch_file, fetch_folder, with_folder
from nftbench.generation.sources.loading.gaps import gaps_refused, refuse_empty
from nftbench.generation.sources.loading.leftovers import refuse_scales
from nftbench.generation.sources.loading.one_file import (
    encoders_beside,
    follow_prediction,
    from_one_file,
)
from nftbench.generation.sources.loading.own_code import code_apart
from nftbench.generation.sources.loading.quantized import DENOISERS, quantization
from nftbench.generation.sources.mistaken import held_instead
from nftbench.generation.sources.packaged import refuse_other_file
from nftbench.generation.sources.reference import (
    CONFIG,
    INDEX,
    QUANTIZE,
    VARIANT,
    HubPlace,
    Reference,
    hub_place,
)
from nftbench.parsing import parse_json
from rewards.base import ConfigError, MissingExtra

WEIGHTS = (".safetensors", ".ckpt", ".bin", ".gguf", ".pt", ".pth")
ONE_NETWORK = (
    "one network alone goes behind +unet= or +transformer= of its base, a LoRA behind +lora="
)
"""For messages: what a file is that holds less than a pipeline."""


@dataclass(frozen=True, slots=True)
class Built:
    """A pipeline, and what it was built of."""

    pipeline: DiffusionPipeline
    digest: str
    notes: list[str] = field(default_factory=list)
    """What the user should hear: a variant that was chosen, weights that were quantised."""


def build(
    reference: Reference, place: Path, dtype: torch.dtype | None, *, remote_code: bool
) -> Built:
    """Load the pipeline of a checkpoint, without its LoRAs.

    Args:
        reference: its words.
        place: the folder or file that its base names on this disk; any other path means the hub.
        dtype: of all weights; None is that in which most of the denoiser is stored.
        remote_code: whether Python that the checkpoint brings along may run.

    Raises:
        ConfigError: it cannot be had or loaded, or makes no images from text.
    """
    on_hub = None if place.exists() else hub_place(reference.base)
    with gaps_refused() as left:
        if place.is_file() or (on_hub and (on_hub.subfolder or "").endswith(WEIGHTS)):
            built = _build_file(reference, place, on_hub, dtype)
        else:
            built = _build_folder(reference, place, on_hub, dtype, remote_code)
    if "prompt" not in inspect.signature(built.pipeline.__call__).parameters:
        raise ConfigError(
            f"{reference.base} holds a {type(built.pipeline).__name__}, which takes no prompt; expected a "
            "text-to-image pipeline"
        )
    built.notes.extend(left)
    return built


def _build_folder(
    reference: Reference,
    folder: Path,
    on_hub: HubPlace | None,
    dtype: torch.dtype | None,
    remote_code: bool,
) -> Built:
    if reference.one(CONFIG):
        raise ConfigError(f"{reference.base} has a configuration of its own; leave out --config")
    fetched = fetch_pipeline(on_hub, reference.one(VARIANT)) if on_hub else None
    folder = fetched.path if fetched else folder
    index = files.read_index(folder / INDEX)
    refuse_code(folder, index, remote_code)
    digest = fetched.digest if fetched else folder_digest(folder)
    names = [p.relative_to(folder).as_posix() for p in files_below(folder)]
    variant = files.variant_of(names, index, reference.one(VARIANT))
    notes = [f"weights of variant {variant}"] if variant else []
    dtype = dtype or files.stored_dtype(folder, index, variant)
    given = left_out(index)
    censors = [name for name in files.CENSORS if name in files.parts_of(index)]
    wanted = set() if remote_code else files.loaded_parts(folder / INDEX, index)
    files.refuse_unsound(folder, wanted - {*given, *reference.components}, variant)
    notes += [f"{name} left out: images are scored as they were drawn" for name in censors]
    scheme = reference.one(QUANTIZE)
    _refuse_unquantised(scheme, reference.components)
    for name, source in reference.components.items():
        given[name], own = _component(name, source, index, folder, dtype)
        files.note_differences(given[name], f"+{name}={source}", folder / name)
        notes += files.said_prediction(given[name], f"+{name}={source}", folder / name)
        digest += f"+{name}:{own}"
    if scheme is not None:
        given["quantization_config"] = quantization(scheme, files.parts_of(index), dtype)
        digest += f"+{QUANTIZE}:{scheme}"
        notes.append(f"denoiser quantised to {scheme} while loading")
    safe = None if files.without_safetensors(names, index) else True
    options = {"dtype": dtype, "variant": variant, "use_safetensors": safe, **given}
    with code_apart() if remote_code else nullcontext():
        pipeline = _attempt(
            reference.base,
            lambda: DiffusionPipeline.from_pretrained(
                str(folder), trust_remote_code=remote_code, **options
            ),
        )
    places = {name: folder / name for name in pipeline.components} | dict(reference.components)
    refuse_empty(pipeline, places)
    if "scheduler" not in reference.components:
        notes += follow_prediction(pipeline)
    return Built(pipeline, digest, notes)


def _refuse_unquantised(scheme: str | None, components: Mapping[str, str]) -> None:
    """Refuse a denoiser that is put in: the pipeline quantises what it loads itself, so it would stay as it is."""
    given = next((name for name in DENOISERS if name in components), None)
    if scheme is not None and given:
        raise ConfigError(
            f"+{QUANTIZE}={scheme} quantises the pipeline's own {given}, not +{given}={components[given]}; save the "
            "pipeline with that part in a folder of its own, and quantise that"
        )


def left_out(index: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that leave parts out: null ones, which diffusers looks for unless told, and censors."""
    given: dict[str, Any] = {
        k: None
        for k, v in index.items()
        if isinstance(v, list) and (v[:1] == [None] or k in files.CENSORS)
    }
    return given | (
        {"requires_safety_checker": False} if "requires_safety_checker" in index else {}
    )


def fetch_pipeline(place: HubPlace, variant: str | None) -> Fetched:
    """The files of a pipeline that are loaded.

    Raises:
        ConfigError: it cannot be had.
    """
    index = files.read_index(fetch_file(place, INDEX).path)
    wanted = partial(files.needed, index=index, variant=variant)
    return fetch_folder(place, INDEX, wanted, files.lacking_in_pipeline)


def refuse_code(folder: Path, index: Mapping[str, Any], allowed: bool) -> None:
    """Refuse a pipeline that brings Python along, unless the user allows it to run.

    Raises:
        ConfigError: it does, and may not.
    """
    asks = [str(index["_class_name"])] if isinstance(index.get("_class_name"), list) else []
    asks += [p.relative_to(folder).as_posix() for p in files_below(folder) if p.suffix == ".py"]
    for path in sorted(folder.glob("*/*config.json")):
        if path.stat().st_size <= files.INDEX_BYTES and '"auto_map"' in path.read_text(
            "utf-8", "replace"
        ):
            asks.append(path.relative_to(folder).as_posix())
    if asks and not allowed:
        raise ConfigError(
            f"{folder} brings code of its own ({', '.join(asks[:3])}), which is not run unasked; read it, then pass "
            "--trust-remote-code"
        )


def _component(
    name: str, source: str, index: Mapping[str, Any], base: Path, dtype: torch.dtype
) -> tuple[Any, str]:
    """A part that was saved on its own, and its digest."""
    if name not in index or not isinstance(index[name], list) or index[name][0] is None:
        raise ConfigError(
            f"this pipeline has no part {name!r} for +{name}={source}; it has {', '.join(files.parts_of(index))}; "
            "other words are lora, config, quantize and variant"
        )
    library, class_name = index[name]
    if library not in ("diffusers", "transformers"):
        raise ConfigError(
            f"+{name}= takes parts of diffusers and transformers; this one is of {library}"
        )
    kind: Any = getattr(importlib.import_module(library), class_name)

    def variant(there: Iterable[str]) -> str | None:
        return files.variant_of([f"{name}/{n}" for n in there if "/" not in n], index, None)

    path, digest = _component_place(name, source, _config_file(kind), variant)
    if path.is_file():
        if not hasattr(kind, "from_single_file"):
            raise ConfigError(f"{kind.__name__} does not load from one file; save it as a folder")
        config = str(base / name)
        return _attempt(source, lambda: from_one_file(kind, path, config, dtype)), digest
    saved = read_component_class(path)
    if saved not in (None, kind.__name__):
        other: Any = getattr(diffusers, str(saved), None)
        if not _solvers(kind, other):  # a solver may be of any class: the protocol names it
            raise ConfigError(f"{source} holds a {saved}; expected a {kind.__name__} for +{name}=")
        kind = other
    loads = kind.from_pretrained
    options: dict[str, Any] = {}
    if issubclass(kind, torch.nn.Module):
        options = {"torch_dtype": dtype, "variant": variant(p.name for p in path.iterdir())}
    return _attempt(source, lambda: loads(str(path), **options)), digest


def _solvers(*kinds: Any) -> bool:
    return all(isinstance(kind, type) and issubclass(kind, SchedulerMixin) for kind in kinds)


def _config_file(kind: type) -> str:
    """The file that a part of a class is never saved without."""
    if issubclass(kind, PreTrainedTokenizerBase):
        return "tokenizer_config.json"
    own = getattr(kind, "config_name", None)
    return own if isinstance(own, str) else "config.json"


def _component_place(
    name: str, source: str, known: str, variant: Callable[[Iterable[str]], str | None]
) -> tuple[Path, str]:
    path = Path(source)
    if not path.exists():
        place = hub_place(source)
        if place is None:
            raise ConfigError(
                f"+{name}={source}: no such file or folder, and not owner/name:subfolder"
            )
        if (place.subfolder or "").endswith(WEIGHTS):
            return _file_on_hub(place)
        fetched = fetch_folder(
            with_folder(place, name, known),
            known,
            lambda names: files.weights_and_words(
                [n for n in names if "/" not in n], variant(names)
            ),
            lambda folder: files.lacking(folder, [""]),
        )
        return fetched.path, fetched.digest
    if path.is_file():
        return path, file_digest(path)
    inside = path / name
    folder = inside if any(inside.glob("*config.json")) else path
    return folder, folder_digest(folder)


def _file_on_hub(place: HubPlace) -> tuple[Path, str]:
    """A file that the place names, and what tells it from others."""
    fetched = fetch_file(HubPlace(place.id, place.revision), place.subfolder or "")
    return fetched.path, f"{fetched.commit}:{place.subfolder}"


def read_component_class(folder: Path) -> str | None:
    """The class that a part was saved by; None where its configuration does not say."""
    names = ("config.json", "scheduler_config.json")
    path = next((folder / n for n in names if (folder / n).is_file()), None)
    if path is None:
        if any(folder.glob("*config.json")):
            return None
        raise ConfigError(
            f"{folder} holds no config.json{held_instead(folder)}; expected a part saved by save_pretrained"
        )
    try:
        return parse_json(path.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); save the part again") from None


def _build_file(
    reference: Reference, path: Path, on_hub: HubPlace | None, dtype: torch.dtype | None
) -> Built:
    """One file with the weights of a whole pipeline."""
    path, known = _file_on_hub(on_hub) if on_hub else (path, "")
    refuse_other_file(path)
    digest = known or file_digest(path)
    if reference.one(QUANTIZE) or reference.components:
        raise ConfigError(
            "one file takes +config= and +lora= only; save it as a folder for other parts"
        )
    refuse_scales(path)
    dtype = dtype or files.dtype_in([path])
    folder, own = _config_of(reference, path)
    index = files.read_index(folder / INDEX)
    kind = getattr(diffusers, str(index.get("_class_name")), None)
    if kind is None or not hasattr(kind, "from_single_file"):
        raise ConfigError(
            f"{index.get('_class_name')} does not load from one file; expected a folder"
        )
    encoders = _attempt(str(path), lambda: encoders_beside(path, index, folder, dtype))
    pipeline = _attempt(
        str(path),
        lambda: kind.from_single_file(
            str(path),
            config=str(folder),
            torch_dtype=dtype,
            local_files_only=True,
            **left_out(index) | encoders,
        ),
        f"; expected all weights of a {kind.__name__}, as its configuration says; {ONE_NETWORK}",
    )
    refuse_empty(pipeline, dict.fromkeys(pipeline.components, path))
    notes = [f"configuration of {folder}", *follow_prediction(pipeline, path)]
    return Built(pipeline, f"{digest}+{CONFIG}:{own}", notes)


def _config_of(reference: Reference, path: Path) -> tuple[Path, str]:
    """The folder that says how a single file's parts are built, and its digest."""
    named = reference.one(CONFIG)
    if named and Path(named).is_dir():
        return Path(named), folder_digest(Path(named))
    wanted = named or _guessed(path)
    place = hub_place(wanted)
    if place is None:
        raise ConfigError(
            f"+config={wanted}: no such folder, and not owner/name@revision:subfolder"
        )
    try:
        fetched = fetch_folder(place, INDEX, _no_weights, lambda folder: "")
    except ConfigError as error:
        raise ConfigError(
            f"{path.name} needs the configuration of {wanted}: {error}; or pass --config FOLDER"
        ) from None
    return fetched.path, fetched.digest


def _no_weights(names: list[str]) -> list[str]:
    return [n for n in names if n.endswith((".json", ".txt", ".model", ".jinja"))]


def _guessed(path: Path) -> str:
    """The hub id whose configuration diffusers takes for a file of this family."""
    tensors = _attempt(str(path), lambda: load_single_file_checkpoint(str(path)))
    if infer_diffusers_model_type(tensors) == "v1" and not any(
        k.startswith("cond_stage_model") for k in tensors
    ):
        raise ConfigError(
            f"cannot tell what {path} is from its tensors ({', '.join(sorted(tensors)[:2])}, ...); pass --config with "
            f"a folder or hub id whose configuration it has; {ONE_NETWORK}"
        )
    return default_config(tensors)["pretrained_model_name_or_path"]


def _attempt(source: str, load, remedy: str = "") -> Any:
    """What `load` gives, or one line for the user, with what else it may be."""

    def refusal(error: Exception) -> ConfigError:
        kind = type(error).__name__
        reason = (str(error).strip() or kind).splitlines()[0]
        if isinstance(error, ImportError):
            return MissingExtra(f"{source} needs a package that is not installed: {reason}")
        reason = f"{kind}: {reason}" if isinstance(error, LookupError) else reason
        return ConfigError(
            f"{source} does not load as a diffusers pipeline: {reason.rstrip('.')}{remedy}; where a file is damaged, "
            "fetch or save it again"
        )

    with ForeignErrors(refusal, but=(torch.OutOfMemoryError,)):
        return load()
