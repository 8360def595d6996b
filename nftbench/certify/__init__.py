"""Certificates of what is no reward: the algorithms of training, and the statistics of tables."""

NFT, FLOW_GRPO, STATISTICS = "nft", "flow-grpo", "statistics"
NAMES = (NFT, FLOW_GRPO, STATISTICS)
"""What can be certified beside rewards."""
