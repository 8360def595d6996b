"""Images that something else made become a run: scored, tabled, compared and reported as any other.

Nothing is known of how they were drawn, and the run says so: its protocol's noise is `given`, its size is what the
files have, every other setting is left open, and its rows are not publishable.
"""

import datetime
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nftbench.benchmark import own
from nftbench.benchmark.named_files import (
    ENDINGS,
    geneval_folders,
    geneval_notes,
    id_of,
    named_after,
    pictures,
    refuse_missing,
    refuse_unread,
    samples_of,
    unread_note,
)
from nftbench.benchmark.prompts import (
    check_id,
    json_object,
    refuse_unfit,
    required,
    scene,
    text_lines,
)
from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import Sample
from nftbench.benchmark.schema import Benchmark, Protocol, SamplingDefaults
from nftbench.evaluation.image_lists import read_import_list
from nftbench.evaluation.images import image_origin
from nftbench.runs.lock import hold
from nftbench.runs.manifest import strangers
from nftbench.runs.run_folder import Run
from nftbench.runs.versions import versions
from rewards.base import ConfigError, Progress, Prompt
from rewards.images.pixels import ImageError, Picture, read_picture

GIVEN = "images given"
"""What a manifest says in the place of a pipeline."""
NOT_KNOWN = "images given: nothing is known of how they were drawn"
MOST = 1 << 20
"""Images of one run."""
BATCH = 16
"""Images scored at once."""


@dataclass(frozen=True, slots=True)
class GivenImage:
    """A file, and what was asked for it."""

    path: Path
    prompt: Prompt


