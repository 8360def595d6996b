"""The line that a failed command ends with."""

import os

import pytest

from nftbench.cli.console import REFUSED, TORCHRUNS_FILE, fail
from tests.helpers.commands import run_here


def test_torchrun_shows_the_line_and_the_exit_code(tmp_path, monkeypatch, capsys):
    """Its own exit code is 1 always; its summary is made of the exit code and this file."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    told = tmp_path / "error.json"
    monkeypatch.setenv(TORCHRUNS_FILE, str(told))
    with pytest.raises(SystemExit) as end:
        fail("no such thing;\n  try another", REFUSED)
    assert end.value.code == REFUSED
    failure = ProcessFailure(0, os.getpid(), REFUSED, str(told))
    assert failure.message == "nftbench: no such thing; try another" and failure.timestamp > 1e9
    assert capsys.readouterr().err == f"{failure.message}\n"


@pytest.mark.parametrize("place", ["", "/no/such/folder/error.json"])
def test_alone_or_where_it_cannot_be_written_the_line_is_all(monkeypatch, capsys, place):
    monkeypatch.setenv(TORCHRUNS_FILE, place)
    with pytest.raises(SystemExit):
        fail("no such thing", REFUSED)
    assert capsys.readouterr().err == "nftbench: no such thing\n"


def test_what_all_processes_of_a_machine_say_is_said_once(tmp_path, monkeypatch):
    """A misspelt suite is every process's: eight of them said it eight times."""
    said = []
    for rank in range(3):
        (tmp_path / str(rank)).mkdir()
        monkeypatch.setenv(TORCHRUNS_FILE, str(tmp_path / str(rank) / "error.json"))
        code, printed = run_here(tmp_path, "eval", "pocket", "--suite", "geneval-pokket")
        assert code == REFUSED and (tmp_path / str(rank) / "error.json").is_file()
        said.append(printed)
    assert "did you mean 'geneval-pocket'" in said[0] and said[1:] == ["", ""]
