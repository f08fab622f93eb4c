"""Checkpoints and weights on disk: whole or not at all."""
