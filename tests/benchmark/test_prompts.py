"""Prompt files: read whole, or refused with file, line and what is wrong."""

import hashlib
import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nftbench.benchmark import prompts as prompt_files
from nftbench.benchmark.prompts import check_id, load_prompts
from nftbench.benchmark.samples import image_seed
from nftbench.benchmark.schema import PromptSource
from rewards.base import ConfigError, Prompt
from tests.helpers.paths import DATA

CIRCLE = {
    "tag": "single_object",
    "include": [{"class": "circle", "count": 1}],
    "prompt": "a photo of a circle",
}


def written(folder: Path, *lines: str | dict) -> Path:
    path = folder / "asked.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def refusal(path: Path, layout: str = "geneval", **more) -> str:
    """The message with which a file is refused: one line that names the file."""
    with pytest.raises(ConfigError) as caught:
        load_prompts(path, layout, **more)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


# --- good files -----------------------------------------------------------------------------------


def test_geneval_lines(tmp_path):
    star = CIRCLE | {"id": "s-1", "exclude": [{"class": "star", "count": 2}]}
    first, second = load_prompts(written(tmp_path, CIRCLE, star), "geneval", count=2)
    include = {"include": CIRCLE["include"]}
    assert first == Prompt(
        id="00000", text="a photo of a circle", tag="single_object", target=include
    )
    assert (second.id, second.target) == ("s-1", include | {"exclude": star["exclude"]})


def test_text_lines(tmp_path):
    prompts = load_prompts(written(tmp_path, 'a sign that says "KITE"', "  ein Café  "), "text")
    assert [(p.id, p.text) for p in prompts] == [
        ("00000", 'a sign that says "KITE"'),
        ("00001", "ein Café"),
    ]
    assert {(p.tag, *p.target) for p in prompts} == {("",)}


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_line_ends_do_not_matter(tmp_path, ending):
    path = tmp_path / "a.txt"
    path.write_bytes(f"one{ending or chr(10)}two{ending}".encode())
    assert [p.text for p in load_prompts(path, "text", count=2)] == ["one", "two"]


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0b", "\x0c", "\x1e"])
def test_only_a_newline_ends_a_line(tmp_path, odd):
    """Characters that `str.splitlines` also breaks at are part of the prompt."""
    path = written(tmp_path, f"one{odd}still one", "two")
    assert [p.text for p in load_prompts(path, "text", count=2)] == [f"one{odd}still one", "two"]


def test_digest_and_count_that_are_right(tmp_path):
    path = written(tmp_path, CIRCLE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(load_prompts(path, "geneval", count=1, sha256=digest)) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0")).filter(str.strip),
        min_size=1,
    )
)
def test_every_text_comes_back(tmp_path, texts):
    path = tmp_path / "a.txt"
    path.write_bytes("".join(f"{t}\n" for t in texts).encode())
    assert [p.text for p in load_prompts(path, "text")] == [t.strip() for t in texts]


def test_a_prefix_tells_files_apart(tmp_path):
    path = written(tmp_path, "one", "two")
    asked, trained = load_prompts(path, "text"), load_prompts(path, "text", prefix="t")
    assert [p.id for p in asked] == ["00000", "00001"]
    assert [p.id for p in trained] == ["t00000", "t00001"]
    assert image_seed(0, asked[0].id, 0) != image_seed(0, trained[0].id, 0)


def test_a_prefix_leaves_an_id_of_the_files_own(tmp_path):
    prompts = load_prompts(written(tmp_path, CIRCLE | {"id": "s-1"}, CIRCLE), "geneval", prefix="t")
    assert [p.id for p in prompts] == ["s-1", "t00001"]


def test_a_prefix_is_part_of_an_id(tmp_path):
    path = written(tmp_path, CIRCLE)
    assert "got 'a/00000'" in refusal(path, "geneval", prefix="a/")
    assert "got 'a/00000'" in refusal(path, "text", prefix="a/")


# --- rewards of a prompt --------------------------------------------------------------------------


