"""Certificates of what is no reward: the algorithms of training, and the statistics of tables."""
