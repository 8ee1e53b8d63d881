"""The exercises, one file each. COURSE is the order in which a course takes them."""

COURSE = ("lora", "attention", "block", "positions", "cache")
