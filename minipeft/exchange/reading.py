"""An adapter folder of peft as a Delta for a model of ours, or for one of transformers.

    delta = from_peft("folder", model)       # model: the base that the adapter was trained on
    adapted = load(delta, model)

The logits of `adapted` are those of peft's model. peft only warns of what does not fit: of names without its prefix, of
missing or left over tensors, of fields it does not know, and then goes on with a model that is partly the bare base.
Here all of that is an error.
"""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from minipeft.attach import detach
from minipeft.checks import not_finite
from minipeft.deltas import Delta, DeltaError, fingerprint, put
from minipeft.exchange.configs import METHODS
from minipeft.exchange.fields import check_fields
from minipeft.exchange.names import BERT_FAMILY, PREFIX, by_their_name, family_of, is_conv1d
from minipeft.exchange.stored import COPY, by_module, check_modules, check_projection, scale_of, shaped
from minipeft.exchange.tensors import parted, prefix_from_peft, turned
from minipeft.exchange.updates import Update
from minipeft.methods import IA3, AdaLoRA, DoRA, LoRA, PrefixTuning, PromptTuning, PTuning, VeRA

KINDS = {"LORA": LoRA, "ADALORA": AdaLoRA, "VERA": VeRA, "IA3": IA3}
HEADS = ("classifier", "score", "head")


def from_peft(folder, model):
    """The adapter in a folder that peft has saved, as a Delta for this model.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        model: the base, a GPT-2, BERT or Llama of ours, or a model of transformers. A folder does not hold its base,
            only perhaps the name of it: `notes["base"]`.

    Raises DeltaError for whatever would not compute what it does in peft, or does not fit this model. Warns if its
    numbers are rounded to the type of the model.
    """
    config, tensors = opened(Path(folder))
    notes = {"from": "peft", "base": config.get("base_model_name_or_path"), "peft": config.get("peft_version")}
    tensors = in_type_of(model, tensors, notes)
    try:
        head = classifier(config, tensors, model)
        read = weights if config["peft_type"] in KINDS else prompt
        method, made = read(config, tensors, model, bool(head))
    except (KeyError, TypeError, AttributeError, re.error) as error:
        raise DeltaError(f"{folder}: adapter_config.json is damaged or was changed by hand ({error!r})") from None
    if head:
        method, made = replace(method, classes=len(next(iter(head.values())))), made | head
    made = {name: t.contiguous() for name, t in made.items()}
    delta = Delta(method, made, fingerprint(model), notes)
    view = put(method, model, delta.tensors, folder)  # whatever does not fit is told now, and not when it is used
    if isinstance(method, VeRA):
        check_projection(tensors, view)
    return delta


def opened(folder):
    """Configuration and tensors of a folder. Raises DeltaError if they cannot be read, or not as peft means them."""
    paths = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if missing := [path for path in paths if not path.is_file()]:
        cure = "a folder that peft has saved holds both"
        if (folder / "adapter_model.bin").is_file():
            cure = "adapter_model.bin, which may run code when it is opened, is not read: save it again in peft"
        raise DeltaError(f"there is no {missing[0]}: {cure}")
    try:
        config, tensors = json.loads(paths[0].read_text(encoding="utf-8")), load_file(paths[1])
        check_fields(config)
    except SafetensorError as error:
        raise DeltaError(f"{paths[1]} is not a whole safetensors file ({error})") from None
    except (json.JSONDecodeError, AttributeError) as error:
        raise DeltaError(f"{paths[0]} is no configuration of peft ({error})") from None
    except ValueError as error:
        raise DeltaError(f"{paths[0]}: {error}") from None
    if broken := not_finite(tensors):
        raise DeltaError(f"{paths[1]}: {', '.join(broken)} holds numbers that are not finite")
    return config, tensors


def in_type_of(model, tensors, notes):
    """The tensors in the type of the model's numbers. peft, too, computes with an adapter in 16 bits in 32."""
    wanted = next(p.dtype for p in model.parameters() if p.is_floating_point())
    stored = {t.dtype for t in tensors.values()} - {wanted}
    if stored:
        notes["stored as"] = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in stored))
    if any(torch.finfo(dtype).bits > torch.finfo(wanted).bits for dtype in stored):
        warnings.warn(
            f"the adapter is stored in {notes['stored as']} and is rounded to the model's {wanted}", stacklevel=3
        )
    return {name: t.to(wanted) for name, t in tensors.items()}


