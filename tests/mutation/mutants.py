"""One-line faults in what scores an image, and whether a cheap certificate or a quick test notices each.

`python -m tests.mutation.mutants` prints the table; `pytest -m mutation` asserts it. A copy of the packages is changed,
and `nftbench certify` runs on it in a process of its own, as a user runs it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.paths import GOLDEN, ROOT


@dataclass(frozen=True)
class Mutant:
    """A line that is changed, and the rewards whose certificates must not pass with it."""

    kind: str
    file: str
    old: str
    new: str
    reward: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.file.removeprefix('rewards/')}: {self.old.strip()} -> {self.new.strip()}"


CLIP, PRE, JUDGE = "rewards/clip", "rewards/images/preprocess.py", "rewards/geneval/judge.py"
VARIANTS, COLOURS = "rewards/geneval/variants.py", "rewards/geneval/colours.py"
NFT_CROP = "_crop(resized, (height - size) // 2, (width - size) // 2, size)"
MUTANTS = [
    Mutant("registry", "rewards/__init__.py", "rewards.images.jpeg:Compressibility", "rewards.images.jpeg:Incompressibility", "jpeg@compressibility"),
    Mutant("registry", f"{CLIP}/clipscore.py", '    "nft",\n    preprocess.clipscore_nft,', '    "nft",\n    preprocess.clipscore_openai,', "clipscore@nft"),
    Mutant("registry", f"{CLIP}/clipscore.py", '    "openai",\n    preprocess.clipscore_openai,', '    "openai",\n    preprocess.clipscore_nft,', "clipscore@openai"),
    Mutant("registry", f"{CLIP}/hpsv2.py", '_variant("nft", preprocess.hpsv2_nft', '_variant("nft", preprocess.hpsv2_2024', "hpsv2@nft"),
    Mutant("registry", f"{CLIP}/hpsv2.py", '"2024", preprocess.hpsv2_2024', '"2024", preprocess.hpsv2_nft', "hpsv2@2024"),
    Mutant("registry", f"{CLIP}/pickscore.py", "Preprocess = preprocess.pickscore", "Preprocess = preprocess.clipscore_openai", "pickscore"),
    Mutant("registry", f"{CLIP}/aesthetic.py", "Preprocess = preprocess.aesthetic_nft", "Preprocess = preprocess.clipscore_nft", "aesthetic"),
    Mutant("preprocessing", PRE, NFT_CROP, NFT_CROP.replace("(height - size)", "(height - size + 1)"), "pickscore"),
    Mutant("preprocessing", PRE, 'mode="bilinear", antialias=True', 'mode="bilinear", antialias=False', "clipscore@nft"),
    Mutant("preprocessing", PRE, 'mode="bilinear", antialias=True', 'mode="bicubic", antialias=True', "clipscore@nft"),
    Mutant("preprocessing", PRE, "0.48145466", "0.48145", "clipscore@openai"),
    Mutant("preprocessing", PRE, "0.27577711", "0.2757", "hpsv2@nft"),
    Mutant("preprocessing", PRE, "Image.Resampling.BICUBIC", "Image.Resampling.BILINEAR", "imagereward"),
    Mutant("preprocessing", PRE, "black = torch.zeros", "black = torch.ones", "hpsv2@2024"),
    Mutant("judge", JUDGE, "order[scores[order] > np", "order[scores[order] >= np", "geneval@official"),
    Mutant("judge", JUDGE, "MAX_OBJECTS = 16", "MAX_OBJECTS = 15", "geneval@nft"),
    Mutant("judge", JUDGE, "OVERLAP = 0.1", "OVERLAP = 0.12", "geneval@official"),
    Mutant("judge", JUDGE, "if len(_boxes(kept, name)) >= count", "if len(_boxes(kept, name)) > count", "geneval@official"),
    Mutant("judge", JUDGE, "if len(found) != count:", "if len(found) < count:", "geneval@nft"),
    Mutant("judge", JUDGE, "[0.0] * bool(failure) + [1.0]", "[float(not failure)]", "geneval@nft"),
    Mutant("judge", JUDGE, "SCORE_THRESHOLD = 0.3", "SCORE_THRESHOLD = 0.31", "geneval@official"),
    Mutant("counting threshold", JUDGE, "COUNTING_THRESHOLD = 0.9", "COUNTING_THRESHOLD = 0.3", "geneval@official"),
    Mutant("counting threshold", "rewards/geneval/reward.py", 'prompt.tag == "counting"', 'prompt.tag == "count"', "geneval@official"),
    Mutant("counting threshold", "rewards/geneval/reward.py", "(threshold, counting_threshold)", "(threshold, threshold)", "geneval@nft"),
    Mutant("colours", COLOURS, '"a photo of a {color} object"', '"a photo of one {color} object"', "geneval@official"),
    Mutant("colours", COLOURS, "BACKGROUND = 0x99", "BACKGROUND = 0x98", "geneval@official"),
    Mutant("colours", COLOURS, "in np.rint(box[:4])", "in np.floor(box[:4])", "geneval@official"),
    Mutant("colours", COLOURS, "= preprocess.geneval_crop", "= preprocess.pickscore", "geneval@official"),
    Mutant("JPEG", "rewards/images/jpeg.py", "QUALITY = 95", "QUALITY = 94", "jpeg"),
    Mutant("JPEG", VARIANTS, 'activation="gelu",\n        rule="nft",\n        jpeg_quality=75', 'activation="gelu",\n        rule="nft",\n        jpeg_quality=95', "geneval@flowgrpo"),
    Mutant("JPEG", VARIANTS, '        rule="nft",\n        jpeg_quality=75,\n    ),\n    "hf"', '        rule="nft",\n    ),\n    "hf"', "geneval@promptrl"),
    Mutant("channel order", VARIANTS, 'channel_order="bgr",\n        activation="gelu",\n        rule="nft",\n    ),', 'activation="gelu",\n        rule="nft",\n    ),', "geneval@nft"),
    Mutant("channel order", "rewards/geneval/mask2former.py", 'if self._channel_order == "bgr"', 'if self._channel_order == "rgb"', "geneval@official"),
    Mutant("channel order", "rewards/ocr/engines.py", "np.ascontiguousarray(image[..., ::-1])", "np.ascontiguousarray(image)", "ocr@rapidocr"),
    Mutant("activation", VARIANTS, 'channel_order="bgr",\n        activation="gelu",\n        rule="nft",\n    ),', 'channel_order="bgr",\n        rule="nft",\n    ),', "geneval@nft"),
    Mutant("activation", f"{CLIP}/models.py", '1024, "gelu")', '1024, "quick_gelu")', "pickscore"),
    Mutant("activation", f"{CLIP}/models.py", 'def vit_l_14_config(activation: Activation = "quick_gelu")', 'def vit_l_14_config(activation: Activation = "gelu")', "clipscore@nft"),
    Mutant("scale", f"{CLIP}/pickscore.py", "TRAIN_SCALE = 26.0", "TRAIN_SCALE = 25.0", "pickscore"),
    Mutant("scale", f"{CLIP}/pickscore.py", "scale = self.tower.logit_scale", "scale = 1.0", "pickscore"),
    Mutant("scale", f"{CLIP}/towers.py", "Scores.of(scale * tower", "Scores.of(100 * scale * tower", "clipscore@nft"),
    Mutant("scale", "rewards/vlm/unifiedreward.py", "TRAIN_SCALE = 5.0", "TRAIN_SCALE = 1.0", "unifiedreward@nft"),
    Mutant("scale", "rewards/images/jpeg.py", "COMPRESSIBILITY_DIVISOR = 500", "COMPRESSIBILITY_DIVISOR = 400", "jpeg@compressibility"),
    Mutant("reading", "rewards/ocr/reward.py", "min(Levenshtein.distance(read, target), len(target))", "Levenshtein.distance(read, target)", "ocr@rapidocr"),
    Mutant("reading", "rewards/ocr/reward.py", '.replace(" ", "").lower()', '.replace(" ", "")', "ocr@rapidocr"),
    Mutant("reading", "rewards/ocr/reward.py", "rapidocr_x4 = _variant(ocr_engines.RapidOcr, scale=4)", "rapidocr_x4 = _variant(ocr_engines.RapidOcr, scale=2)", "ocr@rapidocr-x4"),
    Mutant("reading", "rewards/vlm/unifiedreward.py", "([1-5](?:", "([0-5](?:", "unifiedreward@nft"),
    Mutant("tokens", "rewards/vlm/imagereward.py", "MAX_TOKENS = 35", "MAX_TOKENS = 34", "imagereward"),
    Mutant("tokens", f"{CLIP}/models.py", "MERGES = 49_152 - 256 - 2", "MERGES = 49_152 - 256 - 9_000", "clipscore@nft"),
    Mutant("detector", "rewards/geneval/mask2former.py", "PAD = 128", "PAD = 127", "geneval@official"),
    Mutant("detector", "rewards/geneval/mask2former.py", "SCALE = (1333, 800)", "SCALE = (1333, 640)", "geneval@official"),
    Mutant("detector", "rewards/geneval/instances.py", "MAX_INSTANCES = 100", "MAX_INSTANCES = 50", "geneval@official"),
]  # fmt: skip


class Copy:
    """A copy of the packages, into which one mutant at a time is put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for package in ("rewards", "nftbench"):
            ignored = shutil.ignore_patterns("__pycache__", "policy", "*.safetensors")
            shutil.copytree(ROOT / package, folder / package, ignore=ignored)

    def killed_by(self, mutant: Mutant) -> str:
        """The first check that differs, or the refusal; empty where the mutant lives."""
        path = self.folder / mutant.file
        source = path.read_text("utf-8")
        assert source.count(mutant.old) >= 1, f"{mutant} no longer fits the source"
        path.write_text(source.replace(mutant.old, mutant.new, 1), "utf-8")
        try:
            return self.certify(mutant.reward)
        finally:
            path.write_text(source, "utf-8")

    def certify(self, reward: str) -> str:
        """What `nftbench certify` finds wrong with a reward of the copy."""
        out = self.folder / "certificates"
        shutil.rmtree(out, ignore_errors=True)
        program = "from nftbench.cli.main import main; main()"
        command = [sys.executable, "-B", "-c", program, "certify", reward]
        done = subprocess.run(
            [*command, "--golden", str(GOLDEN), "--out", str(out)],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
        )
        made = out / f"{reward}.json"
        if not done.returncode:
            assert made.is_file(), done.stdout + done.stderr
            return ""
        if not made.is_file():
            return f"refused: {(done.stderr.strip().splitlines() or [''])[-1]}"
        found = json.loads(made.read_bytes())
        failed = [row["name"] for row in found["checks"] if not row["passed"]]
        return failed[0] if failed else f"not compared: {found['needs']}"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        for mutant in MUTANTS:
            line = f"{mutant} | {mutant.reward} | {copy.killed_by(mutant) or 'LIVES'}"
            sys.stdout.write(f"{' '.join(line.split())}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
