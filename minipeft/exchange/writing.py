"""A trained method as an adapter folder of peft: adapter_config.json and adapter_model.safetensors.

    to_peft(adapted, "folder")
    peft.PeftModel.from_pretrained(model, "folder")      # model: the same base, in transformers

The logits are those of `adapted`. A folder holds no base: peft puts it on whatever model it is given.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save as serialize

from minipeft.attach import attachments, detach
from minipeft.checks import unwrapped
from minipeft.deltas import DeltaError, delta_of
from minipeft.exchange.configs import FIELDS, feedforward
from minipeft.exchange.names import PREFIX, by_their_name, family_of, targets_of
from minipeft.exchange.stored import PROJECTION
from minipeft.exchange.tensors import PEFT, names_of, prefix_to_peft, to_peft_shape
from minipeft.exchange.updates import updates_of
from minipeft.files import write_atomically
from minipeft.methods import IA3, PrefixTuning, PromptTuning, PTuning, PTuningV2, VeRA

PROMPTS = (PromptTuning, PTuning, PrefixTuning, PTuningV2)
SIGNED = {"format": "pt", "software": "minipeft"}
ADVICE = {
    "PiSSA": "its ΔW is a LoRA of twice the rank: arithmetic.compress(base, delta, rank=2 * r)",
    "Full": "write the merged model, exchange.to_transformers(merge(adapted), folder), or the nearest LoRA, "
    "arithmetic.compress(base, delta, rank)",
    "BitFit": "write the merged model: exchange.to_transformers(merge(adapted), folder)",
    "LinearProbe": "write the merged model: exchange.to_transformers(merge(adapted), folder)",
}


def to_peft(adapted, folder, base=None):
    """Write the method of a view as an adapter folder. Returns the size of its tensors' file in bytes.

    Args:
        adapted: a view of a GPT-2, BERT (for words or sentences) or Llama (see `names.family_of`), of a model of
            transformers, or of a network of your own, with LoRA, QLoRA, DoRA, AdaLoRA, VeRA or IA3 on it; or one of the
            first three with a prompt or prefix: PromptTuning, PTuning, PrefixTuning, PTuningV2.
        folder: where the two files are written; files of these names are replaced.
        base: the name of the base model at its source, "gpt2", for those who will open the folder.

    Raises DeltaError, before anything is written, for a method that peft has no place for, or a model whose modules it
    does not know. Warns if the base that was trained on is not the one in transformers: QLoRA.
    """
    adapted = unwrapped(adapted)
    if len(attachments(adapted)) != 1:
        raise DeltaError(
            f"a folder of peft holds one method on a plain base, and here are {len(attachments(adapted))}: "
            "give the view that has one"
        )
    delta, family = delta_of(adapted), family_of(adapted)
    config, tensors = prompt(adapted, delta, family) if isinstance(delta.method, PROMPTS) else weights(adapted, delta)
    if delta.method.classes:
        name = family.head if family else "head"
        before = "base_model." if "prompt_embeddings" in tensors else PREFIX
        head = {n.rpartition(".")[2]: t for n, t in delta.tensors.items() if n.split(".")[0] == "head"}
        tensors |= {f"{before}{name}.{kind}": t for kind, t in head.items()}
        config |= {"modules_to_save": [name], "task_type": "TOKEN_CLS" if family else None}
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    data = serialize({name: tensors[name].contiguous().clone() for name in sorted(tensors)}, SIGNED)
    size = write_atomically(Path(folder, "adapter_model.safetensors"), data)
    write_atomically(Path(folder, "adapter_config.json"), json.dumps(config, indent=2, sort_keys=True).encode())
    return size


# ---- methods that stand before a sequence ---------------------------------------------------------------------------


@torch.no_grad()
def prompt(adapted, delta, family):
    """Configuration and tensors of whatever the method puts before a sequence: vectors, or keys and values."""
    if family is None:
        raise DeltaError(
            f"peft puts {type(delta.method).__name__} before a model of transformers, and "
            f"{type(detach(adapted)).__name__} is not built like one (GPT-2, BERT, Llama): save it as a delta"
        )
    cache, c = adapted.begin(adapted.blocks), adapted.config
    config = {"task_type": family.task or "FEATURE_EXTRACTION", "num_transformer_submodules": 1, "num_layers": c.layers}
    if cache.front:
        P = torch.cat(cache.front)  # (n, d)
        config |= {"peft_type": "PROMPT_TUNING", "num_attention_heads": c.heads, "token_dim": P.shape[1]}
    else:
        P, heads = prefix_to_peft(cache.layers, getattr(c, "rope_base", None))  # (n, 2LGc)
        width = P.shape[1] // (2 * c.layers)
        config |= {"peft_type": "PREFIX_TUNING", "num_attention_heads": heads, "token_dim": width}
    return config | {"num_virtual_tokens": len(P)}, {"prompt_embeddings": P.cpu()}


# ---- methods that stand before modules ------------------------------------------------------------------------------


def weights(adapted, delta):
    """Configuration and tensors of a method whose layers stand in front of modules."""
    kind = next((kind for kind in PEFT if isinstance(delta.method, kind)), None)
    if kind is None:
        name = type(delta.method).__name__
        cure = ADVICE.get(name, "it cannot be merged either, so only minipeft can run it: save it as a delta")
        raise DeltaError(f"peft has no place for {name}: {cure}")
    updates = updates_of(adapted, delta, kind)
    config = FIELDS[kind](delta.method, updates)
    family = family_of(adapted)
    every = [*by_their_name(adapted), *(family.beside if family else ())]
    config |= {"task_type": family.task if family else task_of(adapted), "target_modules": targets_of(updates, every)}
    config["fan_in_fan_out"] = any(u.turned for u in updates.values())
    if kind is IA3:
        config["feedforward_modules"] = feedforward(updates, every)
    tensors = {}
    for theirs, update in updates.items():
        for name, peft in names_of(kind, update.module).items():
            tensor = to_peft_shape(name, update.tensors[name], update.module, update.into)
            tensors[f"{PREFIX}{theirs}.{peft}"] = tensor
    if kind is VeRA:
        shared = next(iter(attachments(adapted)[0].layers.values())).shared
        tensors |= {name: getattr(shared, mine).cpu() for mine, name in PROJECTION.items()}
    return config, tensors


def task_of(adapted):
    """What peft calls the task of a model of transformers, None if that does not follow from its class."""
    causal = type(detach(adapted)).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    return "CAUSAL_LM" if causal else None
