"""Lists of images that anything made: read, scored file by file, saved as it goes."""

import datetime
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow

from nftbench.benchmark import own
from nftbench.benchmark.prompts import (
    check_id,
    json_object,
    refuse_too_long,
    required,
    scene,
    text_lines,
)
from nftbench.benchmark.samples import Sample
from nftbench.evaluation.scoring.files import (
    any_failed,
    refuse_unscorable,
    score_files,
    scorer_identity,
)
from nftbench.runs.io import as_frame, followed, write_atomic, write_table
from nftbench.runs.lock import hold
from nftbench.runs.row_files import shielded
from nftbench.runs.rows import Provenance, Row, summarise
from nftbench.runs.run_folder import Run, as_text, score_table
from rewards.base import ConfigError, Progress, Prompt, Reward

ENDINGS = (".csv", ".parquet")
"""Of a file that a list's scores go to."""


def read_image_list(path: Path) -> tuple[list[Path], list[Prompt]]:
    """Read a list of images: JSON lines with `image` (a path beside the list) and `prompt`.

    `id`, `tag`, `include` and `exclude` may stand beside them, for rewards that need GenEval's metadata, and
    `cluster`, by which intervals are taken. Lines without an `id` of one text and tag are images of one prompt, and
    those of one text one cluster.

    Raises:
        ConfigError: a broken line, with file and line number, or a path that leaves the list's folder; not UTF-8.
    """
    if not path.is_file():
        raise ConfigError(f"no image list {path}")
    paths, prompts = [], []
    known: dict[tuple[str, str | None], str] = {}
    named: dict[str, Prompt] = {}
    for number, line in enumerate(text_lines(path, own.bounded(path)), start=1):
        try:
            file, prompt = _entry(line, path, number, known)
            _refuse_another(prompt, named.setdefault(prompt.id, prompt))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {as_text(str(error))}") from None
        paths.append(file)
        prompts.append(prompt)
    return paths, prompts


def _entry(
    line: str, path: Path, number: int, known: dict[tuple[str, str | None], str]
) -> tuple[Path, Prompt]:
    """A line's file and prompt; `known` holds the ids of prompts without one, by text and tag (None: any tag)."""
    record = json_object(line)
    name = required(record, "image", str)
    if "\0" in name:
        raise ConfigError(f"expected 'image' to be a path, got {name!r}, which holds a null byte")
    said = own.by_meaning({k: v for k, v in record.items() if k != "image"})
    target = scene(said)
    text, tag = required(said, "prompt", str), as_text(own.as_text(said, "tag"))
    refuse_too_long(text)
    own_id = said["id"] if "id" in said else known.setdefault((text, tag), f"{number - 1:05d}")
    origin = f"{path.name}, line {number}"
    prompt = Prompt(id=check_id(own_id), text=text, tag=tag, target=target, origin=origin)
    cluster = as_text(own.as_text(said, "cluster"))
    if not cluster and "id" not in said:
        cluster = known.setdefault((text, None), prompt.id)
    prompt = replace(prompt, cluster="" if cluster == prompt.id else cluster)
    return _inside(path.parent, name), prompt


def read_import_list(path: Path) -> Iterator[tuple[Path, Prompt]]:
    """Images of a list that become a run, which absolute paths may name; each with its prompt.

    Lines of one text and tag without an `id` are images of one prompt, those of one text one cluster.

    Raises:
        ConfigError: a broken line, no image where it says, or one that stands there for its prompt already, with file
            and line number.
    """
    known: dict[tuple[str, str], str] = {}
    seen: dict[tuple[Path, str, str], int] = {}
    first: dict[str, str] = {}
    for number, line in enumerate(text_lines(path, own.bounded(path)), start=1):
        try:
            record = json_object(line)
            image = required(record, "image", str)
            if "\0" in image:
                raise ConfigError(f"expected 'image' to be a path, got {image!r}")
            said = own.by_meaning({k: v for k, v in record.items() if k != "image"})
            content = own.as_text(said, "prompt"), own.as_text(said, "tag")
            place = known.setdefault(content, f"{number - 1:05d}")
            prompt = own.prompt_of(said, place, {} if "id" in said else first)
            prompt = replace(prompt, origin=f"{path.name}, line {number}")
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
        file = path.parent / image
        if not file.is_file():
            raise ConfigError(f"{path}, line {number}: no image {file}")
        if (before := seen.setdefault((file.resolve(), prompt.text, prompt.tag), number)) != number:
            raise ConfigError(
                f"{path}, line {number}: {image} is an image of this prompt in line {before} already, and would count "
                "twice; leave one of them out"
            )
        yield file, prompt


def _refuse_another(prompt: Prompt, first: Prompt) -> None:
    """Refuse an id of two prompts: intervals would take their images for those of one."""
    if (prompt.text, prompt.tag) != (first.text, first.tag):
        raise ConfigError(
            f"id {prompt.id!r} is {first.text[:60]!r} in {first.origin}, and {prompt.text[:60]!r} here; give "
            "different prompts different ids"
        )


def _inside(folder: Path, name: str) -> Path:
    try:
        file = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a link to itself; a name that no file can have
        return folder / as_text(name)
    if not file.is_relative_to(folder.resolve()):
        raise ConfigError(f"{name!r} leaves the list's folder; put the list above its images")
    return file


