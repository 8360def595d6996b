"""`nftbench view` as a person starts and stops it."""

import signal
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

RUN = ROOT / "nftbench" / "pocket" / "weights" / "pocket-nft"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_is_no_failure(number):
    command = [sys.executable, "-m", "nftbench", "view", str(RUN), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert process.stdout.readline().startswith("view: http://127.0.0.1:")
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
