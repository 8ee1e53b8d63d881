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
    "LORA": "The number of LoRA's parameters is not right.",
    "LORA_UP": "In front of a matrix that is not square LoRA's two factors have different sizes.",
    "LORA_EVERYWHERE": "The number for all six matrices is not right: add up one layer, matrix by matrix.",
    "RANK_OF_NO_SAVING": "Set r·(in + out) and in·out equal and solve for r.",
    "DORA": "The number of DoRA's parameters is not right.",
    "ADALORA": "The number of AdaLoRA's parameters is not right: P (out, r), Λ, Q (r, in).",
    "VERA": "The number of VeRA's parameters is not right.",
    "IA_3": "The number of IA³'s parameters is not right.",
    "HOULSBY": "The number of parameters of Houlsby's adapters is not right.",
    "PROMPT": "The number of parameters of the prompt is not right.",
    "PREFIX": "The number of parameters of the prefix is not right.",
    "PREFIX_MLP": "The number of parameters of the prefix's network is not right: P', then W and b, then W_l and b_l.",
    "P_TUNING_V2": "The number of parameters of the deep prompts is not right.",
    "GPT3_LORA": "For GPT-3 the number is not right: the formula is the one you know, only the letters are large.",
    "T5_PROMPT": "For T5-XXL the number is not right: the formula is the one you know, only the letters are large.",
    "BERT_BITFIT": "The number of biases in one layer of BERT is not right.",
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
