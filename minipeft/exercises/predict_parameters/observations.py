"""Predicting how many numbers each method trains."""

import numpy as np
import torch

import minipeft.exercises.measuring  # noqa: F401  # a child process may not import it later, once it runs a student's text
from minipeft.classroom.engine.observation import Observations

GROUPS = {
    "the whole and its biases": ("FULL", "BITFIT"),
    "low rank": ("LORA", "LORA_UP", "LORA_EVERYWHERE", "RANK_OF_NO_SAVING", "DORA", "ADALORA"),
    "vectors": ("VERA", "IA_3"),
    "adapters": ("HOULSBY",),
    "virtual tokens": ("PROMPT", "PREFIX", "PREFIX_MLP", "P_TUNING_V2"),
    "large models": ("GPT3_LORA", "T5_PROMPT", "BERT_BITFIT"),
}

observe = Observations()

SAYS = {
    "FULL": "The number of all parameters is not right: go through the parts that the docstring lists.",
    "BITFIT": "The number of biases is not right: which parts have one, and how long is each?",
    "LORA": "The number of LoRA's parameters is not right: how many layers, places and factors are there?",
    "LORA_UP": "In front of a matrix that is not square LoRA's two factors have different sizes: which shape has each?",
    "LORA_EVERYWHERE": "The number for all six matrices is not right: add up one layer, matrix by matrix.",
    "RANK_OF_NO_SAVING": "Set r·(in + out) and in·out equal and solve for r.",
    "DORA": "The number of DoRA's parameters is not right: at one place, what is there beside LoRA's two factors?",
    "ADALORA": "The number of AdaLoRA's parameters is not right: P (out, r), Λ, Q (r, in) at each place, with which r?",
    "VERA": "The number of VeRA's parameters is not right: which letters are trained at a place, and how long is each?",
    "IA_3": "The number of IA³'s parameters is not right: which vectors does one layer have, and how long is each?",
    "HOULSBY": "The number for Houlsby's adapters is not right: how many adapters and LayerNorms, and how large?",
    "PROMPT": "The number for the prompt is not right: how many vectors are there in all, and how wide is one?",
    "PREFIX": "The number for the prefix is not right: what does one layer get for each place, and how wide is it?",
    "PREFIX_MLP": "The prefix's network is not right: which of P', W, b, W_l and b_l has each layer of its own?",
    "P_TUNING_V2": "The number for the deep prompts is not right: how many vectors has one layer, and how wide is one?",
    "GPT3_LORA": "For GPT-3 the number is not right: the formula is that of LORA, so which numbers are others?",
    "T5_PROMPT": "For T5-XXL the number is not right: the formula is that of PROMPT: which numbers stand in it?",
    "BERT_BITFIT": "The number of BERT's biases is not right: which parts of a layer have one, and how long is each?",
}


def asks(name):
    def look(impl):
        return torch.tensor(float(number(impl, name)))  # of a zero in a tensor no difference tells the right answer

    look.__name__ = name
    return look


def number(impl, name):
    value = getattr(impl, name)
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a {type(value).__name__}, a number is expected")
    return value


for group, names in GROUPS.items():
    for name in names:
        observe(group, SAYS[name])(asks(name))


@observe("large models", "For GPT-3 the last digits are not right: is something small added or left out?")
def last_digits_of_GPT3_LORA(impl):
    return number(impl, "GPT3_LORA") % 1000  # numbers are compared within a millionth, and that is 38 here
