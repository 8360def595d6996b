"""Which files of a saved pipeline are loaded: one set of weights a part, and what stands beside it."""

import inspect
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open

from nftbench.generation.sources.mistaken import held_instead
from nftbench.generation.sources.reference import INDEX
from nftbench.parsing import parse_json
from rewards.base import ConfigError

_WEIGHTS = re.compile(
    r"(?P<stem>[^/.]+?)(?:\.(?P<variant>[A-Za-z]\w*))?(?:-\d+-of-\d+)?(?:\.(?P<late>[A-Za-z]\w*))?"
    r"\.(?P<ending>safetensors|bin)(?:\.index(?:\.(?P<listed>[A-Za-z]\w*))?\.json)?"
)
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Names that safetensors gives the precisions a model may run in."""
INDEX_BYTES = 1_000_000
"""Bound of a `model_index.json`; real ones have 2 kB."""
PART_BYTES = 30_000_000
"""Bound of a part's configuration or index of weights; real ones have at most a few hundred kB."""
_OTHER = (".onnx", ".onnx_data", ".msgpack", ".h5", ".ckpt", ".gguf", ".pb", ".xml", ".pt", ".pth")
"""Endings of weights for other programs."""

CENSORS = ("safety_checker",)
"""Parts that black images out: an image that was drawn must be scored as it was drawn."""
DIFFERENCES = "_differences_from_own"
"""Attribute of a part that was put into a pipeline: in what it differs, in words."""
UNSHAPED = ("architectures", "dtype", "torch_dtype", "transformers_version", "sample_size")
"""Of a part's configuration: what says nothing of what it takes and gives."""


def parts_of(index: Mapping[str, Any]) -> list[str]:
    """Names of the parts that an index says are there."""
    return [k for k, v in index.items() if isinstance(v, list) and v and v[0] is not None]


def read_index(path: Path) -> dict[str, Any]:
    """Content of a pipeline's `model_index.json`.

    Raises:
        ConfigError: it is not there, or is not one.
    """
    if not path.is_file():
        raise ConfigError(
            f"not a valid checkpoint: {path.parent} holds no {INDEX}{held_instead(path.parent)}; expected a "
            "folder saved by a diffusers pipeline"
        )
    try:
        if path.stat().st_size > INDEX_BYTES:
            raise ValueError(f"larger than {INDEX_BYTES} bytes")
        index = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); save the pipeline again") from None
    if not isinstance(index, dict):
        raise ConfigError(
            f"{path}: expected a JSON object, got a {type(index).__name__}; save the pipeline again"
        )
    if not isinstance(index.get("_class_name"), str | list):
        raise ConfigError(
            f"{path} names no pipeline: expected a text _class_name, got {index.get('_class_name')!r}; save the "
            "pipeline again"
        )
    return index


def loaded_parts(path: Path, index: Mapping[str, Any]) -> set[str]:
    """The parts of an index that its pipeline takes; others are passed over by diffusers.

    Raises:
        ConfigError: the class is not a pipeline of diffusers, or a part is not named by library and class.
    """
    kind = getattr(diffusers, str(index["_class_name"]), None)
    if hasattr(
        kind, "_backends"
    ):  # stands for a class whose packages are missing: the loader names them
        return set()
    if not (isinstance(kind, type) and issubclass(kind, DiffusionPipeline)):
        raise ConfigError(
            f"{path} names {index['_class_name']!r}, which is not a pipeline of the installed diffusers; "
            "expected a text-to-image pipeline, such as StableDiffusion3Pipeline"
        )
    taken = set(kind._get_signature_keys(kind)[0]) & set(index)
    for name in sorted(taken):
        named = index[name]
        if not (
            isinstance(named, list) and list(map(type, named)) in ([str, str], [type(None)] * 2)
        ):
            raise ConfigError(
                f"{path}: {name} is {str(named)[:80]!r}; expected [library, class]: save the pipeline again"
            )
    return taken & set(parts_of(index))


