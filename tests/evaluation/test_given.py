"""Finished images become a run that is scored and compared as any other, and says that its images were given."""

import json

import numpy as np
import pandas as pd
import pytest

from nftbench.benchmark import places
from nftbench.benchmark.registry import load_benchmark
from nftbench.commands import score_run
from nftbench.evaluation.given import GIVEN, import_images, read_source
from nftbench.runs.lock import hold
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError
from rewards.images.pixels import read_picture
from tests.helpers.commands import run_here
from tests.helpers.pictures import picture


@pytest.fixture(autouse=True)
def nothing_added(monkeypatch):
    monkeypatch.setattr(places, "_added", [])


def quietly(stage: str, done: int, total: int) -> None:
    """A report nobody reads."""


@pytest.fixture
def geneval(tmp_path):
    """Images of geneval-pocket's prompts as GenEval's own script lays them out, in another order."""
    prompts = load_benchmark("geneval-pocket").load()
    for number, prompt in enumerate(reversed(prompts)):
        folder = tmp_path / "theirs" / f"{number:05d}"
        for index in range(2):
            picture(folder / "samples" / f"{index:04d}.png", int(prompt.id) * 2 + index)
        record = {"tag": prompt.tag, "prompt": prompt.text, **prompt.target}
        (folder / "metadata.jsonl").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path / "theirs"


@pytest.mark.slow
def test_genevals_folder_answers_a_benchmark(geneval, tmp_path):
    run = import_images(geneval, "theirs", tmp_path / "run", benchmark="geneval-pocket")
    (protocol,) = run.protocols().values()
    assert (protocol.noise, protocol.dtype, protocol.num_inference_steps) == ("given", None, None)
    assert (protocol.images_per_prompt, protocol.height) == (2, 64)
    assert protocol.prompts_sha256 == load_benchmark("geneval-pocket").digest
    assert run.manifest["checkpoint"]["pipeline"] == GIVEN
    rows = score_run(run.folder, "jpeg", quietly)
    assert all(row.limited and row.model == "theirs" for row in rows)
    prompt = load_benchmark("geneval-pocket").load()[5]
    kept = read_picture(run.folder / "geneval-pocket" / "images" / f"{prompt.id}-01.png").pixels
    rng = np.random.default_rng(int(prompt.id) * 2 + 1)
    assert (kept == rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).all()


def test_a_missing_prompt_is_named_and_nothing_is_left(geneval, tmp_path):
    (geneval / "00003" / "metadata.jsonl").write_text('{"prompt": "else", "tag": "x"}')
    with pytest.raises(ConfigError, match="does not ask 'else'"):
        import_images(geneval, "theirs", tmp_path / "run", benchmark="geneval-pocket")
    assert not (tmp_path / "run").exists()


