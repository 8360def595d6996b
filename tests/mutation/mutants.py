"""One-line faults in what makes a number, each with what should notice it. `make mutation` runs them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A line that is changed."""

    kind: str
    file: str
    old: str
    """What stands in the file; the first place is changed."""
    new: str
    certificate: str = ""
    """Key of a certificate that must not pass with it; empty where only tests are asked."""
    tests: str = ""
    """Tests that are asked where the certificate passes; empty is the file's own mirror in `tests`."""

    def __str__(self) -> str:
        """In one line."""
        return " ".join(f"{self.file}: {self.old.strip()} -> {self.new.strip()}".split())


CLIP, PRE, JUDGE = "rewards/clip", "rewards/images/preprocess.py", "rewards/geneval/judge.py"
VARIANTS, COLOURS = "rewards/geneval/variants.py", "rewards/geneval/colours.py"
PIXELS, NFT = "rewards/images/pixels.py", "nftbench/training/algorithms/nft.py"
SDE = "nftbench/training/algorithms/sde_sampler.py"
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
    # --- the numbers of networks
    Mutant("scale", f"{CLIP}/towers.py", "return normalize(torch.cat(embeds), dim=-1)", "return torch.cat(embeds)", "aesthetic"),
    Mutant("scale", f"{CLIP}/towers.py", "text_embeds = normalize(self.embed_texts(list(rows)), dim=-1)", "text_embeds = self.embed_texts(list(rows))", "clipscore@nft"),
    Mutant("pairing", f"{CLIP}/towers.py", "own = text_embeds[[rows[text] for text in texts]]", "own = text_embeds[[0 for text in texts]]", "clipscore@nft"),
    Mutant("tokens", f"{CLIP}/towers.py", "[len(ids) > self._text_length for ids in whole]", "[len(ids) >= self._text_length for ids in whole]", "", "tests/rewards/clip/test_towers.py tests/rewards/test_checked.py"),
    Mutant("tokens", f"{CLIP}/towers.py", "len(encode(text)) + 2 > self", "len(encode(text)) > self", "", "tests/rewards/clip"),
    Mutant("tokens", "rewards/vlm/imagereward.py", "[*ids[: MAX_TOKENS - 1], ids[-1]]", "list(ids[:MAX_TOKENS])", "imagereward"),
    Mutant("preprocessing", PRE, 'mode="bicubic", antialias=antialias', 'mode="bilinear", antialias=antialias', "hpsv2@nft"),
    Mutant("preprocessing", PRE, "round(side * scale)", "int(side * scale)", "hpsv2@2024"),
    Mutant("preprocessing", PRE, "size * height // short, size * width // short", "round(size * height / short), round(size * width / short)", "pickscore"),
    Mutant("preprocessing", PRE, "return (pixels - mean) / std", "return pixels / std - mean", "aesthetic"),
    # --- GenEval
    Mutant("detector", "rewards/geneval/mask2former.py", "int(height * factor + 0.5)", "int(height * factor)", "geneval@official"),
    Mutant("detector", "rewards/geneval/mask2former.py", "interpolation=cv2.INTER_LINEAR", "interpolation=cv2.INTER_NEAREST", "geneval@official"),
    Mutant("detector", "rewards/geneval/instances.py", "scores=chances * certainty[row]", "scores=chances", "geneval@official"),
    Mutant("detector", "rewards/geneval/instances.py", "softmax(-1)[:, :-1]", "softmax(-1)[:, 1:]", "geneval@official"),
    Mutant("detector", "rewards/geneval/instances.py", "align_corners=False", "align_corners=True", "geneval@official"),
    Mutant("detector", "rewards/geneval/instances.py", "past = length - hit.flip(1).int().argmax(1)", "past = length - 1 - hit.flip(1).int().argmax(1)", "geneval@official"),
    Mutant("colours", COLOURS, "embeds.reshape(len(self.colors), len(TEMPLATES), -1).mean(dim=1)", "embeds.reshape(len(self.colors), len(TEMPLATES), -1)[:, 0]", "geneval@official"),
    Mutant("colours", COLOURS, "np.where(mask[..., None], image, np.uint8(BACKGROUND))", "np.where(mask[..., None], np.uint8(BACKGROUND), image)", "geneval@official"),
    Mutant("judge", JUDGE, "dy < -0.5", "dy > 0.5", "geneval@official"),
    Mutant("judge", JUDGE, '"left of": dx < -0.5', '"left of": dx <= -0.5', "geneval@official"),
    Mutant("judge", JUDGE, "counts[name] = max(count, counts.get(name, 0))", "counts[name] = count", "geneval@official", "tests/rewards/geneval"),
    Mutant("judge", JUDGE, "found = _boxes(kept, name)[:count]", "found = _boxes(kept, name)", "geneval@official"),
    Mutant("judge", JUDGE, "return failure, [*entries, 0.0]", "return failure, [*entries, 0.0, 1.0]", "geneval@nft"),
    Mutant("judge", JUDGE, '[0.0] * ("color" in clause or "position" in clause)', '[0.0] * ("color" in clause and "position" in clause)', "geneval@nft"),
    Mutant("registry", VARIANTS, "channel_order=knobs.channel_order, device", 'channel_order="rgb", device', "geneval@promptrl"),
    Mutant("registry", "nftbench/pocket/rewards.py", 'info=geneval_nft.info, rule="nft"', "info=geneval_nft.info", "geneval@pocket-nft", "tests/pocket/test_rewards.py"),
    # --- text
    Mutant("reading", "rewards/ocr/reward.py", "0 if target in read else min", "min", "ocr@rapidocr"),
    Mutant("reading", "rewards/ocr/reward.py", 'return "".join(line.text for line in lines if line.confidence > 0)', 'return " ".join(line.text for line in lines)', "ocr@rapidocr", "tests/rewards/ocr"),
    Mutant("reading", "rewards/ocr/reward.py", "max(0, len(read) - len(target)) / len(read)", "max(0, len(read) - len(target)) / len(target)", "", "tests/rewards/ocr"),
    Mutant("reading", "rewards/ocr/words.py", "2 * shared / (len(read) + len(target))", "shared / (len(read) + len(target))", "", "tests/rewards/ocr"),
    Mutant("JPEG", "rewards/images/jpeg.py", "buffer.tell() / 1000", "buffer.tell() / 1024", "jpeg"),
    # --- pixels and the door
    Mutant("pixels", PIXELS, "np.float32(255)).astype", "np.float32(256)).astype"),
    Mutant("pixels", PIXELS, "np.rint(images.astype", "np.floor(images.astype"),
    Mutant("pixels", PIXELS, "((levels + 128) // 257)", "(levels // 256)"),
    Mutant("pixels", PIXELS, "(255, 255, 255, 255)", "(0, 0, 0, 255)"),
    Mutant("pixels", PIXELS, "not in range(2, 9)", "not in range(2, 8)"),
    Mutant("pixels", PIXELS, "images.permute(0, 2, 3, 1)", "images.permute(0, 3, 2, 1)"),
    Mutant("pixels", PIXELS, "if frames != 1:", "if frames > 2:"),
    Mutant("pixels", PIXELS, "if image.has_transparency_data:", 'if "A" in image.mode:'),
    Mutant("door", "rewards/checked.py", "scores.values > info.high + slack", "scores.values > info.high + 1"),
    Mutant("door", "rewards/checked.py", "reasons[i] = scores.reasons[place]", "reasons[i] = scores.reasons[0]"),
    Mutant("door", "rewards/checked.py", "values[list(group)] = scores.values", "values[sorted(group, reverse=True)] = scores.values"),
    # --- algorithms
    Mutant("loss", NFT, "x_0_error(v_old + step) + (1 - r)", "x_0_error(v_old - step) + (1 - r)", "nft"),
    Mutant("loss", NFT, "clamp_min(1e-5)", "clamp_min(1e-3)", "nft"),
    Mutant("loss", NFT, "x_0_error(v_old - step)) / beta", "x_0_error(v_old - step))", "nft"),
    Mutant("advantages", NFT, "clip: float = 5.0", "clip: float = 4.0", "nft"),
    Mutant("advantages", NFT, "ADDED_SPREAD = 1e-4", "ADDED_SPREAD = 1e-2", "nft"),
    Mutant("advantages", NFT, 'rewards if std == "batch"', 'rewards if std == "group"', "nft"),
    Mutant("advantages", "nftbench/training/algorithms/advantages.py", "w.weight / w.scale * w.values", "w.weight * w.values"),
    Mutant("schedules", NFT, "max(step - 75, 0)", "max(step - 74, 0)", "nft"),
    Mutant("schedules", NFT, "(10 + step)", "(9 + step)", "nft"),
    Mutant("steps", SDE, "pull = s.square() / (2 * sigma)", "pull = s / (2 * sigma)", "flow-grpo"),
    Mutant("steps", SDE, "s * (-dt).sqrt()", "s * -dt", "flow-grpo"),
    # --- statistics
    Mutant("statistics", "nftbench/stats/intervals.py", "clusters / (clusters - 1) if", "1.0 if", "statistics", "tests/stats/test_intervals.py tests/stats/test_estimates.py"),
    Mutant("statistics", "nftbench/stats/estimates.py", "np.full(count, 1 / max(count, 1))", "found.images / max(found.images.sum(), 1)", "statistics", "tests/stats/test_estimates.py"),
    Mutant("statistics", "nftbench/stats/significance.py", "np.abs(sums) >= far", "np.abs(sums) > far"),
    Mutant("statistics", "nftbench/stats/significance.py", "as_far = 1", "as_far = 0"),
    Mutant("statistics", "nftbench/stats/significance.py", "np.maximum.accumulate(steps)", "steps"),
    Mutant("statistics", "nftbench/stats/paired.py", "return new - old", "return old - new"),
    Mutant("statistics", "nftbench/stats/paired.py", "before.where(both)", "before", "", "tests/stats/test_paired.py tests/reporting/test_compare.py"),
    Mutant("statistics", "nftbench/runs/rows.py", "if lost(values, tags) else mean", "if False else mean"),
]  # fmt: skip
