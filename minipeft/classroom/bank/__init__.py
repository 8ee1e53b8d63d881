"""The exercises, one file each. COURSE is the order in which a course takes them."""

COURSE = (
    "attention", "block", "positions", "cache", "predict_parameters", "full", "bitfit", "adapter", "adapter_fusion",
    "prompt_tuning", "p_tuning", "prefix_tuning", "p_tuning_v2", "lora", "lora_gradients", "predict_memory",
    "find_the_mistake", "write_a_test", "adalora", "qlora", "dora", "vera", "pissa", "ia3",
)  # fmt: skip
