"""What `Scores` refuses; the registry's own contract is in test_reward_contract.py."""

import hashlib

import numpy as np
import pytest

from rewards import ConfigError, MissingWeights, RewardInfo, Scores
from rewards.weights import pull as weights

# --- values ---------------------------------------------------------------------------------------


def test_scores_of_makes_float32_without_reasons():
    scores = Scores.of([1, 2.5])
    assert scores.values.dtype == np.float32 and scores.reasons == ("", "")


@pytest.mark.parametrize(
    ("values", "reasons", "more"),
    [
        ([1.0, np.nan], ("", ""), {}),
        ([1.0, 2.0], ("", "but why"), {}),
        ([1.0, 2.0], ("",), {}),
        ([1.0, 2.0], ("", ""), {"parts": {"exact": np.zeros(1, dtype=np.float32)}}),
        ([1.0, 2.0], ("", ""), {"evidence": ({},)}),
    ],
)
def test_scores_refuses_what_does_not_add_up(values, reasons, more):
    with pytest.raises(AssertionError):
        Scores(values=np.array(values, dtype=np.float32), reasons=reasons, **more)


def test_scores_refuses_double_precision():
    with pytest.raises(AssertionError, match="float32"):
        Scores(values=np.zeros(1), reasons=("",))


def test_key_of_an_info():
    info = RewardInfo(name="ocr", variant="rapidocr", summary="", low=0, high=1)
    assert info.key == "ocr@rapidocr"
    assert RewardInfo(name="jpeg", variant="", summary="", low=0, high=1).key == "jpeg"


# --- weights ---------------------------------------------------------------------------------


def test_verified_file(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert weights.verified(path, digest, remedy="fetch it") == path
    with pytest.raises(ConfigError, match=f"sha256 {digest}, expected 00ff; fetch it"):
        weights.verified(path, "00ff", remedy="fetch it")


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(MissingWeights, match=r"none\.bin are missing; fetch it\."):
        weights.verified(tmp_path / "none.bin", "00", remedy="fetch it")
    with pytest.raises(MissingWeights, match=r"'no_such_package'.*pip install"):
        weights.packaged("no_such_package", "net.onnx", "00")


def test_packaged_weights_are_found_and_checked():
    found = weights.packaged(
        "nftbench.pocket.world", "words.txt", hashed("nftbench/pocket/world/words.txt")
    )
    assert found.name == "words.txt"
    with pytest.raises(ConfigError, match="expected 00; pip install --force-reinstall nftbench"):
        weights.packaged("nftbench.pocket.world", "words.txt", "00")


def hashed(name: str) -> str:
    from importlib.resources import files

    package, _, file = name.rpartition("/")
    return hashlib.sha256((files(package.replace("/", ".")) / file).read_bytes()).hexdigest()
