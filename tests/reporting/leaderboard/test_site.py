"""The pages of the leaderboards: what is made anew, what stays, what stays text."""

import html.parser
import re
import shutil

import pytest

from nftbench.reporting.leaderboard import board as leaderboard
from nftbench.reporting.leaderboard.board import (
    publish,
    read,
)
from nftbench.reporting.leaderboard.site import board, build, fill, page
from rewards.base import ConfigError
from tests.helpers.runs.board_rows import PUBLISHED, row

README = "# a\n<!-- leaderboard:geneval-pocket -->\nold\n<!-- /leaderboard -->\nafter\n"


@pytest.fixture
def boards(tmp_path):
    """A folder with one leaderboard: two measured models, a published one."""
    where = tmp_path / "boards"
    first = row(value=0.5, low=0.4, high=0.6, settings="guidance_scale=1.0")
    rows = [first, row(model="b|c", value=0.75, low=0.7, high=0.8, checkpoint="x")]
    publish([*rows, row(**PUBLISHED, model="<script>", value=0.9)], where)
    return where


def test_building_twice_changes_nothing(tmp_path, boards):
    readme = tmp_path / "README.md"
    readme.write_text(README, "utf-8")
    csv = boards / "geneval-pocket.csv"
    assert build(tmp_path / "site", readme, boards) == [
        csv,
        readme,
        tmp_path / "site" / "index.html",
    ]
    before = [p.read_bytes() for p in (csv, readme, tmp_path / "site" / "index.html")]
    assert build(tmp_path / "site", readme, boards) == []
    assert before == [p.read_bytes() for p in (csv, readme, tmp_path / "site" / "index.html")]


def test_only_what_is_between_the_markers_is_made_anew(tmp_path, boards):
    readme = tmp_path / "README.md"
    readme.write_text(README, "utf-8")
    made = fill(readme, {"geneval-pocket": read(boards / "geneval-pocket.csv")}).splitlines()
    assert made == [
        "# a",
        "<!-- leaderboard:geneval-pocket -->",
        "| model | guidance | protocol | source | geneval@pocket, task mean | images | failed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        r"| b\|c |  | 00e123456789 | measured | 0.750 ± 0.050 | 488 | 0 |",
        "| pocket | 1.0 | 00e123456789 | measured | 0.500 ± 0.100 | 488 | 0 |",
        "| &lt;script> | ? | nft-table1 | published: arXiv:1 Table 1 | 0.9 (B) | ? | ? |",
        "<!-- /leaderboard -->",
        "after",
    ]


def test_the_benchmarks_own_reward_stands_first_and_ranks_the_lines(tmp_path):
    """GenEval's table was ranked by CLIPScore, for its letter comes first, and for more rows had it."""
    publish(
        [
            row(model="better", checkpoint="x", value=0.9),
            row(
                model="better",
                checkpoint="x",
                metric="clipscore",
                aggregate="image_mean",
                value=0.6,
            ),
            row(model="worse", checkpoint="y", value=0.5),
            row(
                model="worse", checkpoint="y", metric="clipscore", aggregate="image_mean", value=0.8
            ),
            row(
                model="third", checkpoint="z", metric="clipscore", aggregate="image_mean", value=0.7
            ),
        ],
        tmp_path,
    )
    found = board("geneval-pocket", read(tmp_path / "geneval-pocket.csv"))
    assert [heading[0] for heading in found.headings] == ["geneval@pocket", "clipscore@pocket"]
    assert [line.model for line in found.lines] == ["better", "worse", "third"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("geneval-pocket", "genevl"), "line 2: no leaderboard 'genevl'; there are geneval-pocket"),
        (("<!-- /leaderboard -->", ""), "line 2: expected <!-- /leaderboard --> below"),
        (("old", "<!-- leaderboard:geneval-pocket -->"), "line 2: expected <!-- /leaderboard -->"),
    ],
)
def test_a_broken_marker_is_named_by_its_line(tmp_path, boards, edit, said):
    readme = tmp_path / "README.md"
    readme.write_text(README.replace(*edit), "utf-8")
    with pytest.raises(ConfigError, match=re.escape(said)):
        build(tmp_path / "site", readme, boards)
    assert not (tmp_path / "site").exists()


class Page(html.parser.HTMLParser):
    """What a page holds: the cells of each table row, and every address it asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.links, self.scripts, self.open = [], [], 0, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.links += [v for k, v in attrs if k in ("src", "href", "action") and v]
        self.scripts += tag == "script"
        if tag == "tr":
            self.rows.append({"class": given.get("class", ""), "cells": []})
        if tag in ("td", "th"):
            self.rows[-1]["cells"].append("")
            self.open = True

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.rows[-1]["cells"][-1] += f"{data.strip()} "


def test_the_page_holds_the_numbers_and_asks_for_nothing(boards):
    text = page([board("geneval-pocket", read(boards / "geneval-pocket.csv"))])
    found = Page(text)
    assert found.links == ["#geneval-pocket"] and found.scripts == 1 and "http" not in text
    assert [r["class"] for r in found.rows] == ["", "measured", "measured", "published"]
    models = [r["cells"][0].split()[0] for r in found.rows[1:]]
    assert models == ["b|c", "pocket", "<script>"]
    numbers = [" ".join(r["cells"][2].split()) for r in found.rows[1:]]
    assert numbers == ["0.750 ± 0.050 #1", "0.500 ± 0.100 #2", "0.9 B"]


def test_the_projects_own_page_holds_every_number(tmp_path):
    for path in leaderboard.folder().glob("*.csv"):
        shutil.copy(path, tmp_path / path.name)
    build(tmp_path / "site", None, tmp_path)
    text = (tmp_path / "site" / "index.html").read_text("utf-8")
    count = sum(len(read(path)) for path in tmp_path.glob("*.csv"))
    assert text.count("data-value=") == count > 400
    assert build(tmp_path / "site", None, tmp_path) == []


def test_the_committed_leaderboards_and_readme_are_built(tmp_path):
    root = leaderboard.folder().parent
    before = {
        p: p.read_bytes() for p in [*(root / "leaderboards").glob("*.csv"), root / "README.md"]
    }
    where = tmp_path / "leaderboards"
    where.mkdir()
    for path, data in before.items():
        (where / path.name).write_bytes(data)
    changed = build(tmp_path / "site", where / "README.md", where)
    assert changed == [tmp_path / "site" / "index.html"]
