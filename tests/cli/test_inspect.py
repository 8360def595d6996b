"""What `nftbench inspect` says in a terminal."""

import re
import sys

import pytest

from nftbench.cli.main import main


@pytest.mark.thorough
@pytest.mark.slow
def test_each_part_is_named_with_its_size(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nftbench", "inspect", "pocket"])
    with pytest.raises(SystemExit) as stop:
        main()
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert (
        "parts: name transformer, kind SD3Transformer2DModel, parameters 3,513,408, dtype float32"
        in out
    )
    assert "trainable: yes (LoRA and full)" in out
    found = dict(re.findall(r"memory gb: (.+): ([0-9.]+)\n", out))
    few = ("weights", "text encoders", "eval", "eval, text encoders away")
    assert list(found) == [*few, "train", "train, gradient checkpointing"]
    assert 0 < float(found["text encoders"]) < float(found["weights"]) < float(found["eval"])
    assert "memory for: 16 images at once" in out
