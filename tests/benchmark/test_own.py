"""A user's own prompts, benchmarks and suites: read as they are meant, or refused with the line."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nftbench.benchmark import own, places
from nftbench.benchmark.registry import load_benchmark, load_suite, names, protocols_of
from nftbench.benchmark.schema import SamplingParameters
from nftbench.stats.paired import clusters
from rewards import load_reward
from rewards.base import ConfigError, Prompt
from tests.helpers.commands import run_here
from tests.helpers.paths import written

# --- prompts --------------------------------------------------------------------------------------


def test_three_layouts_say_the_same(tmp_path):
    things = [{"class": "circle", "count": 1}]
    lines = [{"prompt": "a circle", "task": "one", "include": things, "id": 7}]
    lines += [{"text": "round, red", "cluster": "c"}]
    objects = "".join(f"{json.dumps(line)}\n" for line in lines)
    table = pd.DataFrame(
        [["7", "a circle", "one", json.dumps(things), ""], ["00001", "round, red", "", "", "c"]],
        columns=["id", "prompt", "tag", "include", "cluster"],
    ).to_csv(index=False)
    one = own.read_prompts(written(tmp_path, "a.jsonl", objects))
    assert own.read_prompts(written(tmp_path, "a.csv", table)) == one
    assert one == [
        Prompt(id="7", text="a circle", tag="one", target={"include": things}),
        Prompt(id="00001", text="round, red", cluster="c"),
    ]


def test_equal_prompts_are_one_cluster_and_blank_lines_none(tmp_path):
    found = own.read_prompts(written(tmp_path, "a.txt", "\ufeffx\r\n\r\ny\nx\n\n"))
    assert [(p.id, p.text, p.cluster) for p in found] == [
        ("00000", "x", ""),
        ("00002", "y", ""),
        ("00003", "x", "00000"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "a circle".encode("utf-16"), "not UTF-8"),
        ("a.txt", "\n\n", "expected one entry a line"),
        ("a.doc", "x", "ends in .txt, .jsonl or .csv"),
        ("a.jsonl", '{"promt": "x"}\n', "did you mean 'prompt'"),
        ("a.jsonl", '{"prompt": "x", "id": "../x"}\n', "line 1: expected an id"),
        ("a.jsonl", '{"prompt": 7, "tag": []}\n', "expected 'tag' to be a text"),
        ("a.jsonl", '{"prompt": "x", "target": 3}\n', "'target' to be an object"),
        ("a.jsonl", '{"prompt": "x", "include": "["}\n', "'include' to be a JSON list"),
        ("a.jsonl", '{"prompt": "x", "id": "1"}\n{"prompt": "y", "id": 1}\n', "line 2: id '1'"),
        ("a.jsonl", '{"prompt": "x \\ud83d"}\n', "line 1: half a surrogate pair"),
        ("a.jsonl", '{"prompt": "x", "prompt": "y"}\n', "line 1: key 'prompt' stands twice"),
        ("a.jsonl", '{"prompt": "x", "id": "A"}\n{"prompt": "y", "id": "a"}\n', "line 2: id 'a'"),
        ("a.jsonl", '{"prompt": "x", "id": "%s"}\n' % ("i" * 201), "line 1: .* at most 200"),
        ("a.jsonl", '{"prompt": "x", "tag": "\\ud83d"}\n', "line 1: half a surrogate pair"),
        ("a.jsonl", '{"prompt": "x", "cluster": "\\ud83d"}\n', "line 1: half a surrogate pair"),
        ("a.jsonl", '{"prompt": "x\\u0000"}\n', "line 1: a null character"),
        ("a.jsonl", '{"prompt": "x", "id": true}\n', "line 1: expected an id"),
        ("a.jsonl", '{"prompt": "x", "id": null}\n', "line 1: expected an id"),
        ("a.jsonl", '{"prompt": "x", "id": ["y"]}\n', "line 1: expected an id"),
        ("a.jsonl", '{"prompt": "x", "id": 1.0}\n', "line 1: expected an id"),
        ("a.jsonl", '{"prompt": "x", "tag": ["y"]}\n', "line 1: expected 'tag' to be a text"),
        ("a.jsonl", '{"prompt": "x", "text": "y"}\n', "'prompt' and 'text' mean the same"),
        ("a.jsonl", '{"prompt": "x", "include": [], "target": {"include": []}}\n', "mean the same"),
        ("a.txt", "x\n".encode("utf-16-le"), "not UTF-8 text .null byte at 1"),
        ("a.csv", "prompt,prompt\nx,y\n", "two columns of one name"),
        ("a.jsonl", "not json\n", "line 1: expected a JSON object"),
        ("a.csv", "words\nx\n", "a column 'prompt'"),
        ("a.csv", "prompt,tag\nx,y,z\n", "line 2: expected 2 cells"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, name, text, said):
    with pytest.raises(ConfigError, match=said):
        own.read_prompts(written(tmp_path, name, text))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("n.csv", "prompt,negative_prompt\nx,blurry\n", "'negative_prompt' is a setting of the whole run"),
        ("n.csv", "prompt,Seed\nx,7\n", "n.csv, line 2: 'Seed' is a setting of the whole run (--seed)"),
        ("n.csv", "prompt,Guidance Scale\nx,7\n", "(--guidance-scale), not of a prompt"),
        ("n.jsonl", '{"prompt": "x", "num_inference_steps": 4}\n', "line 1: 'num_inference_steps'"),
        ("n.csv", "prompt,ID\nx,7\n", "unknown key 'ID'; did you mean 'id'?"),
        ("n.jsonl", '{"prompt": "x", "TAG": "y"}\n', "unknown key 'TAG'; did you mean 'tag'?"),
    ],
)  # fmt: skip
def test_a_column_that_would_not_be_followed_is_refused(tmp_path, name, text, said):
    written(tmp_path, name, text)
    code, out = run_here(tmp_path, "eval", "pocket", "--prompts", name, "--rewards", "jpeg")
    assert code == 2 and said in out and out.count("\n") == 1


def test_every_setting_of_drawing_is_known_as_one():
    assert set(SamplingParameters.model_fields) <= own.RUN_WIDE.keys()


def test_other_columns_are_named_once(tmp_path, caplog):
    """Of images that are there already, settings of their drawing are columns as any other."""
    lines = [{"prompt": "x", "seed": 7, "author": "me"}, {"prompt": "y", "seed": 8, "note": ""}]
    written(tmp_path, "p.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{number:05d}.png")
    command = ("import", "images", "--prompts", "p.jsonl", "--name", "m", "--out", "run")
    code, out = run_here(tmp_path, *command)
    assert code == 0, out
    said = "p.jsonl: passed over, for they mean nothing here: 'seed', 'author'"
    assert [record.getMessage() for record in caplog.records] == [said]


ENTRIES = {
    "[1]": "include.0.: expected an object",
    "3": "'include' to be a list",
    '{"class": "dog"}': "'include' to be a list",
    '[{"class": "dog"}]': "'count' to be a whole number",
    '[{"class": "dog", "count": 0}]': "'count' to be a whole number",
    '[{"class": "dog", "count": -1}]': "'count' to be a whole number",
    '[{"class": "dog", "count": 1.5}]': "'count' to be a whole number",
    '[{"class": "dog", "count": 1.0}]': "'count' to be a whole number",
    '[{"class": "dog", "count": true}]': "'count' to be a whole number",
    '[{"class": "dog", "count": "2"}]': "'count' to be a whole number",
    '[{"class": "dog", "count": 1e400}]': "'count' to be a whole number",
    '[{"class": "dog", "count": 99999999999999999999}]': "'count' to be a whole number",
    '[{"class": "dog", "count": 17}]': "'count' to be a whole number from 1 to 16",
    '[{"class": "", "count": 1}]': "'class' to be a name",
    '[{"class": ["dog"], "count": 1}]': "'class' to be a name",
    '[{"class": "dog", "count": 1, "colour": "red"}]': "no key but class, count, color, position, not 'colour'",
    '[{"class": "dog", "count": 1, "color": 7}]': "'color' to be a name",
    '[{"class": "dog", "count": 1, "position": "left of"}]': "'position' to be a relation",
    '[{"class": "dog", "count": 1, "position": ["left of", 0]}]': "'position' to be a relation",
}
"""`include` of a line -> what is said of it."""


@pytest.mark.parametrize(("entry", "said"), ENTRIES.items())
def test_malformed_metadata_name_their_line(tmp_path, entry, said):
    good = '{"prompt": "x", "include": [{"class": "dog", "count": 1}]}'
    path = written(tmp_path, "a.jsonl", f'\n{good}\n{{"prompt": "y", "include": {entry}}}\n')
    with pytest.raises(ConfigError, match=rf"a.jsonl, line 3: .*{said}") as refused:
        own.read_prompts(path)
    assert "\n" not in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["class", "count", "color", "position", "x"]), inner, max_size=4
        )
    ),
    max_leaves=6,
)
THING = st.fixed_dictionaries(
    {"class": JSON | st.just("dog"), "count": JSON | st.integers(-2, 3)},
    optional={"color": JSON | st.just("red"), "position": JSON | st.just(["left of", 0])},
)


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from([*own.KEYS, "target", "id"]), JSON | st.lists(THING, max_size=3)
    )
)
def test_whatever_metadata_say_they_are_read_or_refused_in_one_line(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_text(json.dumps({"prompt": "x", **record}) + "\n", encoding="utf-8")
    try:
        (prompt,) = own.read_prompts(path)
    except ConfigError as error:
        assert "fuzz.jsonl, line 1: " in str(error) and "\n" not in str(error)
        return
    for thing in prompt.target.get("include", []):
        assert (
            isinstance(thing["class"], str) and type(thing["count"]) is int and thing["count"] > 0
        )
    places._added.clear()
    assert load_benchmark(own.add_benchmark("fuzz", [prompt])).load() == [prompt]


def test_a_prompt_knows_its_line_through_its_benchmark(tmp_path):
    path = written(tmp_path, "a.jsonl", '\n{"prompt": "x", "id": "k"}\n\n{"prompt": "y"}\n')
    loaded = load_benchmark(own.add_benchmark("a", own.read_prompts(path))).load()
    assert [p.origin for p in loaded] == ["a.jsonl, line 2", "a.jsonl, line 4"]
    with pytest.raises(ConfigError, match=r"^a.jsonl, line 2: prompt 'k' cannot be scored by ocr"):
        load_reward("ocr").check(loaded)


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@settings(max_examples=15)
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_a_benchmark_gives_back_its_prompts(texts):
    prompts = [Prompt(id=f"p{i}", text=t.strip()) for i, t in enumerate(texts)]
    places._added.clear()
    name = own.add_benchmark("my prompts!", prompts, ["jpeg"])
    assert name.startswith("my-prompts-")
    assert load_benchmark(name).load() == prompts
    assert own.add_benchmark("my prompts!", prompts) == name
    other = own.add_benchmark("my prompts!", [*prompts, Prompt(id="more", text="x")])
    assert other != name


def test_error_bars_are_by_cluster():
    table = pd.DataFrame({"prompt_id": ["a", "b", "c"], "cluster": ["a", "a", "c"]})
    assert clusters(table).tolist() == ["a", "a", "c"]
    assert clusters(table.drop(columns="cluster")).tolist() == ["a", "b", "c"]
    assert clusters(table.rename(columns={"cluster": "cluster before"})).tolist() == ["a", "a", "c"]


# --- benchmarks and suites ------------------------------------------------------------------------

SIGNS = 'rewards = ["ocr", "jpeg"]\n[prompts]\nfile = "signs.txt"\n[sampling]\nnum_inference_steps = 3\n'
SHOP = 'benchmarks = ["signs", "ocr-pocket"]\n[[columns]]\nname = "S"\nbenchmark = "signs"\nmetric = "jpeg"\n'


@pytest.fixture
def mine(tmp_path):
    """The worked example of benchmarks/README.md."""
    written(tmp_path, "mine/signs.toml", SIGNS)
    written(tmp_path, "mine/prompts/signs.txt", 'a sign "one"\na sign "two"\n')
    written(tmp_path, "mine/shop.toml", SHOP)
    written(tmp_path, "mine/pyproject.toml", '[project]\nname = "x"\n')
    return tmp_path / "mine"


def test_a_suite_by_its_file(mine):
    suite = load_suite(str(mine / "shop.toml"))
    signs, pocket = protocols_of(suite, seed=3)
    assert (signs.benchmark, signs.num_inference_steps, signs.height) == ("signs", 3, None)
    assert pocket.benchmark == "ocr-pocket" and "pyproject" not in names()
    loaded = load_benchmark("signs")
    assert [p.text for p in loaded.load()] == ['a sign "one"', 'a sign "two"'] and loaded.count == 2
    assert loaded.load()[1].origin == "signs.txt, line 2"


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_a_folder_beside_the_shipped_ones(mine, monkeypatch, way):
    if way == "flag":
        places.add(mine)
    else:
        monkeypatch.setenv(places.ENVIRONMENT, str(mine))
    assert {"signs", "geneval"} <= set(names())
    assert load_suite("shop").benchmarks == ("signs", "ocr-pocket")


def test_other_prompts_are_another_protocol(mine):
    places.add(mine)
    before = load_benchmark("signs").protocol().hash
    written(mine, "prompts/signs.txt", 'a sign "three"\n')
    assert load_benchmark("signs").protocol().hash != before


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("signs.toml", SIGNS.replace("rewards", "rewrads"), "did you mean 'rewards'"),
        ("signs.toml", SIGNS.replace("num_inference_steps", "num_steps"), "num_steps"),
        ("signs.toml", SIGNS.replace("signs.txt", "../../x.txt"), "leaves"),
        ("signs.toml", SIGNS.replace("signs.txt", "no.txt"), "no prompt file"),
        ("signs.toml", f'name = "else"\n{SIGNS}', "name the file so"),
        ("signs.toml", SIGNS.encode("utf-16"), "not UTF-8"),
        ("signs.toml", f"{SIGNS}[", "signs.toml"),
        ("signs.toml", "rewards = " + "[" * 100_000, "nested too deep"),
        ("shop.toml", SHOP.replace("columns", "colums"), "did you mean 'columns'"),
        ("geneval.toml", SIGNS, "ships with the project"),
    ],
)
def test_a_mistake_in_a_toml_is_one_line(mine, file, text, said):
    written(mine, file, text)
    places.add(mine)
    with pytest.raises(ConfigError, match=said) as refused:
        load_benchmark("signs")
        load_suite("shop")
    assert "\n" not in str(refused.value)


SUITE_FAULTS = {
    'benchmarks = ["signs", "signs"]': "expected each benchmark once, got 'signs' 2 times; keep one",
    f"{SHOP}{SHOP.partition(chr(10))[2]}": "expected each column's name once, got 'S' 2 times",
    SHOP.replace('benchmark = "signs"\n', ""): "columns.0.benchmark: expected a value, got none",
    'benchmarks = "signs"': "benchmarks: expected a list, got 'signs'",
    "benchmarks = []": "benchmarks: expected a list of at least 1, got []",
    f'{SHOP}[settings]\nnum_inference_steps = "3"': "settings.num_inference_steps: expected a "
    "whole number, got '3'",
    f"{SHOP}[settings]\nguidance_scale = true": "settings.guidance_scale: expected a number, got True",
    f'{SHOP}[settings]\nguidance = "embedded"': "settings: guidance embedded goes with a guidance_scale",
    f'{SHOP}[settings]\nguidance = "off"\nguidance_scale = 4.5': "guidance off has the scale 1, not 4.5",
    f'{SHOP}settings = {{ guidance = "native", guidance_scale = 2 }}': "leave out guidance_scale",
    SHOP.replace('benchmark = "signs"', 'benchmark = "ocr"'): "mine.toml: columns name ocr, which",
    'benchmarks = ["signs"]\ntitle = 3': "title: expected a text, got 3",
    'benchmarks = ["signs"]\n[settings]\nheigth = 64': "unknown key 'settings.heigth'; did you mean",
    'benchmarks = ["signs"]\n[settings]\nheight = 3': "expected a number greater than or equal to 8",
    'title = "x"': "mine.toml is neither a suite nor a benchmark: expected the key 'benchmarks' (of",
}
"""A suite's TOML -> what the command line says of it."""


