"""Predicting how many bytes training, saving and storing take."""

import numpy as np
import torch

import minipeft.exercises.measuring  # noqa: F401  # a child process may not import it later, once it runs a student's text
from minipeft.classroom.engine.observation import Observations

GROUPS = {
    "full fine-tuning": ("FULL_WEIGHTS", "FULL_GRADIENTS", "FULL_OPTIMIZER", "SEVEN_FULL"),
    "LoRA": ("LORA_WEIGHTS", "LORA_GRADIENTS", "LORA_OPTIMIZER", "MERGED"),
    "what is saved": ("DELTA", "DELTA_OF_PREFIX", "HUNDRED_TASKS"),
    "four bits": ("NF4_BYTES", "NF4_BITS", "DOUBLE_BITS", "SEVEN_NF4"),
    "activations": ("KEPT_BY_FULL", "KEPT_BY_FROZEN", "KEPT_BY_LORA"),
}

observe = Observations()

SAYS = {
    "FULL_WEIGHTS": "The bytes of the weights are not right: how many numbers are there, and how many bytes has one?",
    "FULL_GRADIENTS": "The bytes of the gradients are not right: which numbers have one, and how many bytes has it?",
    "FULL_OPTIMIZER": "The bytes that the optimizer remembers are not right: what does Adam keep of each number?",
    "SEVEN_FULL": "For 7 billion numbers the sum is not right: how many bytes go with one number, all in all?",
    "LORA_WEIGHTS": "With LoRA the bytes of the weights are not right: which weights are in memory, trained or not?",
    "LORA_GRADIENTS": "With LoRA the bytes of the gradients are not right: which numbers have a gradient now?",
    "LORA_OPTIMIZER": "With LoRA the optimizer's bytes are not right: which numbers does it move now?",
    "MERGED": "The size of the merged model is not right: where is s·BA once it is merged?",
    "DELTA": "The size of the delta of LoRA is not right: what does a reader lack who has the base?",
    "DELTA_OF_PREFIX": "The size of the prefix's delta is not right: what does the model read, once it is trained?",
    "HUNDRED_TASKS": "The bytes for a hundred tasks are not right: how many bases and how many deltas are there?",
    "NF4_BYTES": "The weight in NF4 takes another number of bytes: the codes, and the scales of the blocks.",
    "NF4_BITS": "The number of bits is not right: share the scale of a block out among its numbers.",
    "DOUBLE_BITS": "With double quantization the bits are not right: what is stored for a number, a block and a group?",
    "SEVEN_NF4": "For 7 billion numbers the size is not right: how many bits has each, and how many bytes is that?",
    "KEPT_BY_FULL": "With a trained weight another number of bytes is kept: what does its gradient need?",
    "KEPT_BY_FROZEN": "With a frozen weight another number of bytes is kept: which gradient is made, and from what?",
    "KEPT_BY_LORA": "With LoRA another number of bytes is kept: what do the gradients of A and of B need?",
}


def asks(name):
    def look(impl):
        return torch.tensor(
            float(round(number(impl, name), 3))
        )  # of a zero in a tensor no difference tells the right answer

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


@observe("what is saved", "For a hundred tasks the last digits are not right: is something small added or left out?")
def last_digits_of_HUNDRED_TASKS(impl):
    return round(number(impl, "HUNDRED_TASKS"), 3) % 1000  # numbers are compared within a millionth, and that is 1 here
