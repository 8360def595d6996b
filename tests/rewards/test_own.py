"""A reward in a file of the user's own: known by its key once it is named, bound to its bytes, mistakes in one line."""

import csv
import hashlib
import json
import sys

import numpy as np
import pytest
from PIL import Image

import rewards
from rewards import own
from rewards.base import ConfigError
from tests.helpers.commands import run_here

GOOD = '''"""Bright pictures score high."""

from rewards import RewardInfo, Scores


class Brightness:
    info = RewardInfo(name="brightness", variant="", summary="mean of all pixels", low=0.0, high=1.0)

    def __init__(self, *, device="cpu"):
        del device

    def check(self, prompts):
        pass

    def score(self, images, prompts):
        return Scores.of([float(image.mean()) / 255 for image in images])
'''
WHITE = np.full((1, 8, 8, 3), 255, np.uint8)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No test leaves a reward, or a module of a file, behind."""
    monkeypatch.setattr(own, "ADDED", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("nftbench_own_"):
            del sys.modules[name]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_reward.py"
    path.write_text(GOOD)
    return path


def test_a_file_is_known_by_its_key_once_it_is_named(file):
    assert "brightness" not in rewards.available()
    assert rewards.add_files(f"jpeg, {file}:Brightness:0.5") == "jpeg,brightness:0.5"
    (_, spec) = rewards.parse_rewards("jpeg,brightness:0.5")
    assert (spec.key, spec.weight) == ("brightness", 0.5)
    reward = rewards.load_reward("brightness")
    assert reward.score(WHITE, ["snow"]).values.tolist() == [1.0]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert reward.info.source == f"my_reward.py:Brightness, sha256 {digest}"
    assert rewards.reward_info("brightness") == reward.info
    assert own.file_named(reward.info.source) == "my_reward.py:Brightness"
    assert own.file_named(rewards.reward_info("jpeg").source) == ""
    assert not (file.parent / "__pycache__").exists()


def test_another_file_is_another_reward(file):
    rewards.add_files(f"{file}:Brightness")
    before = rewards.reward_info("brightness")
    file.write_text(GOOD.replace("/ 255", "/ 510"))
    rewards.add_files(f"{file}:Brightness")  # as in a notebook, after an edit
    assert rewards.reward_info("brightness").source != before.source
    assert rewards.load_reward("brightness").score(WHITE, ["snow"]).values.tolist() == [0.5]


def test_only_add_files_runs_a_file(file, tmp_path):
    """What a recipe, a run or a suite says goes through these, and starts no code."""
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{GOOD}")
    for ask in (rewards.parse_rewards, rewards.load_reward, rewards.reward_info, rewards.resolve):
        with pytest.raises(ConfigError, match="is code of a file, which runs only where"):
            ask(f"{file}:Brightness")
    assert not (tmp_path / "ran").exists()
    rewards.add_files(f"{file}:Brightness")
    assert (tmp_path / "ran").exists()


def test_two_files_of_one_key(file, tmp_path):
    rewards.add_files(f"{file}:Brightness")
    (tmp_path / "other.py").write_text(GOOD + "\n")
    with pytest.raises(
        ConfigError, match=r"other\.py: Brightness calls itself 'brightness', which"
    ):
        rewards.add_files(f"{tmp_path / 'other.py'}:Brightness")


def test_two_classes_of_one_file_and_one_key(file):
    """The second one took the first one's place, wherever the two were named in two lists."""
    file.write_text(GOOD + "\n\nclass Other(Brightness):\n    pass\n")
    rewards.add_files(f"{file}:Brightness")
    with pytest.raises(ConfigError, match=r"Other calls itself 'brightness', which another"):
        rewards.add_files(f"{file}:Other")


def test_a_list_is_named_again_as_the_user_did(file):
    keys = rewards.add_files(f"jpeg:0.5, {file}:Brightness:2")
    assert keys == "jpeg:0.5,brightness:2"
    assert own.as_named(keys) == f"jpeg:0.5,{file}:Brightness:2"