def refuse_unsound(folder: Path, parts: Iterable[str], variant: str | None) -> None:
    """Refuse a saved pipeline that lacks what its own files name, before any loader stumbles over it.

    Args:
        folder: the pipeline's.
        parts: those that are loaded from it.
        variant: of several sets of weights, the one that is loaded.

    Raises:
        ConfigError: a part's folder, a configuration that is a JSON object, or a file of sharded weights is not there.
    """
    in_the_root = any(folder.glob("*config.json"))  # as pipelines of one part were saved once
    for part in parts:
        names = {p.name for p in (folder / part).glob("*") if p.is_file()}
        if not names and not in_the_root:
            raise ConfigError(
                f"{folder} holds no files of the part {part!r} that its {INDEX} names; save or fetch the pipeline again"
            )
        for name in sorted(weights_and_words(sorted(names), variant)):
            if name.endswith("config.json"):
                _read_object(folder / part / name)
            lost = shards(folder / part / name) - names if name.endswith(".index.json") else ()
            if lost:
                raise ConfigError(
                    f"{folder / part} lacks {min(lost)}, which {name} names; fetch or save it again"
                )


def lacking_in_pipeline(folder: Path) -> str:
    """What a pipeline's folder lacks: see `lacking`.

    Raises:
        ConfigError: there is no index, or a broken one.
    """
    parts = parts_of(read_index(folder / INDEX))
    return lacking(folder, [part for part in parts if part not in CENSORS])


def lacking(folder: Path, parts: Iterable[str]) -> str:
    """What a pipeline's folder in a cache lacks that was fetched in part only, in words; empty for a whole one.

    Args:
        folder: the pipeline's; or that of a part, which has no name then.
        parts: those that are looked for.

    Raises:
        ConfigError: an index of weights that is none.
    """
    for part in parts:
        inside = [p for p in (folder / part).glob("*") if p.is_file()]
        names = {p.name for p in inside}
        of = f" of {part}" if part else ""
        if not inside:
            return f"files{of}"
        if "config.json" in names and not any(p.suffix in (".safetensors", ".bin") for p in inside):
            return f"weights{of}"
        indices = [p for p in inside if p.name.endswith(".index.json")]
        if lost := set[str]().union(*map(shards, indices)) - names:
            return f"{min(lost)}{of}"
    return ""


def _read_object(path: Path) -> dict[str, Any]:
    """The content of a part's JSON.

    Raises:
        ConfigError: it is not a JSON object.
    """
    try:
        found = parse_json(_beginning(path, PART_BYTES))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}, not an object")
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not valid ({error}); save or fetch it again") from None
    return found


def shards(path: Path) -> set[str]:
    """The files that an index of weights names.

    Raises:
        ConfigError: it is not one.
    """
    named = _read_object(path).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(n, str) for n in named.values()):
        raise ConfigError(
            f"{path} is not an index of weights: expected a weight_map of file names; save or fetch it again"
        )
    return set(named.values())


def needed(names: Iterable[str], index: Mapping[str, Any], variant: str | None) -> list[str]:
    """The files that are loaded, of all that a pipeline was saved with.

    Args:
        names: all files, as seen from the pipeline's folder.
        index: content of its `model_index.json`.
        variant: of several sets of weights, this one.

    Raises:
        ConfigError: no such variant, or a choice that only the user can make.
    """
    everything, folders = list(names), set(parts_of(index))
    chosen = variant_of(everything, index, variant)
    kept = [n for n in everything if "/" not in n and n.endswith((".json", ".py"))]
    for folder in sorted(folders):
        inside = [n for n in everything if n.startswith(f"{folder}/")]
        kept += weights_and_words(inside, chosen)
    return kept


def weights_and_words(names: list[str], variant: str | None) -> list[str]:
    """Of one part's files: its configuration and vocabulary, and the one set of weights that is loaded."""
    weights = {n: w for n in names if (w := _read(n))}
    sets = set(weights.values())
    order = [(v, e) for v in (variant, None) for e in ("safetensors", "bin")]
    best = next((one for one in order if one in sets), None)
    words = [n for n in names if n not in weights and not n.endswith(_OTHER)]
    return words + [n for n, w in weights.items() if w == best]