def classifier(config, tensors, model):
    """The classifier that was trained beside the adapter, taken out of the tensors; {} if there is none.

    Here it reads one token, the last of GPT-2 and Llama and the first of BERT; an encoder of sentences takes the mean.
    A model for sequence classification does the first in transformers, but not that of BERT; for token classification
    a model gives all the answers that are chosen from, or averaged, here.
    """
    saved, task = set(config.get("modules_to_save") or ()), config.get("task_type")
    family, pooled = family_of(model, classes=True), getattr(detach(model), "pools", False)
    if strange := sorted(saved - set(HEADS)):
        raise DeltaError(
            f"modules_to_save names {strange[0]!r}, a whole module that was trained beside the adapter, and only a "
            "classifier can be read: merge it in peft (merge_and_unload) and read the merged model"
        )
    if family is BERT_FAMILY and saved and task != "TOKEN_CLS":
        raise DeltaError(
            f"task_type={task!r}: in transformers a BERT has a pooler before its classifier, which minipeft does not "
            "have; only a model for token classification (TOKEN_CLS) can be read"
        )
    before = PREFIX if config["peft_type"] in KINDS else "base_model."
    names = {f"{before}{name}.{kind}": kind for name in HEADS for kind in ("weight", "bias")}
    found = {kind: tensors.pop(name) for name, kind in names.items() if name in tensors}
    if saved and not found:
        raise DeltaError(f"modules_to_save names {', '.join(sorted(saved))}, and the file holds none of them")
    if found:
        found.setdefault("bias", torch.zeros(len(found["weight"])))
    return {f"head.classify.{kind}" if family and not pooled else f"head.{kind}": t for kind, t in found.items()}


def prompt(config, tensors, model, classes):
    """Method and tensors of vectors, or keys and values, before a sequence."""
    family, n, kind = family_of(model), config["num_virtual_tokens"], config["peft_type"]
    if family is None:
        raise DeltaError(
            f"a prompt or prefix of peft stands before a GPT-2, BERT or Llama of minipeft, and {type(model).__name__} "
            "is not built like one: read its weights with bases.from_gpt2, bases.from_bert or published.llama"
        )
    if strange := sorted(tensors.keys() ^ {"prompt_embeddings"}):
        raise DeltaError(f"a {kind} has one tensor, prompt_embeddings; here it is {strange[0]!r} that is left or lacks")
    base, P = detach(model), tensors["prompt_embeddings"]
    c, prefix = base.config, kind == "PREFIX_TUNING"
    wanted = (n, 2 * c.layers * base.blocks[0].attn.k.out_features if prefix else c.dim)
    if tuple(P.shape) != wanted:
        raise DeltaError(
            f"prompt_embeddings has shape {tuple(P.shape)}, this model wants {wanted}: it has another base"
        )
    if kind == "PROMPT_TUNING":
        return PromptTuning(n), {"begin.P": P}
    if kind == "P_TUNING":
        return PTuning(n, encoder=None), {"begin.encoder.h": P}
    heads = getattr(c, "kv_heads", c.heads)
    if config.get("num_attention_heads", heads) != heads:
        raise DeltaError(
            f"num_attention_heads={config['num_attention_heads']}, but the keys and values of this model have {heads} "
            "heads: the prefix has another base"
        )
    parts = prefix_from_peft(P, c.layers, heads, getattr(c, "rope_base", None))
    return PrefixTuning(n), {f"begin.{name}": t for name, t in parts.items()}


def weights(config, tensors, model, classes):
    """Method and tensors of an adapter whose layers stand in front of modules. classes: a classifier is beside it."""
    kind = DoRA if config["peft_type"] == "LORA" and config.get("use_dora") else KINDS[config["peft_type"]]
    every, base, updates = by_their_name(model, classes), detach(model), {}
    modules = by_module(tensors)
    check_modules(config, modules, every, base)
    for theirs in [theirs for theirs in every if theirs in modules]:
        stored, ours = modules[theirs], [base.get_submodule(path) for path in every[theirs]]
        if COPY in stored and not torch.equal(stored.pop(COPY), ours[0].weight.cpu()):
            raise DeltaError(f"{theirs} is another one than in this model: the adapter belongs to another base")
        mine = shaped(kind, theirs, stored, ours)
        scale = scale_of(config, theirs, mine)
        for path, module, part in zip(every[theirs], ours, parted(mine, ours), strict=True):
            if part is None:
                continue
            if is_conv1d(module):
                if kind is not LoRA:
                    raise DeltaError(
                        f"{theirs} is a Conv1D of transformers, in front of which only LoRA can stand: read this GPT-2 "
                        "with bases.from_gpt2, where q, k and v are linear layers"
                    )
                path, part = f"{path}.weight", turned(part, module)
            into = kind is IA3 and stored["ia3_l"].shape[0] == 1
            updates[path] = Update(module, part, scale, into)
    if not updates:
        raise DeltaError("the adapter holds no tensors of any module, or changes nothing")
    try:
        return METHODS[kind](config, updates)
    except ValueError as error:
        raise DeltaError(f"the adapter cannot be told here: {error}") from None