def scores_file(path: Path, images: Sequence[Path], out: Path | None) -> Path:
    """Where a list's scores go.

    Args:
        path: the list.
        images: its images.
        out: what the user named; None is LIST.scores.parquet.

    Raises:
        ConfigError: an unknown ending, or a file that the list is made of.
    """
    written = out or path.with_suffix(".scores.parquet")
    if written.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{written}: expected a file that ends in {' or '.join(ENDINGS)}")
    if written.exists() and not written.is_file():
        raise ConfigError(f"{written} is not an ordinary file; choose another --out")
    if written.resolve() in {path.resolve(), *images}:
        raise ConfigError(
            f"{written} is the list itself or one of its images; choose another --out"
        )
    return written


def score_list(
    path: Path, rewards: Mapping[str, Reward], batch_size: int, out: Path | None, progress: Progress
) -> tuple[list[Row], pd.DataFrame, Path]:
    """Score the images that a list names.

    What is done is kept in a folder beside the scores until the last image: the same command again resumes there, and
    takes over what was given to the same image bytes, for the same prompt, by the same scorer.

    Returns:
        Rows, one row an image, and the file that it was written to.

    Raises:
        ConfigError: a broken list, an `out` that will not do, or a reward that cannot score its prompts.
    """
    paths, prompts = read_image_list(path)
    written = scores_file(path, paths, out)
    for reward in rewards.values():
        refuse_unscorable(reward, prompts)
    table = pd.DataFrame(
        {
            "key": [f"{i:06d}" for i in range(len(paths))],
            "prompt_id": [p.id for p in prompts],
            "tag": [p.tag for p in prompts],
            "cluster": [p.cluster or p.id for p in prompts],
            "prompt": [as_text(p.text) for p in prompts],
            "image": [_shown(p, path.parent.resolve()) for p in paths],
            "sha256": [_digest(p) for p in paths],
        }
    )
    if table["cluster"].equals(table["prompt_id"]):
        table = table.drop(columns="cluster")
    kept = Run(written.with_name(f".{written.name}.parts"))
    try:
        with hold(kept.folder):
            for reward in rewards.values():
                scores = _scored(kept, reward, table, paths, prompts, batch_size, progress)
                table = pd.concat([table, scores.drop(columns="key")], axis=1)
            whole = table.drop(columns="key")
            _write(written, whole)
            shutil.rmtree(kept.folder / "list")
    finally:
        if not any(p.is_file() for p in kept.folder.rglob("*")):
            shutil.rmtree(kept.folder, ignore_errors=True)
    about = Provenance(
        model=path.parent.resolve().name,
        checkpoint="",
        benchmark=path.name,
        protocol="",
        limited=True,  # nobody knows how these images were made
        by_task=any(table["tag"]),
        date=datetime.date.today(),
    )
    return summarise(whole, [r.info for r in rewards.values()], about), whole, written


def _scored(
    kept: Run,
    reward: Reward,
    table: pd.DataFrame,
    paths: Sequence[Path],
    prompts: Sequence[Prompt],
    batch_size: int,
    progress: Progress,
) -> pd.DataFrame:
    """One reward's `score_table` of all images, batch by batch."""
    key, parts = reward.info.key, []
    texts = [_scored_text(prompt) for prompt in prompts]
    scorer = scorer_identity(reward)
    for start in range(0, len(paths), batch_size):
        batch, number = slice(start, start + batch_size), start // batch_size
        mine = {
            "key": table["key"][batch].tolist(),
            "sha256": table["sha256"][batch].tolist(),
            "prompt": texts[batch],
            "scorer": [scorer] * len(texts[batch]),
        }
        found = kept.batch_scores("list", key, number, mine)
        if found is None or any_failed(found, key):
            scores = score_files(reward, paths[batch], prompts[batch])
            named = [Sample(p, 0) for p in prompts[batch]]
            found = score_table(key, named, scores)
            found = found.set_column(0, "key", pyarrow.array(mine["key"]))
            kept.save_scores("list", key, number, found, mine)
        parts.append(found)
        progress(key, start + len(texts[batch]), len(paths))
    return as_frame(pyarrow.concat_tables(parts, promote_options="permissive"))


def _scored_text(prompt: Prompt) -> str:
    """All of a prompt that a score may rest on."""
    more = [prompt.tag, prompt.target] if prompt.tag or prompt.target else []
    return as_text(prompt.text) + (f" {json.dumps(more, sort_keys=True)}" if more else "")


def _shown(file: Path, folder: Path) -> str:
    """An image as seen from its list's folder: the names alone may be one in many folders."""
    inside = file.is_relative_to(folder)
    return as_text(file.relative_to(folder).as_posix() if inside else file.name)


def _digest(path: Path) -> str:
    """sha256 of an ordinary file; empty for what is not one."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""


def _write(path: Path, table: pd.DataFrame) -> None:
    if path.suffix.lower() == ".parquet":
        write_table(followed(path), table)
        return
    texts = [c for c in map(str, table) if str(table[c].dtype).startswith(("object", "str"))]
    safe = table.assign(**{c: [shielded(str(v)) for v in table[c]] for c in texts})
    write_atomic(followed(path), safe.to_csv(index=False).encode())
