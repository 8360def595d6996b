"""Leaderboards as pages: the CSV files put in order, the README's tables, one static HTML page."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.registry import names as benchmark_names
from nftbench.benchmark.schema import Benchmark
from nftbench.reporting.leaderboard.board import (
    column,
    held,
    order,
    rank,
    read,
    rivals,
    there,
)
from nftbench.reporting.naming import MEANS, aggregate_name
from nftbench.runs.io import write_atomic
from nftbench.runs.row_files import (
    Entry,
    encode,
    stated,
)
from nftbench.runs.rows import Row
from nftbench.stats.intervals import half_width
from rewards.base import ConfigError, Metric

MARK = re.compile(r"(<!-- leaderboard:(\S+) -->(\r?\n))(.*?)(<!-- /leaderboard -->)", re.DOTALL)
OPENED = re.compile(r"<!-- leaderboard:\S+ -->")


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardCell:
    """One number of a page."""

    text: str
    value: float
    """To sort by."""
    place: int
    """Rank within metric, variant, aggregate and protocol; 0 where there is no other to be ranked against."""
    confidence: str
    note: str
    """All that is known of the number, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardLine:
    """All numbers of one model under one protocol."""

    model: str
    checkpoint: str
    protocol: str
    published: bool
    citation: str
    settings: str
    guidance: str
    certificates: str
    images: str
    failed: str
    cells: tuple[BoardCell | None, ...]
    """One a heading; None where there is no number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """One benchmark's table."""

    name: str
    title: str
    headings: tuple[tuple[str, str], ...]
    """Metric and what it is a mean of."""
    lines: tuple[BoardLine, ...]

    @property
    def protocols(self) -> list[str]:
        """Those that have a line, in order."""
        return list(dict.fromkeys(line.protocol for line in self.lines))


def build(site: Path, readme: Path | None = None, where: Path | None = None) -> list[Path]:
    """Check and sort every leaderboard, and make the pages anew.

    Args:
        site: folder of the HTML page.
        readme: a file with `<!-- leaderboard:NAME -->` and `<!-- /leaderboard -->`; None where there is none.
        where: the leaderboards' folder; the project's own when None.

    Returns:
        The files that changed: none the second time.

    Raises:
        ConfigError: no leaderboard, a broken one (file, line, column) or marker. Nothing was written then.
    """
    paths = there(where)
    with held(where):  # a row that is added between reading and writing would be lost
        known = {name: order(read(path)) for name, path in paths.items()}
        wanted = {paths[name]: encode(entries) for name, entries in known.items()}
        if readme:
            wanted[readme] = fill(readme, known).encode()
        wanted[site / "index.html"] = page([board(n, e) for n, e in known.items() if e]).encode()
        changed = [p for p, data in wanted.items() if not p.is_file() or p.read_bytes() != data]
        for path in changed:
            write_atomic(path, wanted[path])
    return changed


