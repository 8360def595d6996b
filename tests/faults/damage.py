"""Every file of a run damaged in every way, and what follows: the truth, or one line; never another number."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from tests.faults.bench import VALIDATION, Bench, Ended, Observed, fault
from tests.faults.compared import differences, files, metrics, weights

Damage = Callable[[Path, Path], None]


def _gone(path: Path, _other: Path) -> None:
    path.unlink()


def _empty(path: Path, _other: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path, _other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path, _other: Path) -> None:
    data = bytearray(path.read_bytes())
    place = next((i for i in range(len(data) // 2, len(data)) if chr(data[i]).isdigit()), 0)
    data[place or len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _another_type(path: Path, _other: Path) -> None:
    path.write_bytes(b'["text"]\n')


def _folder(path: Path, _other: Path) -> None:
    path.unlink()
    path.mkdir()


def _anothers(path: Path, other: Path) -> None:
    if other.is_file():
        shutil.copyfile(other, path)


def _link(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


DAMAGES: dict[str, Damage] = {
    "gone": _gone,
    "empty": _empty,
    "cut": _cut,
    "a bit flipped": _flipped,
    "another type": _another_type,
    "a folder": _folder,
    "another run's": _anothers,
    "a link to another run's": _link,
}
EVALUATION = (
    "manifest.json",
    "rows.csv",
    "faults/images/00000-00.png",
    "faults/digests/00000.json",
    "faults/scores/jpeg/00000.parquet",
    "faults/samples.parquet",
    "faults/contact.png",
)


@fault(
    "report, table and compare show the true numbers or refuse in one line; verify says what is wrong"
)
def evaluation_read(bench: Bench) -> Observed:
    """A file of a finished eval damaged, then read by report, leaderboard verify and compare."""
    _report_of_whole(bench)
    return _over(bench, EVALUATION, _read_damaged, 8)


@fault("eval and score end with the true numbers or refuse in one line", quick=False)
def evaluation_repaired(bench: Bench) -> Observed:
    """A file of a finished eval damaged, then score and the same eval again."""
    _report_of_whole(bench)
    return _over(bench, EVALUATION, _repaired, 4)


def _over(
    bench: Bench,
    names: Sequence[str],
    look: Callable[[Bench, str, str], list[str]],
    few: int,
    damages: Sequence[str] = tuple(DAMAGES),
) -> Observed:
    """Every file meets every damage; in the quick part some do."""
    chosen = bench.some([(n, d) for n in names for d in damages], few)
    return Observed(len(chosen), bench.each(chosen, lambda trial: look(bench, *trial)))


def _damaged(bench: Bench, source: Path, other: Path, name: str, damage: str) -> Path:
    run = Path(shutil.copytree(source, bench.new("damaged")))
    DAMAGES[damage](run / name, other / name)
    return run


def _read_damaged(bench: Bench, name: str, damage: str) -> list[str]:
    run = _damaged(bench, bench.whole, bench.other, name, damage)
    before = files(run)
    out = bench.new("report")
    shown = bench.do("report", f"{run}=run", "--out", out)
    wrong = [shown.fault(0, 2)]
    if shown.code == 0:
        wrong.append(_shown(bench, out))
    elif out.exists():
        wrong.append("a refused report left a folder")
    verified = bench.do("leaderboard", "verify", run, "--fraction", "1")
    wrong.append(verified.fault(0, 1, 2) if verified.code != 1 else "")
    harmless = name.endswith("contact.png") or before == files(bench.whole)
    if verified.code == 0 and not harmless and _told(run, bench.whole) != "":
        wrong.append("verified")
    compared = bench.do("compare", bench.whole, run)
    wrong.append(compared.fault(0, 2))
    if compared.code == 0 and not _all_the_same(compared):
        wrong.append("compare with itself shows a difference")
    wrong.append(differences(files(run), before) and "reading changed the run")
    return wrong


def _all_the_same(compared: Ended) -> bool:
    """Whether a run that is compared with its copy differs nowhere."""
    rows = [x.split("│") for x in compared.out.splitlines() if x.startswith("│ jpeg")]
    return bool(rows) and all(
        any(c.strip().lstrip("+-") in ("0", "0.000", "0.0000") for c in r) for r in rows
    )


def _shown(bench: Bench, out: Path) -> str:
    """Whether a report holds the numbers of the whole run."""
    truth = _report_of_whole(bench)
    pictures, true_pictures = ({*files(f / "images").values()} for f in (out, truth))
    if pictures != true_pictures:  # one is missing and said to be; another one is never shown
        return "the report shows another picture" if pictures - true_pictures else ""
    scripts = [p for p in truth.rglob("*.js") if b"jpeg" in p.read_bytes()]
    differ = [
        p.name
        for p in scripts
        if not (out / p.relative_to(truth)).is_file()
        or (out / p.relative_to(truth)).read_bytes() != p.read_bytes()
    ]
    return f"the report shows other numbers ({differ[0]})" if differ else ""


def _report_of_whole(bench: Bench) -> Path:
    """Of the run that nobody damaged, which is made first."""
    truth, _ = bench.folder / "report-of-whole", bench.other
    if not truth.exists():
        ended = bench.do("report", f"{bench.whole}=run", "--out", truth)
        assert ended.code == 0, ended.err
    return truth


def _told(run: Path, whole: Path) -> str:
    """Numbers of a run's tables that are not the true ones."""
    for name in ("rows.csv", "faults/samples.parquet"):
        path = run / name
        if not path.is_file() or path.read_bytes() != (whole / name).read_bytes():
            return name
    return ""