def test_images_that_lost_their_metadata_are_not_left_out_in_silence(geneval, tmp_path):
    (geneval / "00003" / "metadata.jsonl").unlink()
    with pytest.raises(ConfigError, match="00003 has samples but no metadata"):
        import_images(geneval, "mine", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_prompts_beside_images_that_have_theirs_are_not_passed_over(geneval, tmp_path):
    (tmp_path / "p.txt").write_text("a\n")
    with pytest.raises(ConfigError, match=r"--prompts .* goes with a folder of images alone"):
        import_images(geneval, "mine", tmp_path / "run", prompts=tmp_path / "p.txt")
    assert not (tmp_path / "run").exists()


def listed(tmp_path, lines):
    path = tmp_path / "list.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def test_a_list_with_absolute_paths_and_uneven_numbers(tmp_path):
    for number in range(3):
        picture(tmp_path / "far" / f"{number}.png", number, size=16 + 8 * number)
    lines = [
        {"image": str(tmp_path / "far" / "0.png"), "prompt": "a"},
        {"image": "far/1.png", "prompt": "a"},
        {"image": "far/2.png", "prompt": "b"},
    ]
    run = import_images(listed(tmp_path, lines), "m", tmp_path / "run")
    (row,) = score_run(run.folder, "jpeg", quietly)
    assert (row.n, row.n_prompts, row.n_failed) == (3, 2, 0)
    (protocol,) = run.protocols().values()
    assert protocol.height is None  # they have three sizes
    table = Run.open(run.folder).read_samples(protocol.benchmark)
    assert table["cluster"].tolist() == ["00000", "00000", "00002"]


def test_one_text_under_two_tasks_is_one_cluster(tmp_path):
    lines = [{"image": f"{i}.png", "prompt": "x", "tag": tag} for i in (0, 1) for tag in "ab"]
    for i in range(2):
        picture(tmp_path / "in" / f"{i}.png", i)
    path = tmp_path / "in" / "images.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    images = read_source(path, None, None)
    assert [i.prompt.id for i in images] == ["00000", "00001"] * 2
    assert [i.prompt.cluster for i in images] == ["", "00000"] * 2


@pytest.mark.parametrize("key", ["prompt", "tag", "cluster"])
def test_half_a_character_is_refused_with_its_line(tmp_path, key):
    picture(tmp_path / "a.png", 1)
    line = {"image": "a.png", "prompt": "x", "tag": "t"} | {key: "a \ud83d"}
    (tmp_path / "images.jsonl").write_text(f"{json.dumps(line)}\n")
    with pytest.raises(ConfigError, match=r"line 1: half a surrogate pair"):
        import_images(tmp_path / "images.jsonl", "m", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_images_with_captions_or_prompts(tmp_path):
    folder = tmp_path / "plain"
    for key in ("0-00", "0-01", "1-00", "1-01"):
        picture(folder / f"{key}.png", 3)
    (tmp_path / "p.jsonl").write_text('{"id": 0, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n')
    run = import_images(folder, "m", tmp_path / "run", prompts=tmp_path / "p.jsonl")
    (protocol,) = run.protocols().values()
    assert protocol.images_per_prompt == 2
    with pytest.raises(ConfigError, match="nothing says what"):
        import_images(folder, "m", tmp_path / "other")
    for image in folder.glob("*.png"):
        image.with_suffix(".txt").write_text("a cat")
    made = import_images(folder, "m", tmp_path / "other")
    assert len(list(made.folder.rglob("images/*.png"))) == 4


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"image": "no.png", "prompt": "a"}], "line 1: no image"),
        ([{"image": "broken.png", "prompt": "a"}], "cannot be read as an image"),
        ([{"image": "x\0.png", "prompt": "a"}], "line 1: expected 'image' to be a path"),
        ([{"prompt": "a"}], "line 1: expected 'image'"),
        ([{"image": "0.png"}], "line 1: expected 'prompt'"),
    ],
)
def test_a_broken_list_is_one_line(tmp_path, lines, said):
    picture(tmp_path / "0.png", 0)
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:10])
    with pytest.raises(ConfigError, match=said):
        import_images(listed(tmp_path, lines), "m", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_two_imports_are_compared_and_reported(start, geneval, tmp_path):
    """From the command line, as a user does."""
    for name in ("a", "b"):
        made = start(
            *("import", str(geneval), "--name", name, "--benchmark", "geneval-pocket"),
            *("--out", name, "--rewards", "jpeg"),
        )
        code, out, error = made.finish()
        assert code == 0, error
        assert "images given" in out
    code, out, error = start("compare", "a", "b").finish()
    assert code == 0 and "jpeg" in out, error
    code, _, error = start("report", "a", "b", "--out", "report").finish()
    assert code == 0, error
    code, _, error = start("import", str(geneval), "--name", "c", "--out", "a").finish()
    assert code == 2 and "holds something already" in error
    wrong = ("--name", "d", "--out", "d", "--rewards", "ocr@rapidocr")
    code, _, error = start("import", str(geneval), *wrong).finish()
    assert code == 2 and "the images are in d by now: nftbench score d --rewards" in error
    code, _, error = start("score", "d", "--rewards", "jpeg").finish()
    assert code == 0, error
    assert pd.read_csv(tmp_path / "a" / "rows.csv")["limited"].all()


def test_of_two_imports_into_one_folder_the_second_is_refused(tmp_path):
    """The slower one, which saw an empty folder, removes nothing of the faster one's run."""
    for number in range(2):
        picture(tmp_path / f"{number}.png", number)
    lines = [{"image": str(tmp_path / f"{n}.png"), "prompt": f"picture {n}"} for n in range(2)]
    (tmp_path / "images.jsonl").write_text("\n".join(map(json.dumps, lines)))
    refused = []

    def meanwhile(stage: str, done: int, total: int) -> None:
        with pytest.raises(ConfigError, match="holds something already"):
            import_images(tmp_path / "images.jsonl", "slow", tmp_path / "run")
        refused.append(done)

    run = import_images(tmp_path / "images.jsonl", "fast", tmp_path / "run", progress=meanwhile)
    assert refused and run.manifest["checkpoint"]["name"] == "fast"
    with hold(tmp_path / "new"), pytest.raises(ConfigError, match="in use by process"):
        import_images(tmp_path / "images.jsonl", "slow", tmp_path / "new")


# --- the command ----------------------------------------------------------------------------------


def test_uneven_numbers_of_images_are_said_with_their_counts(tmp_path):
    """Prompt 0 has three images, 1 and 2 one: by the command, and in the manifest that reports read."""
    for number, name in enumerate(["0-00", "0-01", "0-02", "1", "2"]):
        picture(tmp_path / "images" / f"{name}.png", number)
    prompts = [{"id": str(i), "prompt": f"thing {i}"} for i in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in prompts))
    asked = ["--prompts", "p.jsonl", "--name", "m", "--out", "run"]
    code, said = run_here(tmp_path, "import", "images", *asked)
    note = "uneven: 1 to 3 images a prompt, 2 of 3 prompts have fewer than 3"
    assert code == 0 and note in said
    ((drawn,),) = [Run(tmp_path / "run").manifest["drawn"].values()]
    assert note in drawn["notes"][1]


