"""Estimates with honest errors, and differences of paired samples. Pure: arrays and tables in, numbers out."""
