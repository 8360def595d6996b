"""`nftbench average`: the mean of policies' weights, and what has none."""

import json

import pytest
import torch
from safetensors.torch import load_file

from nftbench.generation.checkpoint import load_model, packaged, trained_folder
from nftbench.generation.sources.lora import merge_loras
from nftbench.runs.seeds import write_parent
from nftbench.training import average
from tests.helpers.commands import run_here
from tests.helpers.runs.small_evaluation import Stop
from tests.helpers.runs.trainings import begin, small

NFT, FLOW = "pocket-nft", "pocket-flowgrpo"


def weights(checkpoint: str) -> dict[str, torch.Tensor]:
    """Of its network, LoRAs folded in."""
    pipeline = load_model(checkpoint).pipeline
    merge_loras(pipeline)
    return pipeline.transformer.state_dict()


def test_loras_are_averaged_as_what_they_add(tmp_path):
    """As both at half scale: the mean of the products, not the product of the means."""
    code, said = run_here(tmp_path, "average", NFT, FLOW, "--out", "mean")
    assert code == 0 and said.splitlines() == [
        f"reading {NFT}",
        f"reading {FLOW}",
        "average: mean; evaluate it with: nftbench eval mean",
    ]
    mean = weights(str(tmp_path / "mean"))
    halves = "".join(f"+lora={packaged()[n]}@0.5" for n in (NFT, FLOW))
    expected = weights(f"pocket{halves}")
    assert max((mean[k] - expected[k]).abs().max() for k in expected) < 1e-5
    note = trained_folder(str(tmp_path / "mean"))
    assert (note.base, note.method) == ("pocket", "full")
    assert note.base_digest == trained_folder(NFT).base_digest
    told = json.loads((tmp_path / "mean" / "average.json").read_text())
    assert told == [{"policy": n, "digest": load_model(n).digest} for n in (NFT, FLOW)]


def test_a_parent_means_its_finished_seeds(tmp_path):
    parent = tmp_path / "parent"
    for seed, folder in enumerate(write_parent(parent, [0, 1, 2])[:2]):  # the third has not begun
        one = small("policy.method=full", "stages.iterations=1", "optimizer.lr=1e-2")
        begin(one.model_copy(update={"seed": seed}), folder).run()
    code, said = run_here(tmp_path, "average", "parent", "--out", "mean")
    assert code == 0, said
    files = [next((r / "pipeline/transformer").glob("*.safetensors")) for r in runs(parent)]
    one, two, mean = map(load_file, [*files, *(tmp_path / "mean").rglob("transformer/*.safetens*")])
    assert any(not torch.equal(one[k], two[k]) for k in one)
    for key in one:
        torch.testing.assert_close(mean[key], (one[key] + two[key]) / 2)


def runs(parent):
    return [parent / "seed-0", parent / "seed-1"]


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ((NFT,), "two trained policies or more, got 1"),
        ((NFT, "pocket"), "pocket is not a trained policy; expected runs of `nftbench train`"),
        ((NFT, NFT), f"{NFT} has the weights of {NFT}; name each policy once"),
        ((NFT, "pocket-nft-guided"), "policies of two bases have no mean"),
        ((NFT, "poket-nft"), "did you mean 'pocket-nft'"),
    ],
)
def test_what_has_no_mean_is_refused_and_nothing_written(tmp_path, policies, words):
    code, said = run_here(tmp_path, "average", *policies, "--out", "mean")
    assert code == 2 and words in said and "Traceback" not in said
    assert not (tmp_path / "mean").exists()


def test_an_average_does_not_take_the_place_of_anything(tmp_path):
    (tmp_path / "mean").mkdir()
    (tmp_path / "mean" / "mine.txt").write_text("mine")
    code, said = run_here(tmp_path, "average", NFT, FLOW, "--out", "mean")
    assert code == 2 and "mean is there already; choose another --out" in said
    assert [p.name for p in (tmp_path / "mean").iterdir()] == ["mine.txt"]


def test_an_average_within_the_base_of_its_policies_is_refused(tmp_path):
    """It made the base another one by its digest: no policy that was trained from it could be loaded any more."""
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "model_index.json").write_text("{}")
    for name in "ab":
        note = {"base": "../ckpt", "base_digest": "ab12", "method": "lora", "weights": "cd34"}
        (tmp_path / name / "lora").mkdir(parents=True)
        (tmp_path / name / "policy.json").write_text(json.dumps(note))
    code, said = run_here(tmp_path, "average", "a", "b", "--out", "ckpt/mean")
    assert code == 2 and "ckpt/mean lies within the checkpoint ckpt, which it would" in said, said
    assert not (tmp_path / "ckpt" / "mean").exists()


def test_an_average_that_is_cut_short_leaves_nothing(tmp_path, monkeypatch):
    def pulled(*_, **__):
        raise Stop

    monkeypatch.setattr(average, "note_of", pulled)  # the last that is written
    with pytest.raises(Stop):
        average.average([NFT, FLOW], tmp_path / "mean")
    assert not list(tmp_path.iterdir())


def test_a_home_that_no_shell_has_replaced_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    for command in (("average", NFT, FLOW), ("import", "images", "--name", "mine")):
        code, said = run_here(tmp_path, *command, "--out", "~/mean")
        assert code == 2 and "--out names no place of its own: '~/mean'" in said
        assert not (tmp_path / "~").exists()
