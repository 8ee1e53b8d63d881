"""The exercises, one file each. COURSE is the order in which a course takes them."""

COURSE = ("full", "lora", "dora", "vera", "pissa", "ia3")