@pytest.mark.parametrize(
    ("content", "named", "said"),
    [
        (GOOD, "gone.py:Brightness", r"no file .*gone\.py; expected FILE\.py:NAME"),
        (GOOD, "my_reward.py", r"my_reward\.py': expected FILE\.py:NAME"),
        (GOOD, "my_reward.py:", r"my_reward\.py:': expected FILE\.py:NAME"),
        (GOOD, "my_reward.py:0.5", r"expected FILE\.py:NAME"),
        (GOOD, "my_reward.py:Brigthness", r"no class 'Brigthness'; did you mean 'Brightness'"),
        (GOOD, "my_reward.py:Zebra", r"no class 'Zebra'; it has Brightness"),
        ("x = 1\n", "my_reward.py:x", r"no class 'x'; it has no class"),
        ("def broken(:\n", "my_reward.py:X", r"my_reward\.py, line 1: SyntaxError: invalid syntax"),
        ("\n\nimport absent_module\n", "my_reward.py:X", r"line 3: ModuleNotFoundError: .*absent_module"),
        ("a = 1\nb = a / 0\n", "my_reward.py:X", r"line 2: ZeroDivisionError"),
        ("a = b'\xff'\n\0", "my_reward.py:X", r"my_reward\.py: (SyntaxError|ValueError): source code"),
        ("class X:\n    def __init__(self, *, device): pass\n", "my_reward.py:X", "X has no `info`"),
        ("class X:\n    pass\n", "my_reward.py:X", r"X cannot be called as X\(device=\.\.\.\).*README\.md has a whole"),
        (GOOD.replace("def check", "def chek"), "my_reward.py:Brightness", "no method `check`"),
        (GOOD.replace('name="brightness"', 'name="a b"'), "my_reward.py:Brightness", "calls itself 'a b'"),
        (GOOD.replace('name="brightness"', 'name="jpeg"'), "my_reward.py:Brightness", "'jpeg', which another"),
        (GOOD.replace("low=0.0, ", ""), "my_reward.py:Brightness", r"line 7: TypeError: .*'low'"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_file(tmp_path, content, named, said):
    (tmp_path / "my_reward.py").write_text(content)
    with pytest.raises(ConfigError, match=said) as caught:
        rewards.load_reward(rewards.add_files(str(tmp_path / named)))
    assert "\n" not in str(caught.value).strip()
    (tmp_path / "my_reward.py").write_text(GOOD)  # mended
    assert rewards.add_files(f"{tmp_path / 'my_reward.py'}:Brightness") == "brightness"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("return Scores.of([images.no_such])", r"my_reward\.py, line 16: AttributeError"),
        ("return Scores.of([1.0, 1.0])", "gave 2 for 1 images"),
        ("return [0.5 for _ in images]", "gave list for 1 images"),
        ("return Scores(values=images, reasons=())", r"line 16: AssertionError: values must be"),
    ],
)
def test_a_mistake_while_scoring(file, line, said):
    right = "return Scores.of([float(image.mean()) / 255 for image in images])"
    file.write_text(GOOD.replace(right, line))
    reward = rewards.load_reward(rewards.add_files(f"{file}:Brightness"))
    with pytest.raises(ConfigError, match=said):
        reward.score(WHITE, ["snow"])


def test_a_value_outside_the_stated_range_has_no_score(file):
    file.write_text(GOOD.replace("/ 255", "* 1"))
    reward = rewards.load_reward(rewards.add_files(f"{file}:Brightness"))
    scores = reward.score(WHITE, ["snow"])
    assert np.isnan(scores.values).all() and "outside its range 0 to 1" in scores.reasons[0]


def _scored(file, code):
    """Exit code and words of `nftbench score` of three pictures by a reward whose `score` is this code."""
    right = "return Scores.of([float(image.mean()) / 255 for image in images])"
    file.write_text(GOOD.replace(right, code))
    lines = [{"image": f"{i}.png", "prompt": "snow"} for i in range(3)]
    for line in lines:
        Image.fromarray(WHITE[0]).save(file.parent / line["image"])
    (file.parent / "images.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = ("--rewards", "my_reward.py:Brightness", "--out", "scores.csv")
    return run_here(file.parent, "score", "images.jsonl", *asked)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise type('Odd', (Exception,), {})('no reply')", "line 16: Odd: no reply"),
        ("return Scores.of([next(iter(()))])", "line 16: StopIteration"),
        ("raise SystemExit(0)", "line 16: SystemExit: 0"),  # no success of ours
        ("return Scores.of([1] * 3, parts={'a': ['x'] * 3})", "'a' must be numbers"),
        ("return Scores.of([1] * 3, parts={'reason': [1] * 3})", "no sub-score's name: 'reason'"),
        ("return Scores.of([1] * 3, parts={'a:b': [1] * 3})", "no sub-score's name: 'a:b'"),
        (  # the number under the mask was the score
            "import numpy as np; return Scores.of(np.ma.masked_array([0.5] * 3, [1, 0, 0]))",
            "line 16: AssertionError: a masked array; expected NaN, and the reason, where",
        ),
        (
            "import numpy as np; return Scores.of([1] * 3, parts={'a': np.ma.zeros(3)})",
            "line 16: AssertionError: a masked array; expected NaN",
        ),
        (
            "import numpy as np; return Scores(values=np.float32([np.nan] * 3), reasons=(5,) * 3)",
            "line 16: AssertionError: a reason must be a text",
        ),
    ],
)
def test_whatever_its_code_does_ends_in_one_line(file, code, said):
    code, out = _scored(file, code)
    assert code == 2 and out.count("\n") == 1 and "my_reward.py" in out and said in out, out
    assert not (file.parent / "scores.csv").exists()


