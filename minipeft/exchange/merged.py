"""Whole models as folders of transformers: config.json and model.safetensors.

    to_transformers(merge(adapted), "folder")
    transformers.AutoModelForCausalLM.from_pretrained("folder")

A method that changes weights only is in them after `merge`; so every such method leaves the house this way. The library
itself is not needed. It brings no tokenizer: copy that of the base into the folder.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from minipeft.attach import attachments
from minipeft.bases import from_bert, from_gpt2, is_turned
from minipeft.checks import check_finite, tied, unwrapped
from minipeft.exchange.names import BERT_FAMILY, ENCODER_FAMILY, by_their_name, family_of, their_names
from minipeft.exchange.writing import SIGNED
from minipeft.files import write_atomically
from minipeft.published.llama import from_llama

WEIGHTS = "model.safetensors"
GELU = {"none": "gelu", "tanh": "gelu_new"}  # our names and theirs


def gpt2_config(c):
    return {
        "vocab_size": c.vocab, "n_embd": c.dim, "n_layer": c.layers, "n_head": c.heads, "n_inner": c.ff,
        "n_positions": c.context, "activation_function": GELU[c.gelu], "layer_norm_epsilon": c.eps,
    }  # fmt: skip


def bert_config(c):
    return {
        "vocab_size": c.vocab, "hidden_size": c.dim, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "intermediate_size": c.ff, "max_position_embeddings": c.context, "hidden_act": GELU[c.gelu],
        "layer_norm_eps": c.eps, "type_vocab_size": 1,
    }  # fmt: skip


def llama_config(c):
    return {
        "vocab_size": c.vocab, "hidden_size": c.dim, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "intermediate_size": c.ff, "max_position_embeddings": c.context,
        "hidden_act": "silu", "rms_norm_eps": c.eps, "rope_theta": c.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_base},
    }  # fmt: skip


CONFIGS = {"gpt2": gpt2_config, "bert": bert_config, "llama": llama_config}
NEEDED = {  # of what a config.json may say, what is built here
    "gpt2": {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "add_cross_attention": False,
             "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    "bert": {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False},
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None},
}  # fmt: skip


def to_transformers(model, folder, more=None):
    """Write a model as a folder that transformers opens. Returns the size of its weights' file in bytes.

    Args:
        model: a GPT-2, BERT or Llama (see `names.family_of`) with nothing attached.
        folder: where the two files are written; files of these names are replaced.
        more: entries of config.json that a model of ours does not know, {"eos_token_id": 2}.

    Raises ValueError, before anything is written, if a method is attached, transformers has no such model, or a weight
    is not finite.
    """
    model = unwrapped(model)
    if attachments(model):
        raise ValueError(f"{attachments(model)[-1].method} is attached: write what merge(adapted) gives")
    if hasattr(model, "save_pretrained"):
        raise ValueError(f"{type(model).__name__} is a model of transformers: write model.save_pretrained({folder!r})")
    family = family_of(model)
    if family is None:
        raise ValueError(
            f"transformers has no model like this {type(model).__name__}; it has GPT-2 (absolute positions, pre-norm, "
            "a head without bias), BERT and Llama, as bases.from_gpt2, bases.from_bert and published.llama make them"
        )
    check_finite(model, "the model")
    weights, twins = their_weights(model), tied(model)
    for ours in {name for names in twins for name in names} - {"embed.token.weight"}:
        del weights[f"{their_names(model)[ours.removesuffix('.weight')]}.weight"]
    config = {"model_type": family.name, "architectures": [family.model], "tie_word_embeddings": bool(twins)}
    config |= {"dtype": str(model.embed.token.weight.dtype).removeprefix("torch.")}
    config |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config |= CONFIGS[family.name](model.config) | (more or {})
    size = write_atomically(Path(folder, WEIGHTS), serialize(weights, SIGNED))
    write_atomically(Path(folder, "config.json"), json.dumps(config, indent=2).encode())
    return size


def their_weights(model):
    """The weights of a GPT-2, BERT or Llama under their names in transformers, as they are stored there."""
    state, found = model.state_dict(), {}
    for theirs, ours in by_their_name(model).items():
        for kind in ("weight", "bias"):
            parts = [state[f"{path}.{kind}"] for path in ours if f"{path}.{kind}" in state]
            if parts:
                tensor = torch.cat(parts)
                found[f"{theirs}.{kind}"] = tensor.t() if is_turned(theirs) else tensor
    family, segment = family_of(model), "embeddings.token_type_embeddings.weight"  # which is in our positions
    if family is BERT_FAMILY:
        found["cls.predictions.bias"] = found["cls.predictions.decoder.bias"]
    if family in (BERT_FAMILY, ENCODER_FAMILY):
        before = "bert." if family is BERT_FAMILY else ""
        found[before + segment] = torch.zeros_like(model.embed.token.weight[:1])
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in found.items()}


def from_transformers(folder):
    """A frozen GPT-2, BERT or Llama from a folder that transformers has saved, in 32 bits.

    Raises ValueError if there is no such model in it, or it says of itself what is not built here.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() or not (files := sorted(folder.glob("model*.safetensors"))):
        raise ValueError(
            f"{folder} is no folder of transformers: there is no config.json or no model.safetensors in it"
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if kind not in NEEDED:
        raise ValueError(f"{folder} holds a model of the kind {kind!r}; read here are {', '.join(NEEDED)}")
    for name, needed in NEEDED[kind].items():
        if config.get(name, needed) not in (needed, None):
            raise ValueError(f"{folder} has {name}={config[name]!r}; only {needed!r} is built here")
    weights = {name: t.float() for file in files for name, t in load_file(file).items()}
    try:
        return READERS[kind](weights, config, folder)
    except KeyError as missing:
        raise ValueError(f"{folder} lacks {missing}, which a {kind} has") from None


def read_gpt2(weights, config, folder):
    table = weights.get("transformer.wte.weight", weights.get("wte.weight"))  # the first files have no "transformer."
    return from_gpt2({"lm_head.weight": table} | weights, config["n_head"])


def read_bert(weights, config, folder):
    w = {name.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias"): t for name, t in weights.items()}
    if "cls.predictions.bias" in w:  # otherwise it is an encoder
        w.setdefault("cls.predictions.decoder.weight", w["bert.embeddings.word_embeddings.weight"])
        w.setdefault("cls.predictions.decoder.bias", w["cls.predictions.bias"])
    return from_bert(w, config["num_attention_heads"], config["layer_norm_eps"])


def read_llama(weights, config, folder):
    heads, dim = config["num_attention_heads"], config["hidden_size"]
    if config.get("head_dim") not in (None, dim // heads):
        raise ValueError(f"{folder} has head_dim={config['head_dim']}; only hidden_size / num_attention_heads is built")
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10_000.0)}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"{folder} scales its positions ({rope['rope_type']}), which is not read here")
    sizes = heads, config.get("num_key_value_heads") or heads, rope["rope_theta"]
    return from_llama(weights, *sizes, config["rms_norm_eps"], config["max_position_embeddings"])


READERS = {"gpt2": read_gpt2, "bert": read_bert, "llama": read_llama}
