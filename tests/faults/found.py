"""What trials found that was silent or lost something, what came of it before, what comes now, and what keeps it so."""

HEAD = """
## What was found so

| fault | before | now | test |
|---|---|---|---|
"""
FOUND = (
    (
        "`samples.parquet` with a flipped bit, or another run's",
        "report, compare and view showed its numbers",
        "refused by name; `nftbench score RUN` makes it again",
        "tests/runs/test_run_folder.py",
    ),
    (
        "a digit of `manifest.json` changed",
        "report showed other numbers",
        "refused by name",
        "tests/runs/test_run_folder.py",
    ),
    (
        "an image changed after it was scored",
        "report and view showed it beside the old one's scores",
        "not shown; says that it was changed",
        "tests/reporting/html_report/test_images.py",
    ),
    (
        "a held-out table of another training",
        "report showed its gain",
        "refused by name; `--resume` measures it again",
        "tests/training/callbacks/test_held_out.py",
    ),
    (
        "a number in `metrics.jsonl` changed, or another run's lines",
        "drawn, and taken over on resume",
        "dropped with a word",
        "tests/training/callbacks/test_metrics_log.py",
    ),
    (
        "`metrics.jsonl` lost, then resumed",
        "the trained policy's held-out mean stood as that of iteration 0",
        "iterations that were lost stay lost",
        "tests/training/callbacks/test_checkpoints.py",
    ),
    (
        "`RUN/lora` damaged or replaced",
        "`eval RUN` scored it as the trained policy",
        "refused; `--resume` exports it again",
        "tests/training/callbacks/test_checkpoints.py",
    ),
    (
        "eval killed while it copied a user's own benchmark",
        "the same command was refused ever after",
        "goes on: the manifest is written first",
        "tests/faults/kills.py",
    ),
    (
        "report killed while it replaced an older one",
        "half a report, which no later command replaced",
        "a whole one, old or new",
        "tests/faults/kills.py",
    ),
    (
        "two reports, or two imports, into one folder at once",
        "a traceback, or the slower removed the faster's run",
        "the later report whole; the second import refused",
        "tests/faults/starts.py",
    ),
    (
        "a link in the place of a lock's note",
        "the file it led to was overwritten",
        "never followed",
        "tests/runs/test_lock.py",
    ),
    (
        "a flipped bit in a batch's file of scores",
        "another score, in silence",
        "noticed: a table's file holds a digest of its values; scored again",
        "tests/runs/test_run_folder.py",
    ),
    (
        "a flipped bit in `samples.parquet` that no reader meets",
        "`leaderboard verify` called the run verified",
        "said: it is not the table that the run wrote",
        "tests/evaluation/test_verify.py",
    ),
    (
        "a held-out `averaging.json` of another type",
        "a traceback in report",
        "one line with the remedy",
        "tests/training/callbacks/test_metrics_log.py",
    ),
    (
        "an image that is gone, then `score`",
        "taken for a fault: exit code 4, as documented, and NaN with its reason",
        "part of what is promised",
        "tests/faults/damage.py",
    ),
    (
        "memory that does not do for a batch, in eval and score",
        "the command ended; another `--out` was needed",
        "fewer at once, with a word; one line where one image does not do",
        "tests/evaluation/test_images.py",
    ),
)


def table() -> str:
    """As a part of the page."""
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in FOUND)