def _repaired(bench: Bench, name: str, damage: str) -> list[str]:
    run = _damaged(bench, bench.whole, bench.other, name, damage)
    wrong = []
    scored = bench.do("score", run)
    wrong.append(scored.fault(0, 2, 4))  # 4: an image that is gone has no score, as it says
    if scored.code == 0 and _told(run, bench.whole):
        wrong.append(f"score left another {_told(run, bench.whole)}")
    again = bench.do(*bench.eval_command, "--out", run)
    wrong.append(again.fault(0, 2))
    if again.code == 0:
        found, truth = files(run), files(bench.whole)
        if name.endswith(".parquet") and _same_table(run / name, bench.whole / name):
            found[name] = truth[name]  # a bit of the file, and none of its content
        wrong.append(differences(found, truth))
    return wrong


def _same_table(one: Path, other: Path) -> bool:
    return pd.read_parquet(one).equals(pd.read_parquet(other))


# --- trainings ----------------------------------------------------------------------------------------------------

TRAINING = (
    "recipe.json",
    "metrics.jsonl",
    "policy.json",
    "lora/pytorch_lora_weights.safetensors",
    "held_out/before.parquet",
    "held_out/first.parquet",
    "held_out/after.parquet",
    "held_out/measured.json",
    "held_out/averaging.json",
    "checkpoints/000002/weights.safetensors",
    "checkpoints/000002/optimizer.pt",
    "checkpoints/000002/state.json",
    "checkpoints/000002/sha256sums",
)
MORE = ("--iterations", "3")


def _trained(bench: Bench, name: str, *more: str) -> Path:
    folder = bench.folder / f"training-{name}"
    if not folder.exists():
        command = ["train", "--recipe", "pocket", *bench.settings(*VALIDATION), *more]
        ended = bench.do(*command, "--out", folder)
        assert ended.code == 0, ended.err
    return folder


def _longer(bench: Bench) -> Path:
    """The run that nobody damaged, resumed for another iteration."""
    folder = bench.folder / "training-longer"
    if not folder.exists():
        shutil.copytree(_trained(bench, "whole"), folder)
        ended = bench.do("train", "--resume", folder, *MORE)
        assert ended.code == 0, ended.err
    return folder


@fault(
    "resume ends with the weights, tables and metrics of a run that nobody damaged, or refuses in one line",
    quick=False,
)
def training_resumed(bench: Bench) -> Observed:
    """A file of a training damaged, then resumed for more iterations."""
    _trained(bench, "other", "--seed", "5")
    _longer(bench)
    return _over(bench, TRAINING, _resumed, 4, ("cut", "a bit flipped", "another run's"))


def _resumed(bench: Bench, name: str, damage: str) -> list[str]:
    run = _damaged(
        bench, _trained(bench, "whole"), _trained(bench, "other", "--seed", "5"), name, damage
    )
    ended = bench.do("train", "--resume", run, *MORE)
    wrong = [ended.fault(0, 2)]
    if ended.code == 0:
        now, truth = weights(run), weights(_longer(bench))
        if name == "metrics.jsonl":  # lines that are lost are said, and no line is another one
            mine, theirs = now.pop("metrics"), truth.pop("metrics")
            wrong += [f"line {x['iteration']} is another" for x in mine if x not in theirs]
            said = "damaged line" in ended.out or len(mine) == len(theirs)
            wrong.append("" if said else "lines are lost without a word")
        wrong.append(differences(now, truth))
    return wrong


@fault("report and eval show the true numbers, or refuse in one line", quick=False)
def training_read(bench: Bench) -> Observed:
    """A file of a training damaged, then report and eval of it."""
    _trained(bench, "other", "--seed", "5")
    _trained(bench, "whole")
    names = [n for n in TRAINING if not n.startswith("checkpoints")]
    return _over(bench, names, _trained_read, 4)


def _trained_read(bench: Bench, name: str, damage: str) -> list[str]:
    whole = _trained(bench, "whole")
    run = _damaged(bench, whole, _trained(bench, "other", "--seed", "5"), name, damage)
    out, wrong = bench.new("report"), []
    shown = bench.do("report", run, "--out", out)
    wrong.append(shown.fault(0, 2))
    if shown.code == 0 and name in ("held_out/before.parquet", "held_out/after.parquet"):
        wrong.append(_changes_shown(run, whole))
    if shown.code == 0 and name == "metrics.jsonl":
        wrong += _lines_read(run, whole)
    if name.startswith(("policy", "lora")):
        limited = ["--suite", "faults", "--rewards", "jpeg", "--limit", "1"]
        ended = bench.do("eval", run, *limited, "--out", bench.new("of-trained"))
        wrong.append(ended.fault(0, 2))
        if ended.code == 0 and differences(weights(run), weights(whole)):
            wrong.append("eval took another LoRA for the trained one")
    return wrong


def _changes_shown(run: Path, whole: Path) -> str:
    from nftbench.training.callbacks.metrics_log import read_changes

    return "" if read_changes(run) in ([], read_changes(whole)) else "another gain is shown"


def _lines_read(run: Path, whole: Path) -> list[str]:
    from nftbench.training.callbacks.metrics_log import read_metrics

    mine, theirs = read_metrics(run), read_metrics(whole)
    if not len(mine):
        return []
    merged = mine.merge(theirs, on="iteration", how="left", suffixes=("", " true"))
    wrong = [
        c
        for c in mine.columns
        if c != "iteration"
        and not merged[c].equals(merged.get(f"{c} true", pd.Series(dtype=float)))
    ]
    return [f"metrics show another {wrong[0]}"] if wrong else []


__all__ = ["metrics"]
