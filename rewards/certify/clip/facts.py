"""What the references of the CLIP family are, said once more and independently of the code that is certified."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NFT = "NVlabs/DiffusionNFT@24af555 flow_grpo"
HPS_PACKAGE = "hpsv2x 1.2.0"
GENEVAL = "djghosh13/geneval@af4902f evaluation/evaluate_images.py"
UNRESIZED = "sq224"
"""The golden picture that has the networks' own size: every transform gives the same pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerFacts:
    """What a reference is, said once more and independently of the code that is certified."""

    file: str
    """Golden file of its network."""
    network: str
    """Of `seeded.clip_networks.NETWORKS`."""
    names: str = ""
    """Golden file of the network's names and shapes, where it is another one."""
    transforms: tuple[tuple[str, str], ...]
    """Names in `preprocessing.json` of what it does to pictures, and whose numbers those are."""
    tolerance: float
    """Of the pixels handed to the network."""
    tokens: str = ""
    """Field of the golden file with token ids; empty where no text is read."""
    activation: str = "quick_gelu"
    scale: float = 1.0
    """The value of two equal embeddings."""
    own_values: bool = True
    """Whether the golden values are of this variant's own transform."""


PIL, FLOATS = 5e-7, 1e-5
FACTS = {
    "clipscore@nft": TowerFacts(
        file="reward_clipscore.json",
        network="openai",
        transforms=(("clipscore_nft", f"{NFT}/clip_scorer.py"),),
        tolerance=FLOATS,
        tokens="input_ids",
    ),
    "clipscore@openai": TowerFacts(
        file="reward_clipscore.json",
        network="openai",
        transforms=(("imagereward", "image-reward 1.5 _transform, which is CLIP's own"),),
        tolerance=PIL,
        tokens="input_ids",
        own_values=False,
    ),
    "pickscore": TowerFacts(
        file="reward_pickscore.json",
        network="pickscore",
        transforms=(("pickscore", "transformers 4.40 CLIPImageProcessor"),),
        tolerance=PIL,
        tokens="input_ids_padded_to_longest",
        activation="gelu",
        scale=100.0,
    ),
    "hpsv2@nft": TowerFacts(
        file="reward_hpsv2.json",
        network="hpsv2",
        transforms=(
            ("hpsv2_nft", f"{NFT}/hpsv2_scorer.py"),
            ("hpsv2_package", f"{HPS_PACKAGE}, torchvision 0.21"),
        ),
        tolerance=FLOATS,
        tokens="tokens",
        activation="gelu",
    ),
    "hpsv2@2024": TowerFacts(
        file="reward_hpsv2.json",
        network="hpsv2",
        transforms=(
            ("hpsv2_package_torchvision016_no_antialias", f"{HPS_PACKAGE}, torchvision 0.16.2"),
        ),
        tolerance=FLOATS,
        tokens="tokens",
        activation="gelu",
        own_values=False,
    ),
    "aesthetic": TowerFacts(
        file="reward_aesthetic.json",
        names="reward_clipscore.json",
        network="openai",
        transforms=(("aesthetic_nft", f"{NFT}/aesthetic_scorer.py"),),
        tolerance=PIL,
    ),
}


def reference_of(golden: Mapping[str, Any]) -> str:
    """Repository, commit and file that a golden file names first."""
    first = golden["reference"][0] if isinstance(golden["reference"], list) else golden["reference"]
    return f"{first['repo']}@{first['commit'][:7]} {first['file']}"
