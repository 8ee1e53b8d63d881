"""Predicting how many bytes training, saving and storing take."""

import numpy as np
import torch

import minipeft.classroom.workbook  # noqa: F401  # a child process may not import it later, once it runs a student's text
from minipeft.classroom.engine.exercise import Exercise

GROUPS = {
    "full fine-tuning": ("FULL_WEIGHTS", "FULL_GRADIENTS", "FULL_OPTIMIZER", "SEVEN_FULL"),
    "LoRA": ("LORA_WEIGHTS", "LORA_GRADIENTS", "LORA_OPTIMIZER", "MERGED"),
    "what is saved": ("DELTA", "DELTA_OF_PREFIX", "HUNDRED_TASKS"),
    "four bits": ("NF4_BYTES", "NF4_BITS", "DOUBLE_BITS", "SEVEN_NF4"),
    "activations": ("KEPT_BY_FULL", "KEPT_BY_FROZEN", "KEPT_BY_LORA"),
}

exercise = Exercise(
    "predict_memory",
    "classroom/workbook/predict_memory.py",
    stubs=tuple(name for names in GROUPS.values() for name in names),
    title="How many bytes: predict before you measure",
    minutes=30,
    difficulty=2,
    why="What parameter-efficient training saves (gradients, moments, files), and what it does not (activations).",
    read="the docstrings of minipeft/costs.py and minipeft/methods/qlora.py; Dettmers et al. 2023, arXiv:2305.14314, section 3",
)

