"""Evaluations, trainings and what they leave: run, or made by rule."""
