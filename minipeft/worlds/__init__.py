"""Worlds beside the letters of `tasks`: each with its tasks, and with what a base of it is pretrained on."""
