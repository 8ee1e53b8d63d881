"""The exercises, one file each. COURSE is the order in which a course takes them."""

COURSE = ("lora", "prefix_tuning", "p_tuning_v2")
