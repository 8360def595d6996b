"""What of two runs is compared: bytes, and metrics without their times."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any


def files(folder: Path) -> dict[str, str]:
    """sha256 of every file of an evaluation; what a dead process left half written counts, too."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def weights(folder: Path) -> dict[str, Any]:
    """Of a training: its LoRA, all weights of its last checkpoint, held-out tables, and its metrics without times."""
    last = sorted((folder / "checkpoints").glob("[0-9]*"))[-1]
    found: dict[str, Any] = {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in (
            ("last", last / "weights.safetensors"),
            ("lora", folder / "lora" / "pytorch_lora_weights.safetensors"),
        )
    }
    for path in (folder / "held_out").glob("*.parquet"):
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found | {"metrics": metrics(folder)}


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without their times."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    timed = re.compile("minutes|seconds|check")
    return [{k: v for k, v in json.loads(x).items() if not timed.search(k)} for x in lines]


def differences(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Names of what differs, empty where nothing does."""
    names = [k for k in sorted({*one, *other}) if one.get(k) != other.get(k)]
    return f"{', '.join(names[:4])} differ" if names else ""