def test_a_prompt_names_its_rewards(tmp_path):
    sign = {"prompt": 'a sign that says "KITE"', "rewards": ["ocr", "pickscore@pocket"]}
    first, second = load_prompts(
        written(tmp_path, sign, CIRCLE | {"rewards": ["geneval"]}), "geneval"
    )
    assert first == Prompt(id="00000", text=sign["prompt"], rewards=("ocr", "pickscore@pocket"))
    assert (second.rewards, second.tag) == (("geneval",), "single_object")
    assert second.target == {"include": CIRCLE["include"]}


def test_by_default_every_reward_applies(tmp_path):
    assert Prompt(id="a", text="x").rewards == ()
    assert load_prompts(written(tmp_path, CIRCLE), "geneval")[0].rewards == ()


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ({"rewards": []}, "expected 'rewards' to be a non-empty list, got []"),
        ({"rewards": "ocr"}, "expected 'rewards' to be a non-empty list, got 'ocr'"),
        ({"rewards": None}, "expected 'rewards' to be a non-empty list, got None"),
        ({"rewards": ["ocr", 7]}, "names such as 'ocr' or 'geneval@pocket', got 7"),
        ({"rewards": ["ocr:0.5"]}, "got 'ocr:0.5'; weights stand in the recipe"),
        ({"rewards": ["ocr,jpeg"]}, "got 'ocr,jpeg'"),
        ({"rewards": [""]}, "got ''"),
        ({"rewards": ["ocr", "ocr"]}, "name each reward once, got ['ocr', 'ocr']"),
        ({"rewards": ["ocr"], "tag": 3}, "'tag' to be a non-empty str, got 3"),
        ({"rewards": ["ocr"], "include": []}, "'include' to be a non-empty list, got []"),
        ({"reward": ["ocr"]}, "'tag' to be a non-empty str, got None"),
    ],
)
def test_broken_rewards_are_named(tmp_path, line, wrong):
    message = refusal(written(tmp_path, CIRCLE, {"prompt": "x"} | line))
    assert "line 2: " in message and wrong in message


# --- broken lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('{"prompt": "a photo', "expected a JSON object"),
        ("a photo of a circle", "expected a JSON object, got 'a photo of a circle'"),
        ("[1, 2]", "expected a JSON object, got list"),
        ("", "expected a JSON object"),
        ({k: v for k, v in CIRCLE.items() if k != "prompt"}, "'prompt' to be a non-empty str"),
        ({k: v for k, v in CIRCLE.items() if k != "tag"}, "'tag' to be a non-empty str"),
        ({k: v for k, v in CIRCLE.items() if k != "include"}, "'include' to be a non-empty list"),
        (CIRCLE | {"prompt": ""}, "'prompt' to be a non-empty str, got ''"),
        (CIRCLE | {"prompt": 7}, "'prompt' to be a non-empty str, got 7"),
        (CIRCLE | {"include": []}, "'include' to be a non-empty list, got []"),
        (CIRCLE | {"include": "circle"}, "'include' to be a non-empty list, got 'circle'"),
        (CIRCLE | {"id": "../x"}, "got '../x'"),
        (CIRCLE | {"id": "a/b"}, "got 'a/b'"),
        (CIRCLE | {"id": ".hidden"}, "got '.hidden'"),
        (CIRCLE | {"id": ""}, "got ''"),
        (CIRCLE | {"id": "a b"}, "got 'a b'"),
        (CIRCLE | {"id": "ä"}, "got 'ä'"),
        (CIRCLE | {"id": "first"}, "id 'first' stands on line 1 already"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, wrong):
    message = refusal(written(tmp_path, CIRCLE | {"id": "first"}, CIRCLE, line, CIRCLE))
    assert "line 3: " in message and wrong in message


