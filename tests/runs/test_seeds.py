"""The parent of several seeds' runs: what it holds, what is refused."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nftbench.runs.seeds import SEEDS, is_parent, seeds_of, write_parent
from rewards.base import ConfigError


def test_a_parent_is_no_other_folder(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="holds other files; choose another --out"):
        write_parent(tmp_path, [0, 1])
    folders = write_parent(tmp_path / "mine", [0, 7])
    assert [f.name for f in folders] == ["seed-0", "seed-7"] and is_parent(tmp_path / "mine")


def test_further_seeds_join_those_that_are_there(tmp_path):
    write_parent(tmp_path / "mine", [0, 7])
    assert [f.name for f in write_parent(tmp_path / "mine", [7, 3])] == ["seed-7", "seed-3"]
    assert seeds_of(tmp_path / "mine") == [0, 7, 3]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[0, 0]", "names seed 0 twice"),
        ("[]", "expected a list of seeds"),
        ('{"0": 1}', "expected a list of seeds"),
        ("[true]", "expected a list of seeds"),
        ("[-1]", "expected a list of seeds"),
        ("[0,", "is broken"),
    ],
)
def test_a_broken_note_is_refused(tmp_path, text, wrong):
    (tmp_path / SEEDS).write_text(text)
    with pytest.raises(ConfigError, match=wrong):
        seeds_of(tmp_path)


def test_the_note_is_plain_json(tmp_path):
    write_parent(tmp_path / "mine", [2, 1])
    assert json.loads((tmp_path / "mine" / SEEDS).read_text()) == [2, 1]


def test_two_commands_that_add_seeds_at_once_lose_none(tmp_path, monkeypatch):
    write_parent(tmp_path / "mine", [0])

    def slowly(parent):
        found = seeds_of(parent)
        time.sleep(0.1)
        return found

    monkeypatch.setattr("nftbench.runs.seeds.seeds_of", slowly)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda seed: write_parent(tmp_path / "mine", [seed]), (1, 2)))
    assert sorted(seeds_of(tmp_path / "mine")) == [0, 1, 2]
