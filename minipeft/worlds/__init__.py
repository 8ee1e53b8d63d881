"""Worlds beyond the letters: what their bases are pretrained on, and what these are adapted to."""