@pytest.mark.parametrize("line", ["", "   "])
def test_an_empty_text_line_is_named(tmp_path, line):
    message = refusal(written(tmp_path, "one", line, "three"), "text")
    assert "line 2: expected a prompt, got an empty line" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"include": [1]}, "include[0]: expected an object"),
        ({"include": {"class": "a"}}, "'include' to be a non-empty list"),
        ({"include": [{"count": 1}]}, "'class' to be a name"),
        ({"include": [{"class": "dog"}]}, "'count' to be a whole number"),
        ({"include": [{"class": "dog", "count": True}]}, "'count' to be a whole number"),
        ({"include": [{"class": "dog", "count": 0}]}, "'count' to be a whole number"),
        ({"include": [{"class": "dog", "count": 1, "color": 3}]}, "'color' to be a name"),
        (
            {"include": [{"class": "dog", "count": 1, "position": ["left of", 0]}]},
            "'position' to be a relation",
        ),
        ({"exclude": "dogs"}, "'exclude' to be a list"),
        ({"exclude": [None]}, "exclude[0]: expected an object"),
        ({"prompt": "a \ud800 dog"}, "half a surrogate pair"),
        ({"tag": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_metadata_that_is_wrong_is_named_with_its_line(tmp_path, changes, said):
    message = refusal(written(tmp_path, CIRCLE, CIRCLE | changes))
    assert "line 2: " in message and said in message


def test_a_double_key_and_endless_brackets_are_refused(tmp_path):
    double = '{"prompt": "a", "prompt": "b", "tag": "t", "include": []}'
    assert "line 1: key 'prompt' stands twice" in refusal(written(tmp_path, double))
    assert "line 1: expected a JSON object" in refusal(written(tmp_path, "[" * 200_000))


@pytest.mark.parametrize("after", ["", "\n", "\r\n", "\n\n\n", "\r\n\r\n"])
def test_a_byte_order_mark_and_empty_lines_at_the_end_are_left_out(tmp_path, after):
    path = tmp_path / "asked.txt"
    path.write_bytes(b"\xef\xbb\xbfred\r\nblue" + after.encode())
    assert [p.text for p in load_prompts(path, "text")] == ["red", "blue"]


def test_a_number_may_collide_with_an_id(tmp_path):
    message = refusal(written(tmp_path, CIRCLE | {"id": "00001"}, CIRCLE))
    assert "line 2: id '00001' stands on line 1 already" in message


# --- broken files ---------------------------------------------------------------------------------


def test_absent_file(tmp_path):
    assert "no prompt file" in refusal(tmp_path / "none.jsonl")


def test_a_folder_is_no_file(tmp_path):
    assert "no prompt file" in refusal(tmp_path)


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    assert "expected" in refusal(tmp_path / "empty.txt", "text")


def test_wrong_count(tmp_path):
    assert "expected 3 prompts, got 2" in refusal(written(tmp_path, "a", "b"), "text", count=3)


def test_wrong_digest(tmp_path):
    path = written(tmp_path, CIRCLE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    message = refusal(path, sha256="0" * 64)
    assert f"expected sha256 {'0' * 16}" in message and f"got {digest[:16]}" in message


def test_not_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("one\nein Café\n".encode("latin-1"))
    assert "not UTF-8 text" in refusal(path, "text") and "byte 11" in refusal(path, "text")


# --- ids ------------------------------------------------------------------------------------------


@given(st.text())
def test_an_id_that_passes_names_a_file_in_its_folder(text):
    try:
        name = check_id(text)
    except ConfigError:
        return
    path = Path("/folder") / f"{name}-00.png"
    assert path.parent == Path("/folder") and name.isascii() and not name.startswith(".")


@pytest.mark.parametrize("value", [None, True, 1.5, ["a"], {"a": 1}])
def test_an_id_is_a_string_or_a_whole_number(value):
    with pytest.raises(ConfigError):
        check_id(value)


def test_a_whole_number_is_an_id():
    assert check_id(17) == "17"


# --- official files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "layout", "count", "tags"),
    [
        ("geneval/evaluation_metadata.jsonl", "geneval", 553, 6),
        ("geneval/flow_grpo_test_metadata.jsonl", "geneval", 2212, 6),
        ("ocr/test.txt", "text", 1018, 1),
        ("drawbench/test.txt", "text", 1000, 1),
    ],
)
def test_official_files_load(file, layout, count, tags):
    if not (DATA / file).is_file():
        pytest.skip(f"the official prompt file {DATA / file} is not on this machine")
    prompts = load_prompts(DATA / file, layout, count=count)
    assert len({p.id for p in prompts}) == count and len({p.tag for p in prompts}) == tags
    assert layout == "text" or all(p.target["include"] for p in prompts)


def test_layouts():
    """A benchmark may name those that can be read."""
    assert get_args(PromptSource.model_fields["layout"].annotation) == tuple(prompt_files._LAYOUTS)