def test_of_too_many_images_for_the_memory_it_scores_halves(file):
    code, out = _scored(
        file,
        "import torch\n        if len(images) > 2: raise torch.OutOfMemoryError('CUDA')\n"
        "        return Scores.of([1.0] * len(images))",
    )
    assert code == 0 and "1.000" in out


def test_an_infinite_sub_score_is_none(file):
    code, out = _scored(file, "return Scores.of([1] * 3, parts={'a': [float('inf'), 1, 1]})")
    (row,) = [line.split("│") for line in out.splitlines() if "brightness:a" in line]
    assert code == 0 and [cell.strip() for cell in (row[3], *row[5:7])] == ["1.000", "2", "1"]


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ("low='0', high=1.0", "low and high to be two numbers"),
        ("low=1.0, high=0.0", "the lower first, got 1.0 and 0.0"),
        ("low=float('nan'), high=1.0", "got nan and 1.0"),
        ("low=0.0, high=1.0, ends=(0,)", "ends to be two numbers"),
        ("low=0.0, high=1.0, train_scale=0", "train_scale to be a number above 0, got 0"),
        ("low=0.0, high=1.0, needs='zebra'", "needs to be one of 'text', 'quoted text'"),
        ("low=0.0, high=1.0, higher_is_better='no'", "higher_is_better to be True or False"),
        ("low=0.0, high=1.0, licence=None", "licence to be a text, got None"),
        ("low=0.0, high=1.0, files=('a.bin',)", "files to be a tuple of Weight"),
    ],
)
def test_what_it_says_of_itself_is_looked_at_before_it_scores(file, info, said):
    file.write_text(GOOD.replace("low=0.0, high=1.0", info))
    asked = ("--rewards", "my_reward.py:Brightness", "--limit", "1")
    code, out = run_here(file.parent, "eval", "pocket", *asked)
    assert code == 2 and out.count("\n") == 1 and said in out
    assert not (file.parent / "runs").exists()


@pytest.mark.slow
def test_score_takes_it_and_another_file_is_told_apart(start, file, tmp_path):
    Image.fromarray(WHITE[0]).save(tmp_path / "0.png")
    (tmp_path / "images.jsonl").write_text(json.dumps({"image": "0.png", "prompt": "snow"}))
    command = ("score", "images.jsonl", "--out", "scores.csv", "--rewards")
    code, out, err = start(*command, "./my_reward.py:Brightness,jpeg").finish()
    assert (code, err) == (0, "") and "brightness" in out and "1.000" in out
    file.write_text(GOOD.replace("/ 255", "/ 510"))
    code, out, err = start(*command, "my_reward.py:Brightness").finish()
    assert (code, err) == (0, "") and "0.500" in out
    code, out, err = start(*command, "my_reward.py:Brigth").finish()
    assert (code, out) == (2, "") and err.count("\n") == 1 and "did you mean 'Brightness'" in err


