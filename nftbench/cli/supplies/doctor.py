"""`nftbench doctor`: what is installed, what works, and the command for what does not."""

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import typer

import rewards
from nftbench.cli import console
from rewards.base import ConfigError
from rewards.extras import EXTRAS
from rewards.own import Blamed, Faulty

app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Examined:
    """One thing looked at."""

    what: str
    state: Literal["ok", "absent", "broken"]
    detail: str


@app.command()
def doctor(as_json: console.Json = False) -> None:
    """Say what is installed, what works, and the command for what does not."""
    from nftbench.evaluation.scoring.loading import quiet

    quiet()
    found = []
    for finding in examine():
        found.append(finding)
        console.line(f"{finding.state:<7} {finding.what:<28} {finding.detail}")
    if as_json:
        console.answer([], found)
    if any(finding.state == "broken" for finding in found):
        raise typer.Exit(console.FAILED)


def examine() -> Iterator[Examined]:
    """Look at versions, devices, extras, and let every reward score one picture."""
    import torch

    from nftbench.runs.versions import NOT_INSTALLED, versions

    for package, version in versions().items():
        yield Examined(package, "broken" if version == NOT_INSTALLED else "ok", version)
    cuda = torch.cuda.is_available()
    yield Examined(
        "GPU",
        "ok" if cuda else "absent",
        torch.cuda.get_device_name() if cuda else "everything runs on the CPU",
    )
    for name, extra in EXTRAS.items():
        found = importlib.util.find_spec(extra.module) is not None
        yield Examined(
            f"extra [{name}]",
            "ok" if found else "absent",
            extra.module if found else f"pip install 'nftbench[{name}]'",
        )
    binary = shutil.which("tesseract")
    yield Examined("tesseract", "ok" if binary else "absent", binary or "apt install tesseract-ocr")
    for key in rewards.available():
        yield _try_reward(key)


def _try_reward(key: str) -> Examined:
    """Load a reward and let it score a plain grey picture."""
    import numpy as np

    from nftbench.evaluation.needs import PROBE

    picture = np.full((1, 64, 64, 3), 200, dtype=np.uint8)
    try:
        with Blamed(key):  # an installed package's has to be found here
            reward = rewards.load_reward(key)
            reward.check([PROBE])  # a judge behind a server says there that none answers
            scores = reward.score(picture, [PROBE])
    except Faulty as error:
        return Examined(f"reward {key}", "broken", " ".join(str(error).split()))
    except ConfigError as error:
        return Examined(f"reward {key}", "absent", str(error))
    if scores.reasons[0]:
        return Examined(f"reward {key}", "broken", scores.reasons[0])
    return Examined(f"reward {key}", "ok", f"a grey picture scores {scores.values[0]:.3f}")