def import_images(
    source: Path,
    name: str,
    out: Path,
    *,
    benchmark: str | None = None,
    prompts: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Run:
    """Make a run of finished images.

    Args:
        source: GenEval's folder (`00000/metadata.jsonl`, `00000/samples/*.png`), a list (`.jsonl` with `image` and
            `prompt`; absolute paths are welcome), or a folder of images with their prompts: see `_folder`.
        name: of the model that made them.
        out: the run's folder; new.
        benchmark: whose prompts they answer; None makes a benchmark of the prompts that are found.
        prompts: the prompt file of a plain folder.
        progress: called after each image.

    Raises:
        ConfigError: what is there is none of these, an image that cannot be read, prompts that the benchmark does not
            ask, or an `out` that holds something; nothing is left behind.
    """
    if not name.strip() or not name.isprintable():
        raise ConfigError(f"expected the model's name on one line, got {name!r}")
    if out.exists() and (not out.is_dir() or strangers(out)):
        raise ConfigError(f"{out} holds something already; choose another --out")
    loaded = load_benchmark(benchmark) if benchmark else None
    images = read_source(source, loaded.load() if loaded else None, prompts)
    if loaded is None:
        loaded, samples = _own_benchmark(source, images)
    else:
        samples = _samples(images, loaded.load(), loaded.name, source)
    ids = {i.prompt.id for i in images}
    notes = [*uneven_note(images), *unread_note(source, ids), *geneval_notes(source)]
    with hold(out):
        if strangers(out):  # of a command that was faster
            raise ConfigError(f"{out} holds something already; choose another --out")
        try:
            return _written(Run(out), name, loaded, samples, notes, progress)
        except BaseException:
            for left in (out / name for name in strangers(out)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            raise


def read_source(
    source: Path, known: Sequence[Prompt] | None, prompts: Path | None
) -> list[GivenImage]:
    """The images of a source with their prompts, in its order."""
    layout = geneval_folders(source)
    if prompts and (source.is_file() or layout):
        raise ConfigError(
            f"--prompts {prompts} goes with a folder of images alone; {source} says itself what each was asked for"
        )
    if source.is_file():
        found = [GivenImage(file, prompt) for file, prompt in read_import_list(source)]
    elif source.is_dir():
        if layout:
            _refuse_unnamed(source, layout)
            first: dict[str, str] = {}
            found = [image for folder in layout for image in _geneval(folder, first)]
        else:
            known = own.read_prompts(prompts, drawn=False) if prompts else known
            found = list(_folder(source, known))
            if prompts and known and found:
                refuse_missing(known, {image.prompt.id for image in found}, str(prompts), source)
    else:
        raise ConfigError(f"neither a folder nor a list of images: {source}")
    if not found:
        raise ConfigError(f"{source}: no image in it ({', '.join(sorted(ENDINGS))})")
    if len(found) > MOST:
        raise ConfigError(f"{source}: expected at most {MOST} images, got {len(found)}")
    return found


# --- where images and prompts are found -----------------------------------------------------------


def _refuse_unnamed(source: Path, named: Sequence[Path]) -> None:
    """Refuse GenEval's folder of which some images lost their prompt: they would be left out in silence."""
    lost = sorted({p.parent for p in source.glob("*/samples")} - set(named))
    if lost:
        raise ConfigError(
            f"{lost[0]} has samples but no metadata.jsonl, which says what they show; put it back, or take the folder "
            "away"
        )


def _geneval(folder: Path, first: dict[str, str]) -> Iterator[GivenImage]:
    """One prompt of GenEval's layout; `first` holds the cluster of each text that was seen.

    Source: djghosh13/geneval@af4902f generation/diffusers_generate.py, which writes it.
    """
    path = folder / "metadata.jsonl"
    try:
        first_line, *more = [line for line in text_lines(path, own.bounded(path)) if line.strip()]
        if more:
            raise ConfigError(f"expected one line, of this folder's prompt; got {1 + len(more)}")
        record = json_object(first_line)
        text, tag = required(record, "prompt", str), str(record.get("tag", ""))
        prompt = Prompt(id=check_id(folder.name), text=text, tag=tag, target=scene(record))
        if (cluster := first.setdefault(text, prompt.id)) != prompt.id:
            prompt = replace(prompt, cluster=cluster)
        refuse_unfit(prompt)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    samples = folder / "samples"
    if not (found := samples_of(samples)[0] if samples.is_dir() else []):
        raise ConfigError(f"{samples}: expected GenEval's images, such as 0000.png; found none")
    yield from (GivenImage(image, prompt) for image in found)


def _folder(folder: Path, known: Sequence[Prompt] | None) -> Iterator[GivenImage]:
    """Images of one folder: named after their prompt's id (`00012.png`, `00012-03.png`), or each with its `.txt`."""
    by_id = {p.id: p for p in known or ()}
    first: dict[str, str] = {}
    if known is None:
        refuse_unread(folder, {path.stem for path in folder.glob("*.txt")})
    for path in pictures(folder):
        caption = path.with_suffix(".txt")
        if known is not None:
            found = by_id.get(named_after(path, by_id.keys()) or "")
            if found is None:
                raise ConfigError(
                    f"{path.name} is named after no prompt; expected ID.png or ID-NUMBER.png, such as "
                    f"{known[0].id}-00.png"
                )
            yield GivenImage(path, found)
        elif caption.is_file():
            text = " ".join(text_lines(caption, own.bounded(caption))).strip()
            if not text:
                raise ConfigError(f"{caption}: expected the image's prompt, got an empty file")
            yield GivenImage(path, own.prompt_of({"prompt": text}, id_of(path.stem), first))
        else:
            raise ConfigError(
                f"nothing says what {path} shows: pass --prompts FILE or --benchmark NAME, or put the prompt in "
                f"{caption.name} beside it"
            )


# --- whose prompts they are -----------------------------------------------------------------------


def _own_benchmark(
    source: Path, images: Sequence[GivenImage]
) -> tuple[Benchmark, list[tuple[Sample, Path]]]:
    """A benchmark of the prompts that were found.

    Where prompts have different numbers of images, each image is asked for by itself, and those of one prompt are one
    cluster.
    """
    of = _by_prompt(images)
    counts = {len(paths) for _, paths in of}
    if len(counts) == 1:
        each = counts.pop()
        prompts = [prompt for prompt, _ in of]
        chosen = [(Sample(p, i), path) for p, paths in of for i, path in enumerate(paths)]
    else:
        each, chosen = 1, []
        for prompt, paths in of:
            for i, path in enumerate(paths):
                own_cluster = prompt.cluster or prompt.id
                one = replace(prompt, id=f"{prompt.id}.{i:02d}", cluster=own_cluster)
                chosen.append((Sample(one, 0), path))
        prompts = [sample.prompt for sample, _ in chosen]
    stem = source.stem if source.is_file() else source.resolve().name
    return load_benchmark(own.add_benchmark(stem, prompts, images_per_prompt=each)), chosen


def uneven_note(images: Sequence[GivenImage]) -> list[str]:
    """Said where prompts have different numbers of images; nothing where all have as many."""
    counts = Counter(image.prompt.id for image in images).values()
    least, most = min(counts), max(counts)
    fewer = sum(count < most for count in counts)
    if not fewer:
        return []
    return [
        f"uneven: {least} to {most} images a prompt, {fewer} of {len(counts)} prompts have fewer than {most}; every "
        "image counts once, so prompts with more weigh more"
    ]


def _by_prompt(images: Sequence[GivenImage]) -> list[tuple[Prompt, list[Path]]]:
    found: dict[str, tuple[Prompt, list[Path]]] = {}
    for image in images:
        prompt, paths = found.setdefault(image.prompt.id.lower(), (image.prompt, []))
        if prompt != image.prompt:
            raise ConfigError(
                f"{image.path}: prompt {prompt.id!r} is {prompt.text!r} for {paths[0].name} and {image.prompt.text!r} "
                f"(id {image.prompt.id!r}) here; give different prompts different ids, upper and lower case being one"
            )
        paths.append(image.path)
    return list(found.values())


def _samples(
    images: Sequence[GivenImage], prompts: Sequence[Prompt], name: str, source: Path
) -> list[tuple[Sample, Path]]:
    """The images as answers to a benchmark's prompts, found by what they say.

    Raises:
        ConfigError: a prompt that the benchmark does not ask, one without an image, or different numbers of images.
    """
    by_content: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_content.setdefault(_content(prompt), []).append(prompt)
    answers: dict[str, list[Path]] = {}
    for image in images:
        content = _content(image.prompt)
        if content not in by_content:
            raise ConfigError(f"{name} does not ask {image.prompt.text!r} ({image.path})")
        answers.setdefault(content, []).append(image.path)
    found = {i: p for c, paths in answers.items() for i, p in _shared(paths, by_content[c])}
    refuse_missing(prompts, found.keys(), name, source)
    counts = Counter(map(len, found.values()))
    if len(counts) > 1:
        raise ConfigError(
            f"{name}: expected every prompt to have as many images, got {dict(sorted(counts.items()))} "
            "(images: prompts)"
        )
    return [(Sample(p, i), path) for p in prompts for i, path in enumerate(found[p.id])]


def _shared(paths: Sequence[Path], equal: Sequence[Prompt]) -> Iterator[tuple[str, list[Path]]]:
    """The images of one text by prompt, as many to each of those that ask it alike, in their order."""
    each = max(1, len(paths) // len(equal))
    for place, prompt in enumerate(equal[: len(paths)]):
        last = None if place == len(equal) - 1 else (place + 1) * each
        yield prompt.id, list(paths[place * each : last])


def _content(prompt: Prompt) -> str:
    return json.dumps([prompt.text.strip(), prompt.tag, prompt.target], sort_keys=True)


# --- the run --------------------------------------------------------------------------------------


def protocol_of(
    benchmark: Benchmark, images_per_prompt: int, size: tuple[int, int] | None
) -> Protocol:
    """What is known of given images: which prompts, how many images, and their size where all have one."""
    height, width = size or (None, None)
    open_settings = dict.fromkeys(SamplingDefaults.model_fields)
    told = {"images_per_prompt": images_per_prompt, "height": height, "width": width}
    return benchmark.protocol().model_copy(
        update=open_settings | told | {"noise": "given", "dtype": None}
    )


def _written(
    run: Run,
    name: str,
    benchmark: Benchmark,
    samples: Sequence[tuple[Sample, Path]],
    notes: Sequence[str],
    progress: Progress,
) -> Run:
    each = max(sample.index for sample, _ in samples) + 1
    size, converted = _looked_at([path for _, path in samples])
    protocol = protocol_of(benchmark, each, size)
    digest = save(run, benchmark.name, samples, protocol, progress)
    run.keep_benchmarks([benchmark.name])
    run.save_manifest(_manifest(name, digest, benchmark.name, protocol, [*notes, *converted]))
    return run


def save(
    run: Run,
    benchmark: str,
    samples: Sequence[tuple[Sample, Path]],
    protocol: Protocol,
    progress: Progress,
) -> str:
    """Write the images as PNG, the same pixels, and what binds them to the run.

    Returns:
        First 16 hexadecimal digits of the sha256 over all files given: it stands for the checkpoint's.
    """
    files = (hashlib.sha256(path.read_bytes()).digest() for _, path in samples)
    whole = hashlib.sha256(b"".join(files)).hexdigest()[:16]
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        pixels = [_picture(path).pixels for _, path in batch]
        origin = image_origin(whole, protocol)
        run.save_images(benchmark, start // BATCH, [s for s, _ in batch], pixels, origin)
        progress(f"{benchmark}: images", start + len(batch), len(samples))
    return whole


def _looked_at(paths: Sequence[Path]) -> tuple[tuple[int, int] | None, list[str]]:
    """Height and width of the images, where all have one, and how many were converted in which way."""
    sizes, converted = set(), Counter()
    for path in paths:
        picture = _picture(path)
        sizes.add(picture.pixels.shape[:2])
        converted[picture.converted] += 1
    notes = [f"{count} images: {how}" for how, count in converted.items() if how]
    if len(sizes) > 1:
        (least, *_, most) = sorted(sizes, key=math.prod)
        shown = " to ".join(f"{width}x{height}" for height, width in (least, most))
        notes.append(
            f"{len(sizes)} sizes, {shown} pixels (width x height); some rewards go by the size"
        )
    return (sizes.pop() if len(sizes) == 1 else None), notes


def _picture(path: Path) -> Picture:
    try:
        return read_picture(path)
    except ImageError as error:
        raise ConfigError(f"{path} cannot be read as an image: {error}") from None


def _manifest(
    name: str, digest: str, benchmark: str, protocol: Protocol, notes: Sequence[str]
) -> Mapping[str, Any]:
    return {
        "kind": "eval",
        "checkpoint": {"name": name, "digest": digest, "pipeline": GIVEN},
        "suite": benchmark,
        "batch_size": BATCH,
        "date": datetime.date.today().isoformat(),
        "protocols": {benchmark: protocol.model_dump(mode="json")},
        "protocol_hashes": {benchmark: protocol.hash},
        "drawn": {benchmark: {"notes": [NOT_KNOWN, *notes]}},
        "rewards": {benchmark: {}},
        "versions": versions(),
    }