def test_sub_scores_that_differ_from_batch_to_batch_are_refused(tmp_path):
    """By the reward, the batch and the names; a batch that scored nothing has none of its own."""
    odd = GOOD.replace(
        "return Scores.of([float(image.mean()) / 255 for image in images])",
        """parts = {"left": [1.0]} if images.mean() < 128 else {"right": [1.0]}
        return Scores.of([float(image.mean()) / 255 for image in images], parts=parts)""",
    )
    (tmp_path / "odd.py").write_text(odd)
    for name, shade in (("a", 10), ("b", 250)):
        Image.new("RGB", (16, 16), (shade,) * 3).save(tmp_path / f"{name}.png")
    lines = [json.dumps({"image": f"{n}.png", "prompt": "snow"}) for n in ("a", "b")]
    (tmp_path / "images.jsonl").write_text("\n".join(lines))
    command = ("score", "images.jsonl", "--rewards", "odd.py:Brightness", "--batch-size", "1")
    code, said = run_here(tmp_path, *command)
    assert code == 2 and "reward 'brightness' gave other sub-scores in batch 2 than before" in said
    assert "right, not left; expected the same names of every batch" in said
    assert not list(tmp_path.glob("*.parquet"))


MEDDLING = GOOD.replace(
    "        return Scores.of",
    "        for prompt in prompts:\n            prompt.target['include'][0]['count'] += 3\n"
    "        images[:] = 0\n        return Scores.of",
)
COUNTING = GOOD.replace('"brightness"', '"count"').replace("high=1.0", "high=9.0")
COUNTING = COUNTING.replace(
    "float(image.mean()) / 255 for image in images",
    "p.target['include'][0]['count'] for p in prompts",
)


def test_what_a_reward_changes_of_a_prompt_moves_no_other_reward(tmp_path):
    """Every later reward was given the changed target: GenEval of eight pocket prompts was 0.000 for 0.271."""
    (tmp_path / "a.py").write_text(MEDDLING)
    (tmp_path / "b.py").write_text(COUNTING)
    Image.new("RGB", (8, 8), "white").save(tmp_path / "a.png")
    line = {"image": "a.png", "prompt": "a dog", "include": [{"class": "dog", "count": 1}]}
    (tmp_path / "list.jsonl").write_text(json.dumps(line) + "\n")
    listed = "a.py:Brightness,b.py:Brightness,jpeg"
    code, out = run_here(tmp_path, "score", "list.jsonl", "--rewards", listed, "--out", "s.csv")
    assert code == 0, out
    (scored,) = csv.DictReader((tmp_path / "s.csv").read_text().splitlines())
    white = rewards.load_reward("jpeg").score(np.full((1, 8, 8, 3), 255, np.uint8), ["a dog"])
    assert float(scored["count"]) == 1 and float(scored["jpeg"]) == pytest.approx(white.values[0])


@pytest.mark.parametrize("where", ["at import", "when built", "when asked"])
def test_a_reward_that_changes_the_working_directory_is_one_line(tmp_path, where):
    """The run's own paths are relative to it: its rows went elsewhere, or nowhere in a traceback."""
    (tmp_path / "run").mkdir()
    line = "__import__('os').chdir('/')"
    content = {
        "at import": f"{line}\n{GOOD}",
        "when built": GOOD.replace("del device", line),
        "when asked": GOOD.replace(
            "        return Scores", f"        {line}\n        return Scores"
        ),
    }[where]
    (tmp_path / "run" / "own.py").write_text(content)
    Image.new("RGB", (8, 8), "white").save(tmp_path / "run" / "a.png")
    (tmp_path / "run" / "list.jsonl").write_text('{"image": "a.png", "prompt": "a dog"}\n')
    said = run_here(tmp_path / "run", "score", "list.jsonl", "--rewards", "own.py:Brightness")
    assert said[0] == 2 and "own.py changes the working directory to /, where" in said[1], said
    assert said[1].count("nftbench: ") == 1 and "Traceback" not in said[1]