def test_even_numbers_of_images_are_not(tmp_path):
    for name in ("0", "1"):
        picture(tmp_path / "images" / f"{name}.png", int(name))
        (tmp_path / "images" / f"{name}.txt").write_text(name)
    code, said = run_here(tmp_path, "import", "images", "--name", "m", "--out", "run")
    assert code == 0 and "uneven" not in said


@pytest.mark.parametrize("long", ["a" * 300 + ".png", "a/" * 2500 + "b.png"])
def test_an_image_whose_name_is_too_long_is_said_so(tmp_path, long):
    listed(tmp_path, [{"image": long, "prompt": "x"}])
    code, said = run_here(tmp_path, "import", "list.jsonl", "--name", "m")
    assert code == 2 and "too long a name" in said and "cannot write" not in said
    assert said.count("\n") == 1 and len(said) < 400 and not (tmp_path / "runs").exists()


def test_an_image_that_a_list_names_twice_for_a_prompt_is_refused(tmp_path):
    """By another path or id too; for another prompt it may stand there, such as one that it does not show."""
    picture(tmp_path / "a.png", 1)
    (tmp_path / "b.png").symlink_to("a.png")
    for again in ({"image": "./a.png"}, {"image": "a.png", "id": "x"}, {"image": "b.png"}):
        listed(tmp_path, [{"image": "a.png", "prompt": "one"}, {"prompt": "one", **again}])
        code, said = run_here(tmp_path, "import", "list.jsonl", "--name", "m")
        assert (
            code == 2 and f"line 2: {again['image']} is an image of this prompt in line 1" in said
        )
        assert said.count("\n") == 1 and not (tmp_path / "runs").exists()
    listed(tmp_path, [{"image": "a.png", "prompt": text} for text in ("one", "two")])
    code, said = run_here(tmp_path, "import", "list.jsonl", "--name", "m")
    assert code == 0, said


def eight_prompts(tmp_path, names):
    """Eight prompts, and files named after some of them."""
    for number, name in enumerate(names):
        picture(tmp_path / "images" / f"{name}.png", number)
    (tmp_path / "p.txt").write_text("".join(f"thing {i}\n" for i in range(8)))
    return ("import", "images", "--prompts", "p.txt", "--name", "m", "--out", "run")


def test_prompts_without_an_image_are_refused_and_unread_files_named(tmp_path):
    """As with `--benchmark`: the mean of the others would be taken for that of all eight."""
    command = eight_prompts(tmp_path, ["00000", "00001", "00003"])
    (tmp_path / "images" / "00002.heic").write_bytes(b"x")
    (tmp_path / "images" / "00004.txt").write_text("a caption without its image")
    code, said = run_here(tmp_path, *command)
    assert code == 2 and said.count("\n") == 1 and not (tmp_path / "run").exists()
    assert "5 of 8 prompts of p.txt have no image, the first 'thing 2' (id 00002)" in said
    assert "1 files named after them are of no format that is read, the first 00002.heic" in said


def test_an_unread_file_of_a_prompt_that_has_an_image_is_said(tmp_path):
    command = eight_prompts(tmp_path, [f"{i:05d}-00" for i in range(8)])
    (tmp_path / "images" / "00002-01.heic").write_bytes(b"x")
    code, said = run_here(tmp_path, *command)
    assert code == 0 and "passed over: 1 files named after prompts, the first 00002-01.heic" in said