SAYS = {
    "FULL_WEIGHTS": "The bytes of the weights are not right.",
    "FULL_GRADIENTS": "The bytes of the gradients are not right.",
    "FULL_OPTIMIZER": "The bytes that the optimizer remembers are not right.",
    "SEVEN_FULL": "For 7 billion numbers the sum is not right: how many bytes go with one number, all in all?",
    "LORA_WEIGHTS": "With LoRA the bytes of the weights are not right.",
    "LORA_GRADIENTS": "With LoRA the bytes of the gradients are not right.",
    "LORA_OPTIMIZER": "With LoRA the bytes that the optimizer remembers are not right.",
    "MERGED": "The size of the merged model is not right.",
    "DELTA": "The size of the delta of LoRA is not right.",
    "DELTA_OF_PREFIX": "The size of the delta of prefix tuning is not right.",
    "HUNDRED_TASKS": "The number of bytes for a hundred tasks is not right.",
    "NF4_BYTES": "The weight in NF4 takes another number of bytes: the codes, and the scales of the blocks.",
    "NF4_BITS": "The number of bits is not right: share the scale of a block out among its numbers.",
    "DOUBLE_BITS": "With double quantization the number of bits is not right.",
    "SEVEN_NF4": "For 7 billion numbers the size is not right.",
    "KEPT_BY_FULL": "With a trained weight another number of bytes is kept: what does its gradient need?",
    "KEPT_BY_FROZEN": "With a frozen weight another number of bytes is kept: which gradient is still computed, and from what?",
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
        exercise.observe(group, SAYS[name])(asks(name))


@exercise.observe(
    "what is saved", "For a hundred tasks the last digits are not right: is something small added or left out?"
)
def last_digits_of_HUNDRED_TASKS(impl):
    return round(number(impl, "HUNDRED_TASKS"), 3) % 1000  # numbers are compared within a millionth, and that is 1 here


def changes(**of):
    return tuple((f"\n{name} = ", f"\n{name} = {change}") for name, change in of.items())


def wrong(id, name, change, what, question, hint, seen="classic", forms=()):
    """A wrong formula as a change of what is measured, "1 / 2 * " or "-D + ", so that it follows a variant."""
    exercise.mistake(id, changes(**{name: change}), what, question, hint, seen, forms)


NUMBERS = ("FULL_WEIGHTS", "FULL_GRADIENTS", "FULL_OPTIMIZER", "LORA_WEIGHTS", "LORA_GRADIENTS", "LORA_OPTIMIZER", "MERGED", "DELTA", "DELTA_OF_PREFIX", "HUNDRED_TASKS", "KEPT_BY_FULL", "KEPT_BY_LORA")  # fmt: skip
wrong(
    "numbers", "FULL_WEIGHTS", "1 / 4 * ",
    "numbers instead of bytes",
    "how many bytes has one number in float32?",
    "Multiply what you count by the size of one number.",
    forms=(*(changes(**{name: "1 / 4 * "}) for name in NUMBERS[1:8]), changes(**dict.fromkeys(NUMBERS, "1 / 4 * "))),
)  # fmt: skip
wrong(
    "two bytes", "FULL_WEIGHTS", "1 / 2 * ",
    "two bytes for each number, as if all were stored in half precision",
    "in which precision are the numbers, says the docstring?",
    "Half precision halves every answer; here all is in float32.",
    forms=(changes(LORA_WEIGHTS="1 / 2 * "), changes(MERGED="1 / 2 * "), changes(KEPT_BY_FULL="1 / 2 * "), changes(KEPT_BY_LORA="1 / 2 * ")),
)  # fmt: skip
wrong(
    "kilobytes", "FULL_WEIGHTS", "1 / 1000 * ",
    "kilobytes or megabytes instead of bytes",
    "in which unit is the answer asked for?",
    "Bytes, every one of them.",
    forms=(changes(HUNDRED_TASKS="1 / 1000 * "), changes(HUNDRED_TASKS="1 / 1000**2 * "), changes(FULL_WEIGHTS="1 / 1024 * "),
           changes(**dict.fromkeys(NUMBERS[:3], "1 / 1000 * ")), changes(**dict.fromkeys(NUMBERS, "1 / 1000 * "))),
)  # fmt: skip
wrong(
    "bits of the weights", "FULL_WEIGHTS", "8 * ",
    "bits instead of bytes",
    "does float32 say how many bits a number has, or how many bytes?",
    "Eight bits are a byte.",
)  # fmt: skip
wrong(
    "gradients of the weights and again", "FULL_GRADIENTS", "2 * ",
    "two numbers for each gradient",
    "how many gradients does one number have?",
    "The pairs are kept by Adam; a gradient is one number for each number trained.",
)  # fmt: skip
wrong(
    "one moment", "FULL_OPTIMIZER", "1 / 2 * ",
    "one moment of each number instead of two",
    "which averages does Adam keep: of the gradient, of its square, or of both?",
    "Adam divides the mean gradient by the root of the mean square, so it has to know two means.",
)  # fmt: skip
wrong(
    "a copy of the weights", "FULL_OPTIMIZER", "4 * BASE + ",
    "three numbers for each one trained",
    "does the optimizer keep a copy of the weights, if all is in float32?",
    "A copy in higher precision is kept only where the weights themselves have a lower one.",
)  # fmt: skip
wrong(
    "seven billion, weights alone", "SEVEN_FULL", "1 / 4 * ",
    "only one of the four things that go with each number",
    "what else must be in memory when the optimizer makes its step?",
    "Weights, gradients and both moments add up.",
)  # fmt: skip
wrong(
    "seven billion, one thing missing", "SEVEN_FULL", "3 / 4 * ",
    "three numbers for each one trained: the gradient is missing, or a moment",
    "add up your first three answers: how many bytes for each number of BASE are they?",
    "All three questions above belong into this one.",
)  # fmt: skip
wrong(
    "binary gigabytes", "SEVEN_FULL", "1e9 / 2**30 * ",
    "units of 2³⁰ bytes (GiB), where GB, of 10⁹ bytes, are asked for",
    "how many bytes has a GB?",
    "The difference is 7 %, which decides whether a model fits.",
)  # fmt: skip
wrong(
    "LoRA without its base", "LORA_WEIGHTS", "-4 * BASE + ",
    "only LoRA's own numbers, without the frozen base",
    "can the forward pass do without W?",
    "Frozen weights have no gradient and no moments; they are in memory all the same.",
)  # fmt: skip
wrong(
    "base without LoRA", "LORA_WEIGHTS", "-4 * LEARNED + ",
    "only the base, without LoRA's own numbers",
    "where do A and B lie before they are merged?",
    "Until it is merged, LoRA stands beside the base.",
)  # fmt: skip
wrong(
    "gradients of the frozen base", "LORA_GRADIENTS", "4 * BASE + ",
    "gradients of the frozen base too",
    "what does `requires_grad=False` spare?",
    "The gradient passes through a frozen layer, to what lies below it, but none is made for its weight.",
)  # fmt: skip
wrong(
    "moments of the frozen base", "LORA_OPTIMIZER", "8 * BASE + ",
    "moments of the frozen base too",
    "which parameters are handed to Adam?",
    "Adam remembers something only about numbers that it moves.",
)  # fmt: skip
wrong(
    "one moment of LoRA", "LORA_OPTIMIZER", "1 / 2 * ",
    "one moment of each number instead of two",
    "how many means does Adam keep of each number?",
    "It is the same optimizer as above, with fewer numbers to move.",
)  # fmt: skip
wrong(
    "merged and beside", "MERGED", "4 * LEARNED + ",
    "the numbers of A and B are counted although they are merged",
    "what is left of A and B once W + s·BA is written into W?",
    "Merging adds to numbers that are there already.",
)  # fmt: skip
wrong(
    "whole matrices", "DELTA", "D // 8 * ",
    "ΔW is saved, as large as the weights that it changes",
    "is it ΔW that is saved, or what it is made of?",
    "The two thin factors say all there is to say about their product.",
)  # fmt: skip
wrong(
    "delta with base", "DELTA", "4 * BASE + ",
    "the base is saved along with the delta",
    "does a reader who has the base need it once more?",
    "A delta is only what a task adds to the base.",
)  # fmt: skip
wrong(
    "delta with moments", "DELTA", "3 * ",
    "the moments of Adam are saved along with the delta",
    "what of training does inference need?",
    "Moments are for going on with training; a delta is for using what was learned.",
)  # fmt: skip
wrong(
    "network saved", "DELTA_OF_PREFIX", "4 * (4 * D + 32 * D + 32 + LAYERS * 2 * D * 33 - LAYERS * 2 * 4 * D) + ",
    "the network is saved",
    "after training, what is the network's output for the one input it ever gets?",
    "What it computes no longer changes, so that is what is kept, and the network goes.",
)  # fmt: skip
wrong(
    "half a prefix", "DELTA_OF_PREFIX", "1 / 2 * ",
    "one half is missing: the keys, the values, or one of the two layers",
    "how many vectors does one layer get, and how many layers are there?",
    "Each layer has its own keys and its own values.",
)  # fmt: skip
wrong(
    "a base for every task", "HUNDRED_TASKS", "99 * 4 * BASE + ",
    "a base for every task",
    "does the base change from task to task?",
    "That it can be shared by all is what the small deltas are for.",
)  # fmt: skip
wrong(
    "tasks without base", "HUNDRED_TASKS", "-4 * BASE + ",
    "the deltas without the base",
    "can a delta answer alone?",
    "One base has to be there as well.",
)  # fmt: skip
wrong(
    "codes alone", "NF4_BYTES", "-4 * (64 * 256 // 64) + ",
    "only the codes, without the scales of the blocks",
    "how does one get from a code back to the number?",
    "A code says which of 16 levels; how large the levels are is told by the block's scale.",
)  # fmt: skip
wrong(
    "a byte for each code", "NF4_BYTES", "64 * 256 // 2 + ",
    "a whole byte for each code",
    "how many codes of 4 bits fit into one byte?",
    "Packing is what makes the four bits worth having.",
)  # fmt: skip
wrong(
    "a scale for each row", "NF4_BYTES", "-4 * (64 * 256 // 64) + 4 * 64 + ",
    "one scale for each row instead of each block",
    "how many blocks of 64 numbers are in one row of 256?",
    "Blocks are cut from the flattened weight; they know nothing of rows.",
)  # fmt: skip
wrong(
    "bits without scales", "NF4_BITS", "-0.5 + ",
    "the bits of the code alone",
    "what does a block store besides its codes?",
    "The scale of a block is shared out among its numbers; small as its part is, it counts.",
)  # fmt: skip
wrong(
    "scales in half precision", "NF4_BITS", "-0.25 + ",
    "scales of 16 bits",
    "in which precision are the largest values stored, says the question?",
    "Divide the bits of one scale by the numbers that share it.",
)  # fmt: skip
wrong(
    "scales of scales forgotten", "DOUBLE_BITS", "-32 / (64 * 256) + ",
    "the second level of scales is forgotten",
    "what gives the 8-bit scales their size?",
    "Quantized scales need a scale themselves, though few of them.",
)  # fmt: skip
wrong(
    "scales of weights", "DOUBLE_BITS", "-32 / (64 * 256) + 32 / 256 + ",
    "the numbers in float32 are shared by 256 weights instead of 256 scales",
    "of what do 256 share one number of the second level?",
    "256 scales stand for 256 blocks, and each block for many weights.",
)  # fmt: skip
wrong(
    "not double", "DOUBLE_BITS", "32 / 64 - 8 / 64 - 32 / (64 * 256) + ",
    "as much as without double quantization",
    "how many bits has a scale now?",
    "The scales themselves shrink from 32 bits to 8.",
)  # fmt: skip
wrong(
    "gigabits", "SEVEN_NF4", "8 * ",
    "gigabits instead of gigabytes",
    "how many bits has a byte?",
    "The last answer was in bits.",
)  # fmt: skip
wrong(
    "seven billion codes", "SEVEN_NF4", "-7 * 0.126953125 / 8 + ",
    "the codes alone, without scales",
    "which number of bits did you find just above?",
    "Everything that is stored counts, the scales too.",
)  # fmt: skip
wrong(
    "output kept", "KEPT_BY_FULL", "4 * 32 * 256 + ",
    "the output is kept along with the input",
    "which letters stand in the formula of the weight's gradient?",
    "∂W is made of the input and of the gradient that comes from above; what came out is not needed here.",
)  # fmt: skip
wrong(
    "output instead of input", "KEPT_BY_FULL", "-4 * 32 * 64 + 4 * 32 * 256 + ",
    "the output is kept instead of the input",
    "y = W x: by what is a number of W multiplied?",
    "The derivative by a factor is the other factor.",
)  # fmt: skip
wrong(
    "input kept for nothing", "KEPT_BY_FROZEN", "4 * 32 * 64 + ",
    "the input is kept although no gradient needs it",
    "which gradient would use the input, and is it computed?",
    "What passes on to the rows below is made of the weight and of the gradient from above.",
)  # fmt: skip
wrong(
    "output kept for nothing", "KEPT_BY_FROZEN", "4 * 32 * 256 + ",
    "the output is kept although no gradient needs it",
    "is a linear layer's output part of any of its gradients?",
    "Only a function that is not linear, such as softmax or tanh, wants its output back.",
)  # fmt: skip
wrong(
    "only the narrow one", "KEPT_BY_LORA", "-4 * 32 * 64 + ",
    "only what lies between A and B is kept",
    "what is the gradient of A made of?",
    "A is a trained matrix with an input of its own: the same one that the frozen weight has.",
    "huggingface/peft#960, #664 and #1514, where activations were expected to shrink",
)  # fmt: skip
wrong(
    "only the wide one", "KEPT_BY_LORA", "-4 * 32 * 4 + ",
    "what lies between A and B is forgotten",
    "what is the gradient of B made of?",
    "B is a trained matrix too, and its input is A x.",
)  # fmt: skip
wrong(
    "input kept twice", "KEPT_BY_LORA", "4 * 32 * 64 + ",
    "the input is counted twice, for the frozen weight and for A",
    "do the frozen weight and A read two copies of the input?",
    "It is one tensor, and the frozen weight has no use for it later.",
)  # fmt: skip

wrong(
    "no moments", "SEVEN_FULL", "1 / 2 * ",
    "weights and gradients alone: the moments are missing",
    "what does Adam remember of each number?",
    "All three questions above belong into this one, and the third counts twice.",
)  # fmt: skip
wrong(
    "zero gradients", "LORA_GRADIENTS", "1 / 2 * ",
    "one of the factors is left out",
    "is there a gradient of A at the start, although all of it is zero?",
    "A gradient that is zero takes as much memory as any other.",
)  # fmt: skip
wrong(
    "update beside", "MERGED", "4 * LAYERS * 2 * D * D + ",
    "ΔW is counted beside the weights",
    "what is left of A and B once W + s·BA is written into W?",
    "A sum takes no more room than what it is added to.",
)  # fmt: skip
wrong(
    "whole models", "HUNDRED_TASKS", "99 * 4 * BASE - 100 * 4 * LEARNED + ",
    "a whole model for every task",
    "what do the hundred tasks have in common?",
    "Merged models are as large as the base, each of them. Deltas can share one base.",
)  # fmt: skip
wrong(
    "one task", "HUNDRED_TASKS", "-99 * 4 * LEARNED + ",
    "the base with the delta of one task",
    "how many deltas do a hundred tasks have?",
    "Each task brings a delta of its own.",
)  # fmt: skip
wrong(
    "bits of NF4", "NF4_BYTES", "8 * ",
    "bits instead of bytes",
    "how many bits has a byte?",
    "A code has half a byte, a scale in float32 has four.",
)  # fmt: skip
wrong(
    "bytes for bits", "NF4_BITS", "1 / 8 * ",
    "bytes instead of bits",
    "how many bits has the code alone?",
    "The answer has to be larger than the four bits of a code.",
    forms=(changes(DOUBLE_BITS="1 / 8 * "),),
)  # fmt: skip
wrong(
    "overhead", "DOUBLE_BITS", "-4 + ",
    "the scales alone, without the four bits of the code",
    "what else is stored for each number?",
    "The question is about all bits, those of the code too.",
    forms=(changes(NF4_BITS="-4 + "),),
)  # fmt: skip
wrong(
    "seven billion, not double", "SEVEN_NF4", "7 * (32 - 8 - 32 / 256) / 64 / 8 + ",
    "as much as without double quantization",
    "which of the two numbers of bits above belongs here?",
    "All of them are stored as in the last question, with quantized scales.",
)  # fmt: skip
wrong(
    "binary gigabytes of NF4", "SEVEN_NF4", "1e9 / 2**30 * ",
    "units of 2³⁰ bytes (GiB), where GB, of 10⁹ bytes, are asked for",
    "how many bytes has a GB?",
    "The two units differ by 7 %.",
)  # fmt: skip
wrong(
    "weight kept", "KEPT_BY_FULL", "4 * 64 * 256 + ",
    "the weight is counted too",
    "is the weight made anew in each pass, or is it there anyway?",
    "What autograd keeps of the weight is the weight itself, and that is not to be counted here.",
    forms=(changes(KEPT_BY_FROZEN="4 * 64 * 256 + "), changes(KEPT_BY_LORA="4 * 64 * 256 + ")),
)  # fmt: skip
wrong(
    "nothing for LoRA", "KEPT_BY_LORA", "0 * ",
    "nothing is kept, as with a frozen weight alone",
    "A and B are trained: what is each of their gradients made of?",
    "The frozen weight keeps nothing. The two thin ones are trained, and each of them has an input.",
)  # fmt: skip
wrong(
    "output of LoRA", "KEPT_BY_LORA", "4 * 32 * 256 + ",
    "the output is kept along with what goes in",
    "does a sum of two linear maps need its result for a gradient?",
    "Each gradient is made of an input and of what comes from above.",
)  # fmt: skip
wrong(
    "one row", "KEPT_BY_FULL", "1 / 32 * ",
    "what is kept of one row only",
    "how many rows go through the layer at once?",
    "Each row is kept until its gradient was made.",
    forms=(changes(KEPT_BY_LORA="1 / 32 * "),),
)  # fmt: skip

exercise.right(
    "formulas",
    (('step("Full()").weights', "4 * BASE"), ('step("Full()").optimizer', "2 * FULL_GRADIENTS"),
     ('step("LoRA(rank=4)").weights', "4 * (BASE + LEARNED)"), ('step("LoRA(rank=4)").optimizer', "8 * LEARNED"),
     ('merged("LoRA(rank=4)") + 100 * saved("LoRA(rank=4)")', "FULL_WEIGHTS + 100 * DELTA"),
     ("predicted_bits(block_size=64, double_quant=False)", "4 + 32 / 64")),
)  # fmt: skip
exercise.right(
    "three decimals",
    (("DOUBLE_BITS = predicted_bits(block_size=64, double_quant=True)", "DOUBLE_BITS = 4.127"),
     ("SEVEN_NF4 = 7 * predicted_bits(block_size=64, double_quant=True) / 8", "SEVEN_NF4 = 3.611"),
     ("stored(64, 256, block_size=64, double_quant=False)", "64 * 256 / 2 + 64 * 256 / 64 * 4")),
)  # fmt: skip
exercise.right(
    "plain numbers",
    (('step("Full()").gradients', "437_488"), ('7 * step("Full()").total / BASE', "112"),
     ('saved("PrefixTuning(length=4, mlp=32)")', "4 * 2 * 2 * 4 * 64"),
     ("kept(trained=False, rank=None, rows=32, into=64, out=256)", "0"),
     ("kept(trained=False, rank=4, rows=32, into=64, out=256)", "8_704")),
)  # fmt: skip

exercise.variant(
    "momentum",
    (("Adam keeps two moments of each number that it moves.\n", "Here that is the momentum of SGD:\none mean of each number that it moves.\n"),
     ("# -- full fine-tuning with Adam, everything", "# -- full fine-tuning with SGD with momentum, everything"),
     ("# the moments of Adam.\nFULL_OPTIMIZER = step(\"Full()\").optimizer", "# the momentum.\nFULL_OPTIMIZER = step(\"Full()\").optimizer // 2"),
     ('7 * step("Full()").total / BASE', '7 * 3 / 4 * step("Full()").total / BASE'),
     ("# the moments of Adam,\nLORA_OPTIMIZER = step(\"LoRA(rank=4)\").optimizer", "# the momentum,\nLORA_OPTIMIZER = step(\"LoRA(rank=4)\").optimizer // 2")),
    "the optimizer is SGD with momentum, which keeps one number for each that it moves",
)  # fmt: skip
exercise.variant(
    "small blocks",
    (("and for each block of 64 the largest absolute\n# value in float32.", "and for each block of 32 the largest absolute\n# value in float32."),
     ("stored(64, 256, block_size=64, double_quant=False)", "stored(64, 256, block_size=32, double_quant=False)"),
     ("predicted_bits(block_size=64, double_quant=False)", "predicted_bits(block_size=32, double_quant=False)"),
     ("DOUBLE_BITS = predicted_bits(block_size=64, double_quant=True)", "DOUBLE_BITS = predicted_bits(block_size=32, double_quant=True)"),
     ("SEVEN_NF4 = 7 * predicted_bits(block_size=64,", "SEVEN_NF4 = 7 * predicted_bits(block_size=32,")),
    "a block of NF4 has 32 numbers",
)  # fmt: skip
exercise.variant(
    "more rows",
    (("with 32 rows of float32 at\n# its input.", "with 50 rows of float32 at\n# its input."),
     ("kept(trained=True, rank=None, rows=32,", "kept(trained=True, rank=None, rows=50,"),
     ("LoRA of rank 4 stands in front of it.", "LoRA of rank 6 stands in front of it."),
     ("kept(trained=False, rank=4, rows=32,", "kept(trained=False, rank=6, rows=50,")),
    "there are 50 rows at the input of the linear layer, and the LoRA in front of it has rank 6",
)  # fmt: skip
