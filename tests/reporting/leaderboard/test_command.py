"""`nftbench leaderboard` as it is typed: names, folders and files that are not what they should be."""

from dataclasses import asdict

import pytest

from nftbench.reporting.leaderboard import board as leaderboard
from nftbench.reporting.leaderboard.board import publish, read
from nftbench.runs.lock import hold
from rewards.base import RewardInfo
from tests.helpers.commands import run_here
from tests.helpers.runs.board_rows import row
from tests.reporting.leaderboard.test_model_card import PROTOCOLS, ROWS, a_run
from tests.reporting.leaderboard.test_model_card import row as measured

README = b"# a\r\n<!-- leaderboard:geneval-pocket -->\r\nold\r\n<!-- /leaderboard -->\r\nafter\r\n"


@pytest.fixture
def board(tmp_path):
    (path,) = publish([row(), row(model="other")], tmp_path / "boards")
    return path


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\u202eb", "a\u200bb", "  ", "a\udcffb", "x" * 81])
def test_a_name_that_no_table_can_hold_is_not_written(tmp_path, name):
    a_run(tmp_path / "a", ROWS)
    asked = ("--name", name, "--leaderboards", "boards")
    code, said = run_here(tmp_path, "leaderboard", "add", "a", *asked)
    assert code == 2 and said.count("\n") == 1 and "label" in said
    assert not (tmp_path / "boards").exists()


@pytest.mark.parametrize("where", ["nowhere", "boards/geneval-pocket.csv"])
def test_no_page_is_made_of_no_leaderboard(tmp_path, board, where):
    asked = ("--leaderboards", where, "--out", "site")
    code, said = run_here(tmp_path, "leaderboard", "build", *asked)
    assert code == 2 and said.count("\n") == 1 and f"{where} holds no leaderboard" in said
    assert not (tmp_path / "site").exists() and not (tmp_path / "nowhere").exists()


def test_a_spreadsheets_mark_is_read_and_its_semicolons_are_refused(tmp_path, board):
    good = board.read_bytes()
    board.write_bytes(b"\xef\xbb\xbf" + good.replace(b"\n", b"\r\n"))
    asked = ("leaderboard", "build", "--leaderboards", "boards", "--out", "site")
    code, _ = run_here(tmp_path, *asked)
    assert code == 0 and sorted(board.read_bytes().splitlines()) == sorted(good.splitlines())
    board.write_bytes(good.replace(b",", b";"))
    code, said = run_here(tmp_path, *asked)
    assert code == 2 and "with commas between them; got model;checkpoint;benchmark" in said
    board.write_bytes(good.replace(b"stderr", b"sderr", 1))
    code, said = run_here(tmp_path, *asked)
    assert code == 2 and "lacks stderr and has sderr (see" in said


def test_a_readme_keeps_its_ends_of_lines(tmp_path, board):
    readme = tmp_path / "README.md"
    asked = ("leaderboard", "build", "--leaderboards", "boards", "--readme", "README.md")
    readme.write_bytes(README)
    code, _ = run_here(tmp_path, *asked)
    lines = readme.read_bytes().split(b"\r\n")
    assert code == 0 and len(lines) == 9 and not any(b"\n" in line for line in lines)
    readme.write_bytes(README.replace(b"after", b"apr\xe8s"))
    code, said = run_here(tmp_path, *asked)
    assert code == 2 and said.count("\n") == 1 and "README.md: expected a text in UTF-8" in said


def test_no_row_is_added_while_the_pages_are_made(tmp_path, board):
    """What was added between reading and writing was lost."""
    with hold(board.parent):
        code, said = run_here(tmp_path, "leaderboard", "build", "--leaderboards", "boards")
    assert code == 2 and "boards is in use by" in said
    assert not (tmp_path / "leaderboard-site").exists()


def test_remove_stays_in_the_folder(tmp_path, board):
    other = tmp_path / "elsewhere" / board.name
    publish([row()], other.parent)
    before = other.read_bytes()
    asked = ("../elsewhere/geneval-pocket", "pocket", "--leaderboards", "boards")
    code, said = run_here(tmp_path, "leaderboard", "remove", *asked)
    assert code == 2 and said.count("\n") == 1 and "did you mean 'geneval-pocket'?" in said
    assert other.read_bytes() == before


