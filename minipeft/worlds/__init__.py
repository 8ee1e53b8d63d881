"""Worlds besides the letters of `tasks`: what a base of another kind learns from, and what it is adapted to."""