def variant_of(names: Iterable[str], index: Mapping[str, Any], wanted: str | None) -> str | None:
    """The variant that has to be named when loading; None where every part has weights without one.

    Raises:
        ConfigError: the wanted one is not there, or there are several and none without a name.
    """
    there: dict[str, set[str | None]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder in parts_of(index) and (weights := _read(file)):
            there.setdefault(folder, set()).add(weights.variant)
    known = sorted({v for variants in there.values() for v in variants if v})
    if wanted:
        if wanted not in known:
            raise ConfigError(
                f"no weights of variant {wanted!r}; there are {', '.join(known) or 'none but the plain ones'}"
            )
        return wanted
    only = [variants for variants in there.values() if None not in variants]
    if not only:
        return None
    common = sorted(v for v in set.intersection(*map(set, only)) if v)
    if len(common) != 1:
        raise ConfigError(
            f"weights of several variants and none without ({', '.join(known)}); name one behind +variant="
        )
    return common[0]


def without_safetensors(names: Iterable[str], index: Mapping[str, Any]) -> bool:
    """Whether a part's weights are there as `.bin` alone."""
    endings: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder in parts_of(index) and (weights := _read(file)):
            endings.setdefault(folder, set()).add(weights.ending)
    return any("safetensors" not in some for some in endings.values())


def stored_dtype(folder: Path, index: Mapping[str, Any], variant: str | None) -> torch.dtype:
    """The precision in which most of a pipeline's own networks (those of diffusers) are stored: see `dtype_in`."""
    found = []
    for part in parts_of(index):
        if index[part][0] == "diffusers":
            names = [p.name for p in (folder / part).glob("*.safetensors")]
            found += [folder / part / n for n in weights_and_words(names, variant)]
    return dtype_in(found)


def dtype_in(paths: Iterable[Path]) -> torch.dtype:
    """The precision of most numbers in files of safetensors; bfloat16 where it is none that a model may run in.

    Without such a file, float32. A file that cannot be read is left to the loader.
    """
    counted: Counter[str] = Counter()
    for path in paths:
        with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
            parts = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
            for part in parts:
                counted[part.get_dtype()] += math.prod(part.get_shape())
    if not counted:
        return torch.float32
    return _DTYPES.get(counted.most_common(1)[0][0], torch.bfloat16)


class _Weights(NamedTuple):
    """What a file's name says of the weights in it."""

    variant: str | None
    ending: str


def _read(name: str) -> _Weights | None:
    """What the name of a file of weights says; None for any other file."""
    found = _WEIGHTS.fullmatch(name.rpartition("/")[2])
    if not found or found["stem"] in ("optimizer", "scheduler", "training_args", "non_ema"):
        return None
    variant = found["variant"] or found["late"] or found["listed"]
    return _Weights(variant, found["ending"])


def _beginning(path: Path, bound: int = INDEX_BYTES) -> bytes:
    """At most so many bytes of a file."""
    with path.open("rb") as file:
        return file.read(bound)


def note_differences(part: Any, reference: str, own: Path) -> None:
    """Note on a part that was put in how it is configured otherwise than the pipeline's own, for `said_differences`.

    Nothing is refused for it: another depth or width may well be drawn with. Where the pipeline then cannot draw, this
    is most likely why.

    Args:
        part: as it was loaded.
        reference: as the user wrote it: `+unet=PATH`.
        own: folder of the part that it stands for.
    """
    path = own / "config.json"
    if not path.is_file() or not hasattr(part, "config"):
        return
    arguments = inspect.signature(type(part).__init__).parameters
    defaults = {n: p.default for n, p in arguments.items() if p.default is not p.empty}
    before = {**defaults, **_read_object(path)}
    now = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    named = sorted(k for k in now.keys() & before.keys() if k[0] != "_" and k not in UNSHAPED)
    other = [
        k for k in named if json.dumps(now[k], default=str) != json.dumps(before[k], default=str)
    ]
    if other:
        shown = ", ".join(f"{k} {now[k]!r} (own {before[k]!r})" for k in other[:6])
        setattr(
            part,
            DIFFERENCES,
            f"{reference} is configured otherwise than the pipeline's own part: {shown}",
        )


def said_prediction(solver: Any, reference: str, own: Path) -> list[str]:
    """What is said of a solver that was put in and takes the network's output for something else than its own did.

    Args:
        solver: as it was loaded.
        reference: as the user wrote it: `+scheduler=PATH`.
        own: folder of the one whose place it takes; of parts that are no solvers nothing is said.
    """
    path = own / "scheduler_config.json"
    if not path.is_file():
        return []
    # Solvers of flow matching alone have no such field.
    configs = (_read_object(path), solver.config)
    before, now = (config.get("prediction_type", "flow_prediction") for config in configs)
    if before == now:
        return []
    return [
        f"{reference} takes what the network predicts for {now}, the checkpoint's own solver for {before}"
    ]


def said_differences(pipeline: DiffusionPipeline) -> str:
    """What `note_differences` noted on the parts of a pipeline, and what to do; empty where nothing was."""
    noted = [getattr(part, DIFFERENCES, "") for part in pipeline.components.values()]
    found = "; ".join(filter(None, noted))
    return f"; {found}; expected a part of this pipeline's family" if found else ""