def test_two_files_of_one_name_do_not_stand_side_by_side(tmp_path):
    """A reward of a user's own file, edited between two runs: two rewards, ranked as one."""
    for name, digest in (("a", "1" * 64), ("b", "1" * 64), ("c", "2" * 64)):
        rows = [measured("ocr-pocket", metric="mine", variant="", model=name, checkpoint=name)]
        run = a_run(tmp_path / name, rows)
        info = RewardInfo(name="mine", variant="", summary="", low=0, high=1)
        info = asdict(info) | {"source": f"mine.py:Mine, sha256 {digest}"}
        made = {"name": name, "digest": name}
        known = {"rewards": {"ocr-pocket": {"mine": info}}, "checkpoint": made}
        run.save_manifest(run.manifest | known)
    code = {
        n: run_here(tmp_path, "leaderboard", "add", n, "--leaderboards", "boards") for n in "abc"
    }
    path = tmp_path / "boards" / "ocr-pocket.csv"
    assert [code[n][0] for n in "abc"] == [0, 0, 2]
    assert "mine there is of another file than this run's" in code["c"][1]
    assert [e.row.model for e in read(path)] == ["a", "b"]
    assert "reward_sha256=1111111111111111" in read(path)[0].row.settings


def test_less_of_ones_own_reward_may_be_better(tmp_path):
    """The worse of two stood first, as the reward itself is not there to say it."""
    info = RewardInfo(name="mine", variant="", summary="", low=0, high=1, higher_is_better=False)
    source = {"source": f"mine.py:Mine, sha256 {'1' * 64}"}
    known = {"rewards": {"ocr-pocket": {"mine": asdict(info) | source}}}
    for name, value in (("worse", 0.4), ("better", 0.2)):
        number = {"value": value, "low": value - 0.1, "high": value + 0.1}
        one = measured("ocr-pocket", metric="mine", variant="", model=name, checkpoint=name)
        run = a_run(tmp_path / name, [one.model_copy(update=number)])
        run.save_manifest(run.manifest | known | {"checkpoint": {"name": name, "digest": name}})
        code, said = run_here(tmp_path, "leaderboard", "add", name, "--leaderboards", "boards")
        assert code == 0, said
    entries = leaderboard.order(read(tmp_path / "boards" / "ocr-pocket.csv"))
    assert [e.row.model for e in entries] == ["better", "worse"]


def test_what_cannot_be_published_is_said_before_images_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(leaderboard, "folder", lambda: tmp_path / "site-packages" / "boards")
    asked = ("--suite", "ocr-pocket", "--rewards", "jpeg", "--steps", "1", "--publish")
    code, said = run_here(tmp_path, "eval", "pocket", *asked)
    assert code == 2 and said.count("\n") == 1
    assert "nftbench leaderboard add RUN --leaderboards DIR" in said  # eval has no such flag
    assert not (tmp_path / "runs").exists()


def test_a_run_without_the_rows_of_what_was_scored_is_not_published(tmp_path):
    """Nothing was published, and the command ended well."""
    run = a_run(tmp_path / "a", ROWS[:1])
    info = asdict(RewardInfo(name="ocr", variant="rapidocr", summary="", low=0, high=1))
    judged = {"geneval-pocket": {}, "ocr-pocket": {"ocr@rapidocr": info}}
    run.save_manifest(run.manifest | {"rewards": judged})
    for command in (("add", "a", "--leaderboards", "boards"), ("card", "a")):
        code, said = run_here(tmp_path, "leaderboard", *command)
        assert code == 2 and said.count("\n") == 1 and "ocr-pocket has no rows; run: " in said
    assert not (tmp_path / "boards").exists()


def test_given_images_are_not_told_to_be_run_whole(tmp_path):
    run = a_run(tmp_path / "a", [])
    given = PROTOCOLS["ocr-pocket"].model_copy(update={"noise": "given"})
    run.save_manifest(run.manifest | {"protocols": {"ocr-pocket": given.model_dump(mode="json")}})
    found = measured("ocr-pocket").model_copy(update={"protocol": given.hash, "limited": True})
    run.save_rows([found])
    code, said = run_here(tmp_path, "leaderboard", "add", "a", "--leaderboards", "boards")
    assert code == 2 and "nobody knows how its images of ocr-pocket were drawn" in said
    assert "--limit" not in said


def test_no_example_is_written_that_diffusers_cannot_run(tmp_path):
    name = "pocket+lora=pocket-nft@0.5"
    run = a_run(tmp_path / "a", [row_.model_copy(update={"model": name}) for row_ in ROWS])
    made = {"name": name, "digest": "0123", "pipeline": "StableDiffusion3Pipeline"}
    run.save_manifest(run.manifest | {"checkpoint": made})
    code, said = run_here(tmp_path, "leaderboard", "card", "a", "--readme", "--out", "README.md")
    assert code == 2 and said.count("\n") == 1 and "leave --readme out" in said
    assert not (tmp_path / "README.md").exists()
    assert run_here(tmp_path, "leaderboard", "card", "a", "--out", "card.yaml")[0] == 0
