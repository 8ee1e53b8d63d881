"""Whose names a model's modules have in another library.

    blocks.3.attn.q  →  transformer.h.3.attn.c_attn        in GPT-2, where q, k and v are one matrix
    blocks.3.attn.q  →  model.layers.3.self_attn.q_proj    in Llama

Whether a model is a GPT-2, a BERT or a Llama is seen from how it is built, wherever its weights came from: then a model
of transformers computes the same. Any other model keeps its own names: a model of transformers itself, or a network of
your own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from minipeft.attach import attachments, detach
from minipeft.bases import BERT, GPT2, places
from minipeft.models.llama import Llama
from minipeft.models.sentences import MeanPooled
from minipeft.models.transformer import Embed, Transformer
from minipeft.published import llama
from minipeft.targets import names as all_names

PREFIX = "base_model.model."  # before every name of a module in a file of peft


@dataclass(frozen=True)
class Family:
    """A kind of published model.

    names: {our name of a module: theirs} of a model with so many layers, as a function of their number.
    model: the class in transformers. task: peft's name for what it does; None if peft has none.
    head: what transformers calls the head of the model that classifies tokens. beside: modules that are only there.
    """

    name: str
    names: Callable
    model: str
    task: str | None
    head: str
    beside: tuple[str, ...] = ()


def encoder(layers):
    """The names in a BertModel: those of a BERT, without its head and what stands before all others."""
    names = places(BERT, layers)
    return {ours: theirs.removeprefix("bert.") for ours, theirs in names.items() if theirs.startswith("bert.")}


GPT2_FAMILY = Family("gpt2", partial(places, GPT2), "GPT2LMHeadModel", "CAUSAL_LM", "classifier")
BERT_FAMILY = Family("bert", partial(places, BERT), "BertForMaskedLM", None, "classifier")
ENCODER_FAMILY = Family("bert", encoder, "BertModel", "FEATURE_EXTRACTION", "classifier", ("pooler.dense",))
LLAMA_FAMILY = Family("llama", partial(llama.names, side=llama.TRANSFORMERS), "LlamaForCausalLM", "CAUSAL_LM", "score")


def has_classifier(model):
    """Is a method with a fresh head on this view?"""
    return any(entry.method.classes for entry in attachments(model))


def family_of(model, classes=None):
    """The Family that a model is built like; None for any other model. Of a view, that of its base.

    classes: whether a classifier takes the place of its head; None to see whether one does in this view.
    """
    classes = has_classifier(model) if classes is None else classes
    model = detach(model)
    if type(model) is Llama:
        return LLAMA_FAMILY if type(model.head) is nn.Linear else None
    if type(model) is MeanPooled and type(model.head) is nn.Identity:  # the mean of a classifier's answers needs a BERT
        return BERT_FAMILY if classes else ENCODER_FAMILY
    if type(model) is not Transformer or type(model.embed) is not Embed:
        return None
    c, head, norm = model.config, model.head, model.embed.norm
    if c.causal and c.pre_norm and type(head) is nn.Linear and head.bias is None and type(norm) is nn.Identity:
        return GPT2_FAMILY
    if not c.causal and not c.pre_norm and type(head) is nn.Sequential and type(norm) is nn.LayerNorm:
        return BERT_FAMILY
    return None


def their_names(model, classes=None):
    """{our name: theirs} of all modules that the other library has, in our order, but a classifier.

    Args: those of `family_of`.
    """
    classes = has_classifier(model) if classes is None else classes
    base, family = detach(model), family_of(model, classes)
    if family:
        names = family.names(base.config.layers)
        return {ours: theirs for ours, theirs in names.items() if not (classes and ours.split(".")[0] == "head")}
    return {path: path for path, parent, name in all_names(base) if isinstance(getattr(parent, name), nn.Module)}


def by_their_name(model, classes=None):
    """{their name: [our names]}: three of ours, q, k and v in this order, where theirs is GPT-2's c_attn."""
    found = {}
    for ours, theirs in their_names(model, classes).items():
        found.setdefault(theirs, []).append(ours)
    return found


def is_conv1d(module):
    """Is it transformers' Conv1D, a linear layer that stores its weight as (in, out)?"""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


# ---- how peft reads names -------------------------------------------------------------------------------------------


def ends_with(path, word):
    return f".{path}".endswith(f".{word}")


def targets_of(chosen, every):
    """What names just the `chosen` modules out of `every` one for peft, as short as it can be.

    The last words of their names (["q_proj", "v_proj"]) if no other module ends in one of these; else their whole
    names; or, where one of these is the end of another, a regular expression for whole names.
    """
    words = sorted({path.rpartition(".")[2] for path in chosen})
    for names in (words, sorted(chosen)):
        if {path for path in every if any(ends_with(path, name) for name in names)} == set(chosen):
            return names
    return "|".join(re.escape(path) for path in sorted(chosen))


def exceptions(values, usual):
    """{pattern: value} of the modules that have another value than `usual`, as peft's rank_pattern has it."""
    found = {}
    for path, value in values.items():
        word = path.rpartition(".")[2]
        alike = {v for p, v in values.items() if ends_with(p, word)}
        if value != usual:
            found[word if len(alike) == 1 else f"^{re.escape(path)}"] = value
    return found


def value_for(path, pattern, usual):
    """The value that peft takes for a module: that of the first pattern which fits the end of its name."""
    return next((v for key, v in pattern.items() if re.match(rf"(.*\.)?({key})$", path)), usual)


def targeted(config, every):
    """The modules out of `every` one that an adapter_config.json names, by peft's rules."""
    targets, layers = config["target_modules"], config.get("layers_to_transform")
    chosen = {path for path in every if fits(path, targets)}
    if layers is not None and layers != [] and not isinstance(targets, str):
        layers, patterns = (one if isinstance(one, list) else [one] for one in (layers, config.get("layers_pattern")))
        chosen = {path for path in chosen if path in targets or layer_in(path, patterns) in layers}
    return {path for path in chosen if not fits(path, config.get("exclude_modules"))}


def fits(path, names):
    """Does a regular expression fit the whole name, or one of several names its end?"""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(ends_with(path, name) for name in names or ())


def layer_in(path, patterns):
    """The number behind the first of the patterns that a name has, 3 in "model.layers.3.mlp"; None without one."""
    for pattern in patterns:
        before = rf"(?:^|.*?\.){pattern}" if pattern else r".*?\.[^.]*"
        if match := re.match(rf"{before}\.(\d+)\.", path):
            return int(match[1])
    return None
