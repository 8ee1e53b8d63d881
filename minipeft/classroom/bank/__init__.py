"""The exercises, one file each. COURSE is the order in which a course takes them."""

COURSE = (
    "full",
    "bitfit",
    "prompt_tuning",
    "p_tuning",
    "lora",
    "dora",
    "vera",
    "pissa",
    "ia3",
    "lora_gradients",
    "predict_parameters",
    "predict_memory",
    "find_the_mistake",
    "write_a_test",
)
