"""Writes mmdet's own numbers for `rewards.certify.geneval`: python golden_mmdet.py mmdet2|mmdet3 tests/golden.

Weights are rebuilt from names, so none are stored. `mmdet3` needs the extra [mmdet]; `mmdet2` mmdet 2.28.2 with mmcv
1.7.2, in an environment of its own.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from rewards.certify.geneval import rebuilt
from rewards.certify.preprocessing import pictures_of

SEED = 20
SCALE = (240, 160)
WIDTH = 32
SMALL = {
    "depths": [2, 2, 2, 2],
    "embed_dims": 16,
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
}
CONFIG = {
    "backbone_config": {
        "embed_dim": 16,
        "depths": [2, 2, 2, 2],
        "num_heads": [1, 2, 4, 8],
        "window_size": 4,
    },
    "feature_size": WIDTH,
    "mask_feature_size": WIDTH,
    "hidden_dim": WIDTH,
    "encoder_feedforward_dim": 2 * WIDTH,
    "dim_feedforward": 4 * WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "num_queries": 20,
}
"""`SMALL` and `head`, as transformers spells them."""


def head() -> dict:
    """Changes of the published config that both generations spell alike."""
    return {
        "in_channels": [16, 32, 64, 128],
        "feat_channels": WIDTH,
        "out_channels": WIDTH,
        "num_queries": 20,
        "pixel_decoder.encoder.num_layers": 2,
        "pixel_decoder.positional_encoding.num_feats": WIDTH // 2,
        "positional_encoding.num_feats": WIDTH // 2,
        "transformer_decoder.num_layers": 3,
    }


def changes3() -> dict:
    """Of mmdet 3's config."""
    layers = {
        "pixel_decoder.encoder.layer_cfg.self_attn_cfg.embed_dims": WIDTH,
        "pixel_decoder.encoder.layer_cfg.ffn_cfg.embed_dims": WIDTH,
        "pixel_decoder.encoder.layer_cfg.ffn_cfg.feedforward_channels": 2 * WIDTH,
        "transformer_decoder.layer_cfg.self_attn_cfg.embed_dims": WIDTH,
        "transformer_decoder.layer_cfg.cross_attn_cfg.embed_dims": WIDTH,
        "transformer_decoder.layer_cfg.ffn_cfg.embed_dims": WIDTH,
        "transformer_decoder.layer_cfg.ffn_cfg.feedforward_channels": 4 * WIDTH,
    }
    return prefixed("model.panoptic_head", head() | layers) | prefixed("model.backbone", SMALL)


def changes2() -> dict:
    """Of mmdet 2's config."""
    layers = {
        "pixel_decoder.encoder.transformerlayers.attn_cfgs.embed_dims": WIDTH,
        "pixel_decoder.encoder.transformerlayers.ffn_cfgs.embed_dims": WIDTH,
        "pixel_decoder.encoder.transformerlayers.ffn_cfgs.feedforward_channels": 2 * WIDTH,
        "transformer_decoder.transformerlayers.attn_cfgs.embed_dims": WIDTH,
        "transformer_decoder.transformerlayers.ffn_cfgs.embed_dims": WIDTH,
        "transformer_decoder.transformerlayers.ffn_cfgs.feedforward_channels": 4 * WIDTH,
        "transformer_decoder.transformerlayers.feedforward_channels": 4 * WIDTH,
    }
    return prefixed("model.panoptic_head", head() | layers) | prefixed("model.backbone", SMALL)


def prefixed(start: str, settings: dict) -> dict:
    return {f"{start}.{name}": value for name, value in settings.items()}


def filled(model) -> dict:
    """Its state dict with values rebuilt from names."""
    own = model.state_dict()
    return own | rebuilt({name: value.shape for name, value in own.items()}, SEED)