def page(boards: Sequence[Board]) -> str:
    """All leaderboards as one HTML page that asks nothing of the network."""
    environment = Environment(
        loader=PackageLoader("nftbench.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("leaderboard.html.j2").render(boards=boards) + "\n"


def fill(readme: Path, known: dict[str, list[Entry]]) -> str:
    """A text with its leaderboards made anew; all else stays.

    Raises:
        ConfigError: no such file, an unknown leaderboard, or a marker without its end: file and line.
    """
    try:
        text = readme.read_bytes().decode()  # its ends of lines as they are
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"no leaderboards can be put into {readme}: expected a text in UTF-8, got: {error}"
        ) from None
    whole = {found.start() for found in MARK.finditer(text) if not OPENED.search(found[4])}
    for found in OPENED.finditer(text):
        name, line = found[0].split(":")[1].split()[0], text.count("\n", 0, found.start()) + 1
        if found.start() not in whole:
            raise ConfigError(
                f"{readme}, line {line}: expected <!-- /leaderboard --> below {found[0]}"
            )
        if name not in known:
            raise ConfigError(
                f"{readme}, line {line}: no leaderboard {name!r}; there are {', '.join(known)}"
            )

    def filled(mark: re.Match[str]) -> str:
        table = markdown(board(mark[2], _headline(known[mark[2]])))
        return mark[1] + table.replace("\n", mark[3]) + mark[5]

    return MARK.sub(filled, text)


def _headline(entries: Sequence[Entry]) -> list[Entry]:
    """The means of each metric; tasks, and sub-scores beside their reward's value, are on the HTML page alone."""
    whole = {e.row.spelled for e in entries}
    return [
        e
        for e in entries
        if e.row.aggregate in MEANS
        and (not e.row.spelled.part or Metric.parse(e.row.spelled.key) not in whole)
    ]


# --- a table --------------------------------------------------------------------------------------


def board(name: str, entries: Sequence[Entry]) -> Board:
    """Put the rows of one leaderboard beside one another: a line a model and protocol, a column a metric."""
    entries = order(entries)
    places, size = _places(entries), Counter(e.row.protocol for e in entries)
    asked = load_benchmark(name) if name in benchmark_names() else None
    columns = _columns(entries, asked)
    kin: dict[tuple, list[Entry | None]] = defaultdict(lambda: [None] * len(columns))
    for e in entries:
        of = kin[e.row.source, e.row.protocol, e.row.model, e.row.checkpoint]
        of[columns.index(column(e.row))] = e

    def standing(item: tuple[tuple, list[Entry | None]]) -> tuple:
        """Measured before published, the protocol of most numbers first, the best in its first column first."""
        (source, protocol, *names), of = item
        first, leading = next((i, e) for i, e in enumerate(of) if e)
        return source, -size[protocol], protocol, first, places[leading.identity], *names

    lines = [_line(of, places) for _, of in sorted(kin.items(), key=standing)]
    first = {column(e.row): e.row for e in reversed(entries)}
    return Board(
        name=name,
        title=asked.title if asked else "",
        headings=tuple((_metric(first[c]), aggregate_name(first[c].aggregate)) for c in columns),
        lines=tuple(lines),
    )


def _columns(entries: Sequence[Entry], asked: Benchmark | None) -> list[tuple]:
    """Means before tasks, the benchmark's own rewards as it lists them first, then the columns of most numbers."""
    count = Counter(column(e.row) for e in entries)
    rows = {column(e.row): e.row for e in entries}
    own = asked.rewards if asked else ()

    def place(of: tuple) -> tuple:
        key = str(rows[of].spelled)
        listed = own.index(key) if key in own else len(own)
        return rows[of].aggregate not in MEANS, listed, -count[of], of

    return sorted(count, key=place)


def _places(entries: Sequence[Entry]) -> dict[tuple, int]:
    count = Counter(rivals(e.row) for e in entries)
    ranks = zip(entries, rank(entries), strict=True)
    return {e.identity: place if count[rivals(e.row)] > 1 else 0 for e, place in ranks}


def _line(found: Sequence[Entry | None], places: dict[tuple, int]) -> BoardLine:
    rows = [e.row for e in found if e]
    return BoardLine(
        model=rows[0].model,
        checkpoint=rows[0].checkpoint,
        protocol=rows[0].protocol,
        published=rows[0].source == "published",
        citation=_all(r.citation for r in rows),
        settings=_all(r.settings for r in rows),
        guidance=_all(stated(r.settings).get("guidance_scale", "") for r in rows),
        certificates=_all(r.certificate for r in rows),
        images=_all("?" if r.n is None else str(r.n) for r in rows),
        failed=_all("?" if r.n_failed is None else str(r.n_failed) for r in rows),
        cells=tuple(_cell(e, places[e.identity]) if e else None for e in found),
    )


def _all(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _cell(e: Entry, place: int) -> BoardCell:
    row = e.row
    return BoardCell(
        text=number(e), value=row.value, place=place, confidence=row.confidence, note=_note(e)
    )


def number(e: Entry) -> str:
    """A published number as it was printed; a measured one with the half-width of its 95% interval."""
    row = e.row
    if row.source == "published":
        return e.value
    digits = 2 if abs(row.value) >= 10 else 3
    return f"{row.value:.{digits}f} ± {half_width(row.low, row.high):.{digits}f}"


def _note(e: Entry) -> str:
    row = e.row
    if row.source == "published":
        facts = [f"published: {row.citation}", f"confidence {row.confidence}", row.settings]
    else:
        facts = [
            f"measured {row.date} with nftbench {row.version}",
            f"95% interval {row.low:.4g} to {row.high:.4g}",
            f"{row.n} images of {row.n_prompts} prompts, {row.n_failed} failed",
            f"certificate: {row.certificate or 'none'}",
            row.settings,
        ]
    return ", ".join(fact for fact in facts if fact)


def _metric(row: Row) -> str:
    return str(row.spelled)


def markdown(table: Board) -> str:
    """A table for a README; published lines name their source and each number its confidence."""
    heads = [f"{metric}, {of}" for metric, of in table.headings]
    head = ["model", "guidance", "protocol", "source", *heads, "images", "failed"]
    lines = [
        [
            line.model,
            line.guidance,
            line.protocol,
            f"published: {line.citation}" if line.published else "measured",
            *(_marked(cell) for cell in line.cells),
            line.images,
            line.failed,
        ]
        for line in table.lines
    ]
    rows = [head, ["---"] * len(head), *(map(_escaped, line) for line in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _marked(cell: BoardCell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.text} ({cell.confidence})" if cell.confidence else cell.text


def _escaped(text: str) -> str:
    """Text that stays text in a Markdown table."""
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