@pytest.mark.parametrize("way", ["file", "name"])
@pytest.mark.parametrize(("text", "said"), SUITE_FAULTS.items())
def test_a_faulty_suite_is_said_in_the_terms_of_its_file(mine, text, said, way):
    written(mine, "mine.toml", text)
    named = ["mine.toml"] if way == "file" else ["mine", "--benchmark-path", "."]
    code, line = run_here(mine, "eval", "pocket", "--suite", *named)
    assert code == 2 and said in line and "mine.toml" in line and line.count("\n") == 1
    assert not (mine / "runs").exists()


def test_a_benchmark_that_scores_by_one_reward_twice_is_refused(mine):
    written(mine, "signs.toml", SIGNS.replace('"ocr", "jpeg"', '"jpeg", "jpeg"'))
    code, line = run_here(mine, "eval", "pocket", "--suite", "signs.toml")
    assert code == 2 and "expected each reward once, got 'jpeg' 2 times" in line


@pytest.mark.parametrize(
    "text", [SIGNS, f"{SHOP}[", SHOP.replace("ocr-pocket", "ocr-poket"), SHOP.replace("[", "7", 1)]
)
def test_a_suite_file_that_is_broken_leaves_nothing_behind(mine, text):
    """In a Python session, its folder's benchmarks would be found by every later command."""
    path = written(mine, "shop.toml", text)
    if text is SIGNS:
        written(mine, "prompts/signs.txt", b"\xff")
        path = path.rename(mine / "signs.toml")
    before = places.own()
    with pytest.raises(ConfigError):
        load_suite(str(path))
    assert places.own() == before and "signs" not in names()


def test_no_such_suite_file_or_folder(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_suite(str(tmp_path / "no.toml"))
    with pytest.raises(ConfigError, match="not a folder"):
        places.add(tmp_path / "no")


def test_lines_that_are_no_prompts_are_not_drawn_as_such(tmp_path, monkeypatch):
    """A header, or an object with its braces, was a prompt; a mark of Windows' editors was no TOML."""
    monkeypatch.setattr(places, "_added", [])
    (tmp_path / "prompts").mkdir()
    written(tmp_path / "prompts", "a.csv", "prompt\na cat\n")
    written(tmp_path / "prompts", "b.JSONL", '{"id": "1", "prompt": "a cat"}\n')
    (tmp_path / "a.toml").write_text('[prompts]\nfile = "a.csv"\n', "utf-8")
    code, out = run_here(tmp_path, "eval", "pocket", "--suite", "a.toml")
    assert code == 2 and "'a.csv' would be read as a prompt a line, its header among" in out, out
    (tmp_path / "b.toml").write_text('[prompts]\nfile = "b.JSONL"\n', "utf-8-sig")
    load_suite(str(tmp_path / "b.toml"))
    assert [prompt.text for prompt in load_benchmark("b").load()] == ["a cat"]