def mmdet3(small: bool):
    """Network, and a function from a picture (as mmdet takes it) to labels, scores, boxes and masks."""
    from rewards.geneval.mmdet import CONFIG as FILE
    from rewards.geneval.mmdet import build, import_mmdet

    mmdet = import_mmdet()
    from mmdet.apis import inference_detector
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    changes = changes3() if small else {}
    config = Config.fromfile(Path(mmdet.__file__).parent / FILE)
    config.model.backbone.init_cfg = None
    config.merge_from_dict(changes)
    init_default_scope("mmdet")
    model = build(filled(mmdet.registry.MODELS.build(config.model)), changes=changes)
    if small:
        model.cfg.test_dataloader.dataset.pipeline[1].scale = SCALE

    def found(picture):
        objects = inference_detector(model, picture).pred_instances
        return [getattr(objects, name).numpy() for name in ("labels", "scores", "bboxes", "masks")]

    return model, found


def mmdet2(small: bool):
    """The same by mmdet 2.28.2."""
    from rewards.geneval import mmdet as ours

    sys.modules["mmcv._ext"] = ours._Operators("mmcv._ext")
    import mmcv
    import mmdet
    from mmdet.apis import inference_detector
    from mmdet.models import build_detector

    name = ".mim/configs/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py"
    config = mmcv.Config.fromfile(str(Path(mmdet.__file__).parent / name))
    config.model.backbone.init_cfg = None
    config.model.train_cfg = None
    if small:
        config.merge_from_dict(changes2())
        config.data.test.pipeline[1].img_scale = SCALE
    model = build_detector(config.model).eval()
    model.load_state_dict(filled(model))
    model.cfg = config

    def found(picture):
        boxes, masks = inference_detector(model, picture)
        rows = [(label, *row) for label, of in enumerate(boxes) for row in of]
        labels, *edges, scores = np.array(rows).T
        return labels, scores, np.stack(edges, 1), np.concatenate([m for m in masks if len(m)])

    return model, found


def measured(model, found, picture) -> dict:
    """What the network saw and said, and the objects, by label and score."""
    seen = {}
    hooks = [
        model.backbone.register_forward_pre_hook(lambda _, given: seen.update(pixels=given[0])),
        model.panoptic_head.register_forward_hook(
            lambda _, __, out: seen.update(classes=out[0][-1], masks=out[1][-1])
        ),
    ]
    labels, scores, boxes, masks = found(np.ascontiguousarray(picture[..., ::-1]))
    for hook in hooks:
        hook.remove()
    order = np.lexsort((scores, labels))
    return {
        "pixels": seen["pixels"][0, :, ::7, ::7].numpy().astype(np.float32),
        "class_logits": seen["classes"][0].numpy(),
        "mask_logits": seen["masks"][0, :, ::5, ::5].numpy(),
        "labels": labels[order].astype(np.int16),
        "scores": scores[order].astype(np.float32),
        "boxes": boxes[order].astype(np.float32),
        "areas": masks[order].sum(axis=(1, 2)).astype(np.int32),
    }


def main(generation: str, folder: Path) -> None:
    make = {"mmdet2": mmdet2, "mmdet3": mmdet3}[generation]
    pictures = pictures_of(folder)
    arrays = {}
    model, found = make(True)
    for name in ("up100x150", "sq64"):
        out = measured(model, found, pictures[name])
        arrays |= {f"small/{name}/{key}": value for key, value in out.items()}
    names = {name: list(value.shape) for name, value in model.state_dict().items()}
    facts = {"seed": SEED, "scale": SCALE, "config": CONFIG, "state": names}
    if generation == "mmdet3" and sys.argv[3:] != ["small"]:
        model, found = make(False)
        large = pictures["sq64"].repeat(8, axis=0).repeat(8, axis=1)
        out = measured(model, found, large)
        out["mask_logits"] = out["mask_logits"][::4]
        arrays |= {f"full/sq512/{key}": value for key, value in out.items() if key != "pixels"}
        facts["full_state"] = {k: list(v.shape) for k, v in model.state_dict().items()}
    np.savez_compressed(folder / f"geneval_{generation}.npz", **arrays)
    (folder / f"geneval_{generation}.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