def captioned(tmp_path, *texts, folder: str = "theirs") -> None:
    """A folder of images, each with its caption, named as people name them."""
    for number, text in enumerate(texts):
        picture(tmp_path / folder / f"{text} {number}.png", number, 8 * (1 + number // 2))
        (tmp_path / folder / f"{text} {number}.txt").write_text(text, "utf-8")


def test_captions_of_one_text_are_one_cluster_as_in_a_list(tmp_path):
    captioned(tmp_path, "a cat", "a cat", "a dög", "a dög")
    names = sorted(p.name for p in (tmp_path / "theirs").glob("*.png"))
    lines = [{"image": f"theirs/{name}", "prompt": name[:5]} for name in names]
    listed = tmp_path / "list.jsonl"
    listed.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    ends = []
    for source in ("theirs", "list.jsonl"):
        command = (
            "import",
            source,
            "--name",
            "they",
            "--rewards",
            "jpeg",
            "--out",
            f"{source}-run",
        )
        code, out = run_here(tmp_path, *command)
        assert code == 0, out
        rows = pd.read_csv(tmp_path / f"{source}-run" / "rows.csv")
        ends.append(rows[["value", "low", "high", "n"]].to_numpy().tolist())
    assert ends[0] == ends[1]


def test_a_caption_whose_image_is_not_read_is_refused(tmp_path):
    captioned(tmp_path, "a cat", "a dog")
    (tmp_path / "theirs" / "a dog 1.png").rename(tmp_path / "theirs" / "a dog 1.heic")
    code, out = run_here(tmp_path, "import", "theirs", "--name", "they", "--out", "run")
    assert code == 2 and "1 images of theirs are of no format that is read" in out, out
    assert "a dog 1.heic" in out and not (tmp_path / "run").exists()


def test_a_benchmark_that_asks_one_text_twice_is_answered(tmp_path):
    (tmp_path / "mine" / "prompts").mkdir(parents=True)
    (tmp_path / "mine" / "twice.toml").write_text('[prompts]\nfile = "twice.txt"\n', "utf-8")
    (tmp_path / "mine" / "prompts" / "twice.txt").write_text("a cat\na dog\na cat\n", "utf-8")
    pixels = [picture(tmp_path / "theirs" / f"0000{n}.png", n) for n in range(3)]
    command = ("--benchmark-path", "mine", "--benchmark", "twice", "--name", "they", "--out", "run")
    code, out = run_here(tmp_path, "import", "theirs", *command)
    assert code == 0, out
    for number, own in enumerate(pixels):
        saved = read_picture(tmp_path / "run" / "twice" / "images" / f"0000{number}-00.png")
        assert np.array_equal(saved.pixels, own)


def test_a_name_too_long_for_a_folder_is_cut(tmp_path):
    """Of a checkpoint with many LoRAs, too: nobody chose the folder's name."""
    captioned(tmp_path, "a cat")
    folders = set()
    for end in ("one", "two"):
        code, out = run_here(tmp_path, "import", "theirs", "--name", "ü" * 300 + end)
        assert code == 0, out
        folders |= {p.name for p in (tmp_path / "runs").iterdir()}
    assert len(folders) == 2 and all(len(name.encode()) < 130 for name in folders)


def test_images_of_several_sizes_are_said(tmp_path):
    for i, size in enumerate((32, 64, 48)):
        picture(tmp_path / f"{i}.png", i, size)
    lines = [{"image": f"{i}.png", "prompt": "a red cube"} for i in range(3)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    code, out = run_here(tmp_path, "import", "list.jsonl", "--name", "m", "--out", "run")
    assert code == 0 and "3 sizes, 32x32 to 64x64 pixels (width x height)" in out, out


def test_ids_that_differ_by_case_alone_are_said_of_the_list(tmp_path):
    for i in range(2):
        picture(tmp_path / f"{i}.png", i)
    lines = [{"image": f"{i}.png", "prompt": f"cube {i}", "id": "Aa"[i]} for i in range(2)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    code, out = run_here(tmp_path, "import", "list.jsonl", "--name", "m", "--out", "run")
    assert code == 2 and "1.png: prompt 'A' is 'cube 0' for 0.png and 'cube 1' (id 'a')" in out, out
    assert not (tmp_path / "run").exists()
