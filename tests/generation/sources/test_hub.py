"""The hub's client against a hub on this machine: revisions, subfolders, gates, and what is missing."""

import json
import shutil

import pytest

from nftbench.generation.checkpoint import packaged
from tests.helpers.servers import fake_hub

LOAD = """
import importlib, json, os
import huggingface_hub.constants
from nftbench.generation.checkpoint import load_model
from rewards.base import ConfigError
os.environ.pop("HF_TOKEN", None)
importlib.reload(huggingface_hub.constants)  # the address and the cache of this process, read at the first import
for name in {names!r}:
    token, _, name = name.rpartition("=>")
    os.environ.update({{"HF_TOKEN": token}} if token else {{}})
    try:
        model = load_model(name)
        print(json.dumps([model.digest, model.said]))
    except ConfigError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with a repository of folders and branches, one that is gated, and one of LoRAs."""
    root = tmp_path_factory.mktemp("hub")
    pocket = packaged()["pocket"]
    shutil.copytree(pocket, root / "some" / "pocket" / "main")
    (root / "some" / "pocket" / "main" / "vae" / "unused.onnx").write_text("not wanted")
    (root / "some" / "pocket" / "main" / "huge.safetensors").write_text("not wanted")
    shutil.copytree(pocket, root / "some" / "pocket" / "v2" / "inner" / "model")
    shutil.copytree(pocket, root / "some" / "gated" / "main")
    (root / "some" / "gated" / "gated").touch()
    lora = packaged()["pocket-nft"] / "lora"
    shutil.copytree(lora, root / "some" / "lora" / "main")
    shutil.copytree(lora, root / "some" / "lora" / "2024")
    shutil.copytree(lora, root / "some" / "lora" / "r1" / "checkpoint-60" / "lora")
    shutil.copy(*(lora.glob("*.safetensors")), root / "some" / "lora" / "r1" / "a.safetensors")
    shutil.copy(*(lora.glob("*.safetensors")), root / "some" / "lora" / "r1" / "b.safetensors")
    shutil.copytree(pocket, root / "some" / "busy" / "main")
    (root / "some" / "busy" / "busy").touch()
    (root / "some" / "empty" / "main").mkdir(parents=True)
    (root / "some" / "empty" / "main" / "README.md").touch()
    with fake_hub.serving(root) as url:
        yield url


@pytest.fixture
def load(start_code, tmp_path):
    """What a new process makes of checkpoints, with a token of `TOKEN=>NAME`: [digest, said] or the refusal, each."""

    def run(hub, *names, offline="0"):
        home = str(tmp_path / "cache")
        environment = {"HF_ENDPOINT": hub, "HF_HOME": home, "HF_HUB_OFFLINE": offline}
        code, out, err = start_code(LOAD.format(names=names), environment).finish()
        answers = [json.loads(line) for line in out.splitlines()]
        assert code == 0 and len(answers) == len(names), err
        assert not any(word in err for word in ("Traceback", "Retrying"))
        return answers

    return run


@pytest.mark.slow
def test_what_is_there_is_loaded_and_only_what_is_needed_is_fetched(hub, load, tmp_path):
    names = [
        "some/pocket",
        "some/pocket@v2:inner/model",
        "pocket+lora=some/lora",
        "pocket+lora=some/lora@r1:checkpoint-60/lora@0.5",
        "pocket+lora=some/lora@r1:b.safetensors",
        "pocket+scheduler=some/pocket",
        "pocket+tokenizer=some/pocket@v2:inner/model/tokenizer",
        "pocket+lora=some/lora@2024",
    ]
    plain, inner, whole, half, named, solver, words, year = load(hub, *names)
    main, v2, r1 = (fake_hub.commit_of(r) for r in ("main", "v2", "r1"))
    assert plain[0] == main and inner[0] == f"{v2}:inner/model"
    assert whole[0].endswith(f"+{main}:pytorch_lora_weights.safetensors")
    assert half[0].endswith(f"+{r1}:checkpoint-60/lora/pytorch_lora_weights.safetensors@0.5")
    assert named[0].endswith(f"+{r1}:b.safetensors")
    assert solver[0].endswith(f"+scheduler:{main}:scheduler")
    assert words[0].endswith(f"+tokenizer:{v2}:inner/model/tokenizer")
    assert year[0].endswith(f"+{fake_hub.commit_of('2024')}:pytorch_lora_weights.safetensors")
    assert all("75 of 75 layers fitted" in said[0] for _, said in (whole, half, named))
    fetched = {p.name for p in (tmp_path / "cache").rglob("*")}
    assert "model_index.json" in fetched and not fetched & {"unused.onnx", "huge.safetensors"}
    # The same from the cache alone, and in plain words what is not in it.
    offline = load(hub, *names[:4], "some/other", offline="1")
    assert offline[:4] == [plain, inner, whole, half]
    assert "'some/other'" in offline[4] and "HF_HUB_OFFLINE" in offline[4]


@pytest.mark.slow
def test_what_is_missing_is_one_line_with_a_way_out(hub, load):
    wanted = {
        "some/gated": ["gated", "licence", "hf auth login", "HF_TOKEN"],
        "some/none": ["unknown checkpoint 'some/none'", "no such repository, or it is private"],
        "some/pocket@nowhere": ["no revision 'nowhere'"],
        "some/pocket:nothing/here": ["no nothing/here/model_index.json"],
        "some/empty": ["no model_index.json"],
        "pocket+lora=some/lora@r1": ["2 files of weights (a.safetensors, b.safetensors)"],
        "pocket+lora=some/none": ["no such repository"],
        "pocket+lora=some/gated": ["licence"],
        "pocket+lora=some/empty": ["found none"],
    }
    *answers, opened = load(hub, *wanted, f"{fake_hub.TOKEN}=>some/gated")
    for (name, words), answer in zip(wanted.items(), answers, strict=True):
        assert isinstance(answer, str) and "\n" not in answer, name
        assert all(word in answer for word in words), answer
    assert opened[0] == fake_hub.commit_of("main")


@pytest.mark.slow
def test_a_cache_that_was_filled_in_part_is_said_so(hub, load, tmp_path):
    """Also where the hub is there and does not say which files it has."""
    busy, whole = load(hub, "some/busy", "some/pocket:./")
    assert "busy: it says not what there is (" in busy and "503" in busy
    assert "without files of " in busy and "run the same command once" in busy
    assert whole[0] == fake_hub.commit_of("main")
    weights = "transformer/diffusion_pytorch_model.safetensors"
    (lost,) = (tmp_path / "cache" / "hub").glob(f"models--some--pocket/snapshots/*/{weights}")
    lost.unlink()
    (offline,) = load(hub, "some/pocket", offline="1")
    assert "a part of it alone, without weights of transformer" in offline
    assert "(unset HF_HUB_OFFLINE)" in offline


@pytest.mark.slow
def test_a_hub_that_does_not_answer(load):
    (answer,) = load("http://127.0.0.1:9", "some/pocket")
    assert "unknown checkpoint 'some/pocket'" in answer and "out of reach" in answer
