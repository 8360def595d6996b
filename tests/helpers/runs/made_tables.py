"""Rows and runs made by rule for a paper's table, and tables read back as a reader of each format sees them."""

import datetime
import re
from html.parser import HTMLParser

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.schema import SamplingSettings
from nftbench.benchmark.suites import Column, Suite
from nftbench.runs.row_files import (
    COLUMNS,
    Entry,
)
from nftbench.runs.rows import Row
from nftbench.runs.run_folder import Run

NFT = "worstcoder/SD3.5M-DiffusionNFT-MultiReward"
LABEL = "SD3.5-M + NFT (multi-reward)"
BASE = "stabilityai/stable-diffusion-3.5-medium"
FORMATS = ("terminal", "markdown", "latex", "csv", "html", "json")
SHOWN = "+ NFT (multi-reward)"
"""`LABEL` as the paper writes it."""
COLUMN = Column(name="OCR", benchmark="ocr", metric="ocr", variant="pp2.9", digits=2)
SUITE = Suite(
    name="mine",
    title="Mine",
    published="paper",
    benchmarks=("ocr",),
    settings=SamplingSettings(height=512, width=512, num_inference_steps=40, guidance_scale=1.0),
    columns=(COLUMN,),
)


def row(column: Column, value: float, half: float = 0.01, **changes) -> Row:
    """A number for a column, with an interval of value +- half."""
    fields = {
        "model": "m",
        "checkpoint": "ab12",
        "benchmark": column.benchmark,
        "metric": column.metric,
        "variant": column.variant,
        "aggregate": column.aggregate,
        "value": value,
        "stderr": half / 2,
        "low": value - half,
        "high": value + half,
        "n": 100,
        "n_failed": 0,
        "n_prompts": 25,
        "protocol": "0" * 12,
        "limited": False,
        "date": datetime.date(2026, 1, 1),
    }
    return Row.model_validate(fields | changes)


def printed(value: str, settings: str = "", **changes) -> Entry:
    """A published number for `COLUMN`, as it is written."""
    fields = {"source": "published", "protocol": "paper", "confidence": "A", "citation": "a paper"}
    whole = row(COLUMN, float(value), **fields | {"settings": settings} | changes)
    return Entry(whole, tuple(value if f == "value" else "" for f in COLUMNS))


def made(folder, suite: Suite, cells: dict[str, tuple], *, name=NFT, drawn=None, rows=None) -> Run:
    """A run without images.

    Args:
        folder: where.
        suite: whose columns.
        cells: column name -> (value, half-width); a column that is not there is missing.
        name: the checkpoint's.
        drawn: benchmark -> settings in place of the suite's.
        rows: changes of the rows of columns by name.
    """
    run, found, protocols = Run(folder), [], {}
    for column in suite.columns:
        own = {"solver": "euler FlowMatchEulerDiscreteScheduler:00000000"}
        fixed = own | suite.settings.given | column.settings.given
        fixed |= (drawn or {}).get(column.benchmark, {})
        protocol = load_benchmark(column.benchmark).protocol(**fixed)
        protocols[column.benchmark] = protocol
        if column.name in cells:
            more = {"protocol": protocol.hash} | (rows or {}).get(column.name, {})
            found.append(row(column, *cells[column.name], model=name, **more))
    run.save_manifest(
        {
            "checkpoint": {"name": name, "digest": "ab12", "pipeline": "None"},
            "suite": suite.name,
            "batch_size": 4,
            "protocols": {n: p.model_dump(mode="json") for n, p in protocols.items()},
            "protocol_hashes": {n: p.hash for n, p in protocols.items()},
            "rewards": {n: {} for n in protocols},
            "versions": {},
        }
    )
    run.save_rows(found)
    return run


class Texts(HTMLParser):
    """What a browser shows of a page's cells and notes, and the tags it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.notes: list[str] = []
        self.tags: set[str] = set()
        self.into: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.into = self.rows[-1]
        if tag == "p":
            self.notes.append("")
            self.into = self.notes

    def handle_data(self, data):
        if self.into and data.strip():
            self.into[-1] += data


def read(form: str, text: str) -> tuple[list[list[str]], str]:
    """Rows of cells, and the notes, as a reader of the format sees them."""
    if form == "html":
        page = Texts()
        page.feed(text)
        return page.rows, "\n".join(page.notes)
    if form == "latex":
        body, _, notes = text.partition(r"\bottomrule")
        for escaped, plain in (("$\\pm$", "±"), ("$-$", "-"), ("\\_", "_"), ("-{}-", "--")):
            body, notes = body.replace(escaped, plain), notes.replace(escaped, plain)
        body = re.sub(r"\\cellcolor\{.*?\}|\\scriptsize ", "", body)
        body = re.sub(r"\\(?:textbf|underline)\{(.*?)\}", r"\1", body)
        lines = [line.removesuffix(r"\\") for line in body.splitlines() if line.endswith(r"\\")]
        return [[c.strip() for c in line.split("&")] for line in lines], notes
    bar = "│" if form == "terminal" else "|"
    lines = [line for line in text.splitlines() if line.startswith(bar)]
    rows = [[c.strip(" *") for c in line.strip(bar).split(bar)] for line in lines]
    rows = [[re.sub("</?u>", "", cell) for cell in row] for row in rows]
    notes = [line for line in text.splitlines() if not line.startswith(bar)]
    return rows, "\n".join(notes)
