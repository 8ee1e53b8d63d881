"""The fields of an adapter_config.json: which are understood, which do not matter, and which make another model.

peft warns of a field that it does not know and goes on. Here every field must be understood, be one that has no part in
what the trained model computes, or be switched off (null, false, "none", empty): else an error names it.
"""

ADAPTED = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"}
LORA = ADAPTED | {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_dropout"}
PROMPT = {"num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "modules_to_save"}
READ = {  # {peft_type: the fields that are understood}
    "LORA": LORA | {"init_lora_weights"},
    "ADALORA": (LORA - {"use_dora", "use_rslora"}) | {"init_r", "target_r", "init_lora_weights"},
    "VERA": ADAPTED | {"r", "projection_prng_key", "d_initial", "vera_dropout"},
    "IA3": ADAPTED | {"feedforward_modules"},
    "PROMPT_TUNING": PROMPT,
    "P_TUNING": PROMPT,
    "PREFIX_TUNING": PROMPT,
}
IDLE = {  # where it came from, how it was started and trained; and the order of a weight, which the tensors tell
    "peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode",
    "fan_in_fan_out", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "init_weights", "init_ia3_weights", "save_projection", "tinit", "tfinal", "total_step",
    "beta1", "beta2", "deltaT", "orth_reg_weight", "num_transformer_submodules", "prompt_tuning_init",
    "prompt_tuning_init_text", "tokenizer_name_or_path",
    "tokenizer_kwargs", "prefix_projection", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout",
    "encoder_reparameterization_type",
}  # fmt: skip
STARTS = (True, False, "gaussian", "eva", "orthogonal")  # starts of a LoRA that leave the base's weights alone
WHY = {
    "modules_to_save": "whole modules were trained beside the adapter, and only a classifier can be read",
    "bias": "biases were trained beside the adapter",
    "lora_bias": "its layers add a bias",
    "trainable_token_indices": "embeddings of single tokens were trained beside the adapter",
    "target_parameters": "it adapts weights of modules that are no linear layers",
    "layer_replication": "its model has layers twice",
    "ensure_weight_tying": "it adapts tied weights together",
    "init_lora_weights": "this start changes the base's weights, and the folder does not hold the change; save it in "
    "peft with path_initial_model_for_weight_conversion, which writes a LoRA for the base as it is",
}


def check_fields(config):
    """Raises ValueError for the first field that would make another model than what is read here."""
    kind = config.get("peft_type")
    if kind not in READ:
        raise ValueError(f"peft_type={kind!r} is not read here; there are {', '.join(READ)}")
    if kind in ("LORA", "ADALORA") and "lora_alpha" not in config:
        raise ValueError("lora_alpha is missing, and without it peft takes 8, whatever was trained: write it there")
    for name, value in config.items():
        if name in READ[kind] | IDLE or not value or value == "none":
            continue
        why = WHY.get(name, "minipeft does not know what it does")
        raise ValueError(f"{name}={value!r} cannot be read: {why}; merge it in peft (merge_and_unload) and read that")
    start = config.get("init_lora_weights", True)
    if start not in STARTS:
        raise ValueError(f"init_lora_weights={start!r} cannot be read: {WHY['init_lora_weights']}")
