"""The checker: what an exercise is, what is seen of a solution, and which mistake it looks like."""
