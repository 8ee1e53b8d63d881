"""Llama models as they were published: from the weights of a `transformers` LlamaForCausalLM, or from a GGUF file."""

import torch
from torch import Tensor

from minipeft.models.llama import Llama, LlamaConfig

BLOCK = {  # ours in "blocks.0.", that of transformers in "model.layers.0.", that of GGUF in "blk.0."
    "attn.q": ("self_attn.q_proj", "attn_q"),
    "attn.k": ("self_attn.k_proj", "attn_k"),
    "attn.v": ("self_attn.v_proj", "attn_v"),
    "attn.o": ("self_attn.o_proj", "attn_output"),
    "mlp.gate": ("mlp.gate_proj", "ffn_gate"),
    "mlp.up": ("mlp.up_proj", "ffn_up"),
    "mlp.down": ("mlp.down_proj", "ffn_down"),
    "norm1": ("input_layernorm", "attn_norm"),
    "norm2": ("post_attention_layernorm", "ffn_norm"),
}
OUTSIDE = {
    "embed.token": ("model.embed_tokens", "token_embd"),
    "norm": ("model.norm", "output_norm"),
    "head": ("lm_head", "output"),
}
TRANSFORMERS, FROM_GGUF = 0, 1


def names(layers, side):
    """{our name: theirs} of all modules that have a weight. side: TRANSFORMERS or FROM_GGUF."""
    above = ("model.layers", "blk")[side]
    found = {ours: theirs[side] for ours, theirs in OUTSIDE.items()}
    for i in range(layers):
        found |= {f"blocks.{i}.{ours}": f"{above}.{i}.{theirs[side]}" for ours, theirs in BLOCK.items()}
    return found


def from_llama(weights: dict[str, Tensor], heads, kv_heads, rope_base=10_000.0, eps=1e-5, context=2048):
    """A Llama from the state dict of a `transformers` LlamaForCausalLM.

    Args:
        weights: the state dict. What the library's configuration tells besides:
        heads, kv_heads: num_attention_heads and num_key_value_heads,
        rope_base: rope_theta, eps: rms_norm_eps, context: max_position_embeddings.

    Raises ValueError if the weights are not those of such a model, or it has parts that ours lacks (biases).
    """
    w = dict(weights)
    if missing := [n for n in ("model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight") if n not in w]:
        raise ValueError(
            f"from_llama takes the weights of a LlamaForCausalLM, and these have no {missing[0]!r}: "
            "give it model.state_dict()"
        )
    table = w["model.embed_tokens.weight"]
    tied = "lm_head.weight" not in w or torch.equal(w["lm_head.weight"], table)
    w["lm_head.weight"] = w.get("lm_head.weight", table)
    layers = 1 + max(int(name.split(".")[2]) for name in w if name.startswith("model.layers."))
    places = {f"{theirs}.weight": f"{ours}.weight" for ours, theirs in names(layers, TRANSFORMERS).items()}
    if strange := sorted(name for name in w if name not in places and "rotary" not in name):
        raise ValueError(f"from_llama knows no place for {strange[0]!r}: only models without biases are read here")
    vocab, dim = table.shape
    ff = len(w["model.layers.0.mlp.gate_proj.weight"])
    config = LlamaConfig(vocab, dim, layers, heads, kv_heads, ff, context, eps, rope_base, tied)
    return filled(config, {places[name]: tensor for name, tensor in w.items() if name in places})


def from_gguf(file):
    """A Llama in 32 bits from a `gguf.GGUF` of this architecture, however its weights are quantized.

    Raises ValueError for another architecture, or one whose positions are scaled.
    """
    if (kind := file.meta.get("general.architecture")) != "llama":
        raise ValueError(f"{file.path} holds a model of the kind {kind!r}; only 'llama' is read here")
    if scaled := [key for key in file.meta if key.startswith("llama.rope.scaling")] or [
        name for name in file.tensors if name.startswith("rope_freqs")
    ]:
        raise ValueError(f"{file.path} scales its positions ({scaled[0]}), which is not read here")
    get = {key.removeprefix("llama."): value for key, value in file.meta.items()}
    layers, heads = get["block_count"], get["attention.head_count"]
    kv_heads = get.get("attention.head_count_kv", heads)
    vocab, dim = file.tensors["token_embd.weight"].shape
    tied = "output.weight" not in file.tensors
    config = LlamaConfig(
        vocab, dim, layers, heads, kv_heads, get["feed_forward_length"], get["context_length"],
        get["attention.layer_norm_rms_epsilon"], get.get("rope.freq_base", 10_000.0), tied,
    )  # fmt: skip
    weights = {}
    for ours, theirs in names(layers, FROM_GGUF).items():
        if ours == "head" and tied:
            weights["head.weight"] = weights["embed.token.weight"]
            continue
        weight = file.read(f"{theirs}.weight")
        if ours.endswith(("attn.q", "attn.k")):
            weight = halves(weight, heads if ours.endswith("q") else kv_heads)
        weights[f"{ours}.weight"] = weight
    return filled(config, weights)


def halves(weight, heads):
    """llama.cpp rotates neighbours, the pair (x_2i, x_2i+1); here and in transformers it is (x_i, x_{i+c/2}).

    So the rows of q and k stand in another order in its files: (heads·c, ...) to (heads·c, ...).
    """
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def neighbours(weight, heads):
    """What `halves` undoes."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def filled(config, weights):
    """A frozen Llama that has these weights for its own; they are not copied."""
    with torch.device("meta"):
        model = Llama(config)
    model.load_state_dict(weights, assign=True)
    if config.tied:
        model.head.weight = model.embed.token.weight
    return model.requires_grad_(False).eval()
