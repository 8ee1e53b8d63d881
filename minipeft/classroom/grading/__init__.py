"""Grading a class: each submission in a process of its own."""
