"""nftbench: evaluation, rewards and NFT training of text-to-image diffusion models."""
