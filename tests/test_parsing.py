"""Texts from outside that are nested without end are broken texts, as every other one is."""

import json
import tomllib

import pytest

from nftbench.parsing import parse_json, parse_toml
from nftbench.runs.manifest import read_manifest
from rewards.base import ConfigError

DEEP = "[" * 200_000


@pytest.mark.parametrize("text", [DEEP, DEEP.encode(), '{"a": ' * 200_000])
def test_json(text):
    with pytest.raises(json.JSONDecodeError, match="nested too deep"):
        parse_json(text)
    assert parse_json('{"a": [1]}') == {"a": [1]}


def test_toml():
    with pytest.raises(tomllib.TOMLDecodeError, match="nested too deep"):
        parse_toml(f"a = {DEEP}")
    assert parse_toml("a = [1]") == {"a": [1]}


def test_a_manifest(tmp_path):
    (tmp_path / "manifest.json").write_text(DEEP)
    with pytest.raises(ConfigError) as refused:
        read_manifest(tmp_path / "manifest.json")
    assert "\n" not in str(refused.value)
