"""nftbench: evaluation, rewards and NFT training of text-to-image diffusion models."""

__version__ = "0.1.0"
