"""The exercises, one file each. COURSE is the order in which a course takes them."""

COURSE = (
    "full", "bitfit", "adapter", "adapter_fusion", "prompt_tuning", "p_tuning", "prefix_tuning", "p_tuning_v2", "lora",
    "dora", "vera", "pissa", "ia3",
)  # fmt: skip
