"""GenEval over real mmdet 3.3, and the converted detector against it; needs the extra [mmdet]."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

if find_spec("mmdet") is None:
    pytest.skip("mmdet is not installed: pip install 'nftbench[mmdet]'", allow_module_level=True)

from rewards.base import ConfigError, Prompt
from rewards.certify import geneval as certify
from rewards.certify.preprocessing import pictures_of
from rewards.geneval import mmdet
from rewards.geneval.colours import ClipColorHead
from rewards.geneval.convert import to_v3
from rewards.geneval.mask2former import Mask2FormerDetector, converted, network_input, swin_s_config
from rewards.geneval.variants import assemble, detector_of
from tests.helpers.paths import GOLDEN

FACTS = {kind: certify._facts(GOLDEN, kind) for kind in ("mmdet2", "mmdet3")}
SCALE = (240, 160)


def changes() -> dict:
    """The small network, as mmdet 3's config spells it."""
    from tests.extras import golden_mmdet

    return golden_mmdet.changes3()


def small(kind: str):
    """mmdet's small network with weights under the names of one generation."""
    state = certify.rebuilt(FACTS[kind]["state"], FACTS[kind]["seed"])
    model = mmdet.build(state, changes=changes())
    model.cfg.test_dataloader.dataset.pipeline[1].scale = SCALE
    return model


@pytest.fixture(scope="module")
def model():
    return small("mmdet3")


@pytest.fixture(scope="module")
def twin():
    """The same network, converted."""
    state = certify.rebuilt(FACTS["mmdet3"]["state"], FACTS["mmdet3"]["seed"])
    network = converted(state, swin_s_config(**FACTS["mmdet3"]["config"]))
    return Mask2FormerDetector(network, pipeline="mmdet3", scale=SCALE, floor=0)


def pictures() -> list[np.ndarray]:
    """Wide, high, square and tiny ones."""
    golden = pictures_of(GOLDEN)
    wide = golden["up100x150"]
    noise = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    return [wide, np.ascontiguousarray(wide.transpose(1, 0, 2)), golden["sq64"], noise]


def by_class(found) -> list[np.ndarray]:
    order = np.lexsort((found.scores, found.labels))
    parts = (found.labels, found.scores, found.boxes, found.masks)
    return [part[order].numpy() for part in parts]


@pytest.mark.parametrize("number", range(4))
def test_whole_pipelines_agree(model, twin, number):
    """mmdet's own `inference_detector` against resizing, network and post-processing of ours."""
    picture = pictures()[number]
    theirs = by_class(mmdet.MmdetDetector(model).instances(picture))
    ours = by_class(twin.instances(picture))
    assert np.array_equal(ours[0], theirs[0])
    assert np.abs(ours[1] - theirs[1]).max() < 1e-5
    alone = certify.apart(theirs[0], theirs[1])
    assert alone.sum() > 20
    assert np.abs(ours[2] - theirs[2])[alone].max() <= 1
    assert (ours[3] != theirs[3])[alone].mean() < 1e-4


def test_logits_agree(model, twin):
    from mmdet.structures import DetDataSample

    pixels, size = network_input(pictures()[0], "mmdet3", SCALE)
    shape = tuple(pixels.shape[-2:])
    sample = DetDataSample(metainfo={"batch_input_shape": shape, "img_shape": size})
    with torch.no_grad():
        classes, masks = model.panoptic_head(model.extract_feat(pixels), [sample])
    ours = twin.logits(pixels)
    assert (ours[0] - classes[-1]).abs().max() < 1e-4
    assert (ours[1] - masks[-1]).abs().max() < 1e-4


def test_mmdet_2_names_give_the_same_network(model):
    old = small("mmdet2")
    picture = pictures()[2]
    a, b = (mmdet.MmdetDetector(m).instances(picture) for m in (model, old))
    assert torch.equal(a.scores, b.scores) and torch.equal(a.masks, b.masks)


def test_a_checkpoint_file_with_mmengines_history(tmp_path):
    """Real mmengine's buffers, as a training run leaves them, and nothing else is let through."""
    from mmengine.logging import HistoryBuffer

    from rewards.geneval.convert import read_checkpoint

    hub = {"loss": HistoryBuffer([1.0, 2.0], [1, 1])}
    torch.save(
        {"state_dict": {"w": torch.ones(2)}, "message_hub": {"log_scalars": hub}},
        tmp_path / "a.pth",
    )
    assert read_checkpoint(tmp_path / "a.pth")["w"].tolist() == [1, 1]


def test_channel_order_is_that_of_the_converted_detector(model, twin):
    picture = pictures()[2]
    swapped = mmdet.MmdetDetector(model, channel_order="bgr").instances(picture)
    right = mmdet.MmdetDetector(model).instances(picture[..., ::-1])
    assert torch.equal(swapped.scores, right.scores)
    assert not torch.equal(swapped.scores, mmdet.MmdetDetector(model).instances(picture).scores)


def test_the_variant_judges(model):
    class Red(ClipColorHead):
        colors = ("red",)

        def __init__(self):
            pass

        def classify(self, crops):
            return ["red"] * len(crops)

    reward = assemble("mmdet", detector_of("mmdet", model, floor=0), Red())
    prompt = Prompt(id="0", text="", target={"include": [{"class": "cat", "count": 1}]})
    images = np.stack([pictures()[2]] * 2)
    scores = reward.score(images, [prompt, prompt])
    assert reward.info.key == "geneval@mmdet"
    assert scores.values[0] == scores.values[1] and scores.values[0] in (0, 1)


def test_operators_are_missing_by_name_and_wrong_checkpoints_are_refused():
    mmdet.import_mmdet()
    with pytest.raises(NotImplementedError, match="'nms' is not compiled"):
        import_module("mmcv._ext").nms(1)
    state = certify.rebuilt(FACTS["mmdet3"]["state"], 1)
    state.pop("panoptic_head.cls_embed.bias")
    with pytest.raises(ConfigError, match="does not fit mmdet's network"):
        mmdet.build(state, changes=changes())
    assert to_v3(state).keys() == state.keys()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives(twin):
    model = small("mmdet3").cuda()
    picture = pictures()[0]
    found = mmdet.MmdetDetector(model).instances(picture)
    ours = twin.instances(picture).scores.sort().values
    assert (found.scores.cpu().sort().values - ours).abs().max() < 1e-3


@pytest.mark.slow
def test_published_size_on_random_weights():
    """mmdet's own initialisation at full size; a picture that has to be padded."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:96, :160]
    picture = np.stack([x + y, 2 * y, 255 - x], axis=-1) + generator.normal(0, 9, (96, 160, 3))
    picture = picture.clip(0, 255).astype(np.uint8)
    state = initialised()
    theirs = mmdet.MmdetDetector(mmdet.build(state))
    ours = Mask2FormerDetector(converted(state), pipeline="mmdet3", floor=0)
    a, b = by_class(ours.instances(picture)), by_class(theirs.instances(picture))
    assert np.array_equal(a[0], b[0]) and np.abs(a[1] - b[1]).max() < 1e-4
    assert (a[3] != b[3])[certify.apart(b[0], b[1])].mean() < 1e-3


def initialised() -> dict[str, torch.Tensor]:
    """A state dict as mmdet initialises it."""
    package = mmdet.import_mmdet()
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    config = Config.fromfile(Path(package.__file__).parent / mmdet.CONFIG)
    config.model.backbone.init_cfg = None
    init_default_scope("mmdet")
    torch.manual_seed(0)
    return package.registry.MODELS.build(config.model).state_dict()
