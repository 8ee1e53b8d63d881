"""Predicting how many numbers each method trains."""

import numpy as np
import torch

import minipeft.classroom.workbook  # noqa: F401  # a child process may not import it later, once it runs a student's text
from minipeft.classroom.engine.exercise import Exercise

GROUPS = {
    "the whole and its biases": ("FULL", "BITFIT"),
    "low rank": ("LORA", "LORA_UP", "LORA_EVERYWHERE", "RANK_OF_NO_SAVING", "DORA", "ADALORA"),
    "vectors": ("VERA", "IA_3"),
    "adapters": ("HOULSBY",),
    "virtual tokens": ("PROMPT", "PREFIX", "PREFIX_MLP", "P_TUNING_V2"),
    "large models": ("GPT3_LORA", "T5_PROMPT", "BERT_BITFIT"),
}

exercise = Exercise(
    "predict_parameters",
    "classroom/workbook/predict_parameters.py",
    stubs=tuple(name for names in GROUPS.values() for name in names),
    title="How many parameters: predict before you measure",
    minutes=30,
    difficulty=1,
    why="Where a method's parameters sit, and which of width, depth, rank and length they grow with.",
    read="the docstring of each file in minipeft/methods, which has the formula in letters",
)

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
        exercise.observe(group, SAYS[name])(asks(name))


@exercise.observe("large models", "For GPT-3 the last digits are not right: is something small added or left out?")
def last_digits_of_GPT3_LORA(impl):
    return number(impl, "GPT3_LORA") % 1000  # numbers are compared within a millionth, and that is 38 here


def changes(**of):
    return tuple((f"\n{name} = ", f"\n{name} = {change}") for name, change in of.items())


def wrong(id, name, change, what, question, hint, seen="classic", forms=()):
    """A wrong formula as a change of what is measured, "1 / 2 * " or "-D + ", so that it follows a variant."""
    exercise.mistake(id, changes(**{name: change}), what, question, hint, seen, forms)


wrong(
    "all without biases", "FULL", "-(LAYERS * (7 * D + FF) + D + VOCAB) + ",
    "the biases are not counted",
    "does `nn.Linear(D, FF)` hold anything besides its matrix?",
    "Every linear layer here has a bias as long as its output, and every LayerNorm has one too.",
)  # fmt: skip
wrong(
    "all without norms", "FULL", "-(2 * LAYERS + 1) * 2 * D + ",
    "the LayerNorms are not counted",
    "what does a LayerNorm learn, and how many are there in the whole model?",
    "A LayerNorm has a weight and a bias; there are two in each layer and one at the end.",
)  # fmt: skip
wrong(
    "head tied", "FULL", "-VOCAB * D + ",
    "the head is counted as if it shared its matrix with the table of tokens",
    "is the head a matrix of its own here?",
    "In GPT-2 the two are one matrix; the base of this course has two.",
)  # fmt: skip
wrong(
    "all without positions", "FULL", "-CONTEXT * D + ",
    "the table of positions is not counted",
    "how does the model know where a token stands?",
    "There are two tables at the input, and both are parameters.",
)  # fmt: skip
wrong(
    "biases without norms", "BITFIT", "-(2 * LAYERS + 1) * D + ",
    "the biases of the LayerNorms are forgotten",
    "which modules of a layer, besides the linear ones, add something learned?",
    "The β of a LayerNorm is a bias like the others.",
)  # fmt: skip
wrong(
    "norm weights too", "BITFIT", "(2 * LAYERS + 1) * D + ",
    "the weights γ of the LayerNorms are counted along with their biases",
    "which of the two, γ or β, is added and which multiplies?",
    "BitFit trains only what is added.",
)  # fmt: skip
wrong(
    "all biases of one length", "BITFIT", "-LAYERS * (FF - D) + ",
    "the bias of `up` is counted as long as the others",
    "how long is the output of `up`?",
    "A bias is as long as the output of its layer.",
)  # fmt: skip
wrong(
    "head without bias", "BITFIT", "-VOCAB + ",
    "the head's bias is forgotten",
    "which linear layer stands outside of the blocks?",
    "The last layer writes one number for each token of the vocabulary, and adds one.",
)  # fmt: skip
wrong(
    "r times in times out", "LORA", "D // 2 * ",
    "the formula r·in·out instead of r·(in + out)",
    "what shapes have A and B, one by one?",
    "There are two thin matrices, one after the other: their sizes add up. Only their product has in·out numbers.",
)  # fmt: skip
wrong(
    "half of LoRA", "LORA", "1 / 2 * ",
    "one half is missing: A without B, or q without v",
    "how many matrices are trained in one layer, all in all?",
    "There are two places in a layer, and at each place two factors.",
)  # fmt: skip
wrong(
    "LoRA in one layer", "LORA", "1 / LAYERS * ",
    "only one layer is counted",
    "in how many places of the model does a name like q occur?",
    "Every layer has a q and a v, and each of them gets an A and a B of its own.",
)  # fmt: skip
wrong(
    "as if square", "LORA_UP", "-4 * (FF - D) * LAYERS + ",
    "`up` is taken for a square matrix, with in twice",
    "how long is the output of `up`, and which factor has that length?",
    "A is as wide as the input, B as long as the output.",
)  # fmt: skip
wrong(
    "A alone", "LORA_UP", "D / (D + FF) * ",
    "A is counted and B is not",
    "which matrix brings the r numbers back to the width of the output?",
    "Going down to r is one matrix, coming up again is another.",
)  # fmt: skip
wrong(
    "MLP as narrow as attention", "LORA_EVERYWHERE", "-2 * 4 * (FF - D) * LAYERS + ",
    "all six matrices are counted as square ones",
    "which two of the six are not (D, D)?",
    "Four are square; the two of the MLP have a side of FF.",
)  # fmt: skip
wrong(
    "attention alone", "LORA_EVERYWHERE", "8 * D / (10 * D + 2 * FF) * ",
    "only the four matrices of the attention are counted",
    "which matrices of a layer stand outside of the attention?",
    "Two of the six are in the MLP.",
)  # fmt: skip
wrong(
    "no saving at full rank", "RANK_OF_NO_SAVING", "2 * ",
    "the rank of the matrix itself, as if r·D numbers were trained",
    "how many thin matrices of rank r are there?",
    "At full rank LoRA has more numbers than the matrix: it stops saving long before.",
)  # fmt: skip
wrong(
    "DoRA without magnitudes", "DORA", "-2 * LAYERS * D + ",
    "the magnitudes are not counted",
    "what does DoRA train that LoRA does not?",
    "The direction is changed as in LoRA; the lengths are parameters too.",
)  # fmt: skip
wrong(
    "one magnitude", "DORA", "-2 * LAYERS * (D - 1) + ",
    "one magnitude for a whole matrix",
    "of what is m the length: of the matrix, or of each of its rows?",
    "Every output has a magnitude of its own.",
    "nbasyl/DoRA#1, on what the magnitudes belong to",
)  # fmt: skip
wrong(
    "no singular values", "ADALORA", "-2 * LAYERS * 6 + ",
    "Λ is not counted",
    "what stands between P and Q, and is it learned?",
    "The singular values are parameters: they are what is pruned.",
)  # fmt: skip
wrong(
    "full matrix of singular values", "ADALORA", "2 * LAYERS * 6 * 5 + ",
    "Λ is counted as a full matrix (r, r)",
    "how many numbers of a diagonal matrix are learned?",
    "Λ is stored as its diagonal.",
)  # fmt: skip
wrong(
    "random matrices trained", "VERA", "2 * LAYERS * 48 * 2 * D + ",
    "the matrices A and B are counted in every place",
    "which parts of VeRA have a gradient?",
    "A and B are random and stay so; what is learned are two vectors at each place.",
    "adapter-hub/adapters#763, a VeRA whose matrices are trained",
)  # fmt: skip
wrong(
    "shared matrices trained", "VERA", "48 * 2 * D + ",
    "the shared matrices A and B are counted once",
    "does the optimizer ever see A and B?",
    "They are shared, and frozen as well.",
)  # fmt: skip
wrong(
    "d alone", "VERA", "-2 * LAYERS * D + ",
    "only the vector d is counted",
    "where does VeRA scale: before B, behind it, or both?",
    "One vector is as long as the rank, the other as the output.",
)  # fmt: skip
wrong(
    "both vectors of length r", "VERA", "-2 * LAYERS * (D - 48) + ",
    "both vectors are counted as long as the rank",
    "how long is what comes out of B?",
    "b scales the output of B, one number for each.",
)  # fmt: skip
wrong(
    "middle as wide as the model", "IA_3", "-LAYERS * (FF - D) + ",
    "l_ff is counted with the width of the model",
    "how wide is the MLP where l_ff multiplies?",
    "l_ff stands between `up` and `down`.",
)  # fmt: skip
wrong(
    "queries scaled", "IA_3", "LAYERS * D + ",
    "a vector for the queries is counted too",
    "which projections does IA³ rescale?",
    "A factor on the keys does to the scores what one on the queries would do; the paper has three vectors per layer.",
)  # fmt: skip
wrong(
    "adapters without biases", "HOULSBY", "-2 * LAYERS * (8 + D) + ",
    "the biases of the adapters are not counted",
    "what do D and U of an adapter add besides their matrices?",
    "Both are linear layers with a bias: one of length m, one of length d.",
)  # fmt: skip
wrong(
    "one adapter per layer", "HOULSBY", "-LAYERS * (2 * D * 8 + 8 + D) + ",
    "one adapter per layer instead of two",
    "behind which sublayers does Houlsby put an adapter?",
    "Attention gets one and the MLP gets one.",
)  # fmt: skip
wrong(
    "frozen norms", "HOULSBY", "-(2 * LAYERS + 1) * 2 * D + ",
    "the LayerNorms are left out",
    "which parts of the base does the paper train along?",
    "Houlsby et al. train the LayerNorms too; the adapters library does not.",
    "adapter-hub/adapters#37, about norms that stay frozen there",
)  # fmt: skip
wrong(
    "the last norm", "HOULSBY", "-2 * D + ",
    "the LayerNorm behind the last layer is forgotten",
    "how many LayerNorms has the whole model?",
    "There are two in each layer, and one more.",
)  # fmt: skip
wrong(
    "a prompt in every layer", "PROMPT", "LAYERS * ",
    "a prompt for every layer",
    "where do the virtual tokens enter the model?",
    "They stand before the first layer, and are carried along like words.",
)  # fmt: skip
wrong(
    "one number per token", "PROMPT", "1 / D * ",
    "one number for each virtual token",
    "what does the table of tokens have for one word?",
    "A virtual token is a whole vector, as wide as an embedding.",
)  # fmt: skip
wrong(
    "keys without values", "PREFIX", "1 / 2 * ",
    "keys without values, or the other way round",
    "what does attention need at each place that it looks at?",
    "A key says how much is looked at, a value what is seen: a prefix has both.",
)  # fmt: skip
wrong(
    "prefix in one layer", "PREFIX", "1 / LAYERS * ",
    "a prefix for one layer only",
    "which layers attend to a prefix?",
    "Every layer has keys and values of its own.",
)  # fmt: skip
wrong(
    "whole width for every head", "PREFIX", "HEADS * ",
    "every head gets keys of the whole width",
    "how wide is the part of a key that one head sees?",
    "The heads share the width D among them.",
)  # fmt: skip
wrong(
    "only what is saved", "PREFIX_MLP", "2 * LAYERS * 4 * D - (4 * D + D * 32 + 32 + LAYERS * (2 * D * 32 + 2 * D)) + ",
    "what is saved in the end, not what is trained",
    "what does the optimizer move: the keys and values, or what they are made of?",
    "While training, keys and values are computed by the network, and only the network learns.",
)  # fmt: skip
wrong(
    "network without biases", "PREFIX_MLP", "-(32 + LAYERS * 2 * D) + ",
    "b and b_l are not counted",
    "what is added in the formula, inside the tanh and behind it?",
    "Both linear maps of the network have a bias.",
)  # fmt: skip
wrong(
    "a whole network per layer", "PREFIX_MLP", "(LAYERS - 1) * (4 * D + D * 32 + 32) + ",
    "P' and W are counted once per layer",
    "which part of the network do the layers share?",
    "The question says which letters are one for all layers.",
)  # fmt: skip
wrong(
    "network without P", "PREFIX_MLP", "-4 * D + ",
    "P' is not counted",
    "what does the network read, and is it learned?",
    "The input of the network is a parameter like the rest.",
)  # fmt: skip
wrong(
    "as a prefix", "P_TUNING_V2", "2 * ",
    "counted like a prefix, with keys and values apart",
    "in this form, from what are the keys and the values computed?",
    "One vector in front of the hidden states gives both, by the layer's own frozen projections.",
)  # fmt: skip
wrong(
    "as a prompt", "P_TUNING_V2", "1 / LAYERS * ",
    "counted like prompt tuning, at the input only",
    "what makes a prompt deep?",
    "Every layer has vectors of its own.",
)  # fmt: skip
wrong(
    "half of GPT-3's", "GPT3_LORA", "1 / 2 * ",
    "one half is missing: A without B, or q without v",
    "how many thin matrices does one layer get?",
    "Two places, and two factors at each.",
)  # fmt: skip
wrong(
    "GPT-3 r times in times out", "GPT3_LORA", "12288 // 2 * ",
    "the formula r·in·out instead of r·(in + out)",
    "would that be fewer numbers than the 175 billion of the model?",
    "The two factors add up; their product is never stored.",
)  # fmt: skip
wrong(
    "one layer of GPT-3", "GPT3_LORA", "1 / 96 * ",
    "only one layer is counted",
    "how many layers have a q and a v?",
    "Every layer gets factors of its own.",
)  # fmt: skip
wrong(
    "T5 in every layer", "T5_PROMPT", "48 * ",
    "the prompt is counted once for each layer",
    "does the depth of the model matter to a prompt at the input?",
    "Prompt tuning adds a few rows to the input and nothing to the layers.",
)  # fmt: skip
wrong(
    "T5 encoder and decoder", "T5_PROMPT", "2 * ",
    "the prompt is counted for the encoder and for the decoder",
    "which of the two reads the input?",
    "Lester et al. put the prompt in front of the encoder's input only.",
)  # fmt: skip
wrong(
    "BERT without norms", "BERT_BITFIT", "-2 * 768 + ",
    "the biases of the two LayerNorms are forgotten",
    "how many LayerNorms has a layer?",
    "β is a bias too.",
)  # fmt: skip
wrong(
    "BERT with narrow MLP", "BERT_BITFIT", "-(3072 - 768) + ",
    "the bias in the middle of the MLP is counted with the width of the model",
    "how long is the output of `up` in BERT?",
    "A bias is as long as the output of its layer.",
)  # fmt: skip
wrong(
    "all of BERT", "BERT_BITFIT", "12 * ",
    "all twelve layers of BERT instead of one",
    "what does the question ask for?",
    "One layer is enough here.",
)  # fmt: skip

wrong(
    "matrices alone", "FULL", "-(LAYERS * (9 * D + FF) + 2 * D + VOCAB) + ",
    "the matrices alone are counted, as in the well-known 12·d² for each layer",
    "which parts of a layer are no matrices?",
    "The rule of thumb leaves out biases and LayerNorms: little of a large model, but here the exact number is asked for.",
)  # fmt: skip
wrong(
    "half a norm", "FULL", "-(2 * LAYERS + 1) * D + ",
    "half of each LayerNorm is left out, γ or β",
    "what does a LayerNorm do to the numbers once they are normalized?",
    "It multiplies each by one learned number and adds another.",
    forms=(changes(HOULSBY="-(2 * LAYERS + 1) * D + "), changes(FULL="-(2 * LAYERS + 1) * D + ", HOULSBY="-(2 * LAYERS + 1) * D + ")),
)  # fmt: skip
wrong(
    "all without the last norm", "FULL", "-2 * D + ",
    "the LayerNorm behind the last layer is forgotten",
    "what stands between the last layer and the head?",
    "Besides two in each layer the docstring lists one more.",
)  # fmt: skip
wrong(
    "all without the head's bias", "FULL", "-VOCAB + ",
    "the head's bias is forgotten",
    "does the head add something to its scores?",
    "Every linear layer of this model has a bias, the head too.",
)  # fmt: skip
wrong(
    "with the frozen base", "LORA", "FULL + ",
    "the frozen base is counted along",
    "which numbers does the optimizer move?",
    "The whole model is larger; the question is what of it is trained.",
    forms=tuple(changes(**{name: "FULL + "}) for name in ("DORA", "ADALORA", "VERA", "IA_3", "HOULSBY", "PROMPT", "PREFIX", "P_TUNING_V2")),
)  # fmt: skip
wrong(
    "in thousands", "FULL", "1 / 1000 * ",
    "the answer is given in thousands",
    "in which unit is the number asked for?",
    "Give the whole number, every digit of it.",
    forms=(changes(GPT3_LORA="1 / 1000 * "), changes(GPT3_LORA="1 / 1000**2 * "), changes(FULL="1 / 1000 * ", GPT3_LORA="1 / 1000 * ")),
)  # fmt: skip
wrong(
    "factors with biases", "LORA", "2 * LAYERS * (4 + D) + ",
    "A and B are counted as linear layers with biases",
    "what does the equation of LoRA add besides the product s·B A x?",
    "A and B are matrices and nothing else.",
    forms=(changes(LORA="2 * LAYERS * D + "), changes(LORA="2 * LAYERS * 4 + ")),
)  # fmt: skip
wrong(
    "four projections", "LORA", "2 * ",
    "all four projections of the attention are counted",
    "in front of which matrices does LoRA stand here?",
    "The question names two of the four.",
    forms=(changes(GPT3_LORA="2 * "),),
)  # fmt: skip
wrong(
    "one rank lower", "RANK_OF_NO_SAVING", "-1 + ",
    "one rank lower: the last at which something is still saved",
    "does LoRA have as many numbers as the matrix at your rank, or fewer?",
    "The two numbers have to be equal.",
)  # fmt: skip
wrong(
    "magnitudes of the rank", "DORA", "-2 * LAYERS * (D - 4) + ",
    "the magnitudes are counted as long as the rank",
    "what is it that a magnitude gives a length to?",
    "A magnitude belongs to a row of W', and there are as many rows as outputs.",
)  # fmt: skip
wrong(
    "rank of the end", "ADALORA", "-2 * LAYERS * 2 * (2 * D + 1) + ",
    "the rank that is left in the end is counted, not the one that it starts with",
    "at which rank does AdaLoRA start, and when is it pruned?",
    "The question is about the moment before anything is pruned.",
)  # fmt: skip
wrong(
    "vectors shared", "VERA", "1 / (2 * LAYERS) * ",
    "the vectors are counted once, as if all places shared them as they share A and B",
    "what tells one place from another, if A and B are the same everywhere?",
    "The random matrices are shared; the two vectors are each place's own.",
    forms=(changes(VERA="1 / LAYERS * "), changes(VERA="1 / 2 * ")),
)  # fmt: skip
wrong(
    "IA³ in one layer", "IA_3", "1 / LAYERS * ",
    "only one layer is counted",
    "how many layers have keys, values and an MLP?",
    "Every layer gets three vectors of its own.",
)  # fmt: skip
wrong(
    "one vector too few", "IA_3", "-LAYERS * D + ",
    "keys or values are left out",
    "at how many places of a layer does IA³ multiply?",
    "Keys, values and the middle of the MLP: three vectors in each layer.",
)  # fmt: skip
wrong(
    "one matrix of the adapter", "HOULSBY", "-2 * LAYERS * (8 * D + D) + ",
    "only one of the adapter's two matrices is counted",
    "how does the adapter come back from its bottleneck to the width of the model?",
    "Going down is one matrix, coming up another, and each has a bias.",
    forms=(changes(HOULSBY="-2 * LAYERS * 8 * D + "), changes(HOULSBY="-2 * LAYERS * (8 * D + 8) + ")),
)  # fmt: skip
wrong(
    "positions of the prompt", "PROMPT", "2 * ",
    "positions of the virtual tokens are counted too",
    "what is trained about a virtual token besides its vector?",
    "Whatever the model uses for positions belongs to the base, which is frozen.",
)  # fmt: skip
wrong(
    "as wide as one head", "PREFIX", "1 / HEADS * ",
    "the prefix is counted as wide as one head",
    "how many heads have to get keys and values?",
    "The heads together have the width D, and so has the prefix.",
)  # fmt: skip
wrong(
    "half of each layer's network", "PREFIX_MLP", "-LAYERS * (D * 32 + D) + ",
    "W_l and b_l are counted for keys alone, but they make keys and values both",
    "how long is what one layer needs for one place, [P_K ; P_V]?",
    "The question gives the shape of W_l.",
)  # fmt: skip
wrong(
    "one output for all layers", "PREFIX_MLP", "-(LAYERS - 1) * (2 * D * 32 + 2 * D) + ",
    "W_l and b_l are counted once for all layers",
    "which letters of the formula carry the number of a layer?",
    "The layers share what comes before, and each has its own way out.",
)  # fmt: skip
wrong(
    "network and prefix", "PREFIX_MLP", "2 * LAYERS * 4 * D + ",
    "the keys and values are counted besides the network that makes them",
    "are the keys and values parameters while the network makes them?",
    "What is computed is not trained; only what it is computed from is.",
)  # fmt: skip
wrong(
    "the paper's subset", "BERT_BITFIT", "-6 * 768 + ",
    "only the paper's subset is counted: the biases of q and of the middle of the MLP",
    "which biases does BitFit train when nothing more is said?",
    "The paper shows that two of the biases nearly do; the question asks for all of them.",
)  # fmt: skip
wrong(
    "BERT's norm weights too", "BERT_BITFIT", "2 * 768 + ",
    "the weights γ of the LayerNorms are counted along with their biases",
    "which of the two, γ or β, is added?",
    "BitFit trains only what is added.",
)  # fmt: skip

exercise.right(
    "formulas",
    (("measured(\"LoRA(rank=4, targets=('q', 'v'))\", **SHAPE)", "LAYERS * 2 * 4 * (D + D)"),
     ('measured("IA3()", **SHAPE)', "LAYERS * (D + D + FF)"),
     ('measured("Houlsby(size=8)", **SHAPE)', "2 * LAYERS * (2 * D * 8 + 8 + D) + 2 * D * (2 * LAYERS + 1)"),
     ("measured(\"VeRA(rank=48, targets=('q', 'v'))\", **SHAPE)", "2 * LAYERS * (48 + D)"),
     ("64 * (measured(\"BitFit()\", vocab=1, dim=12, layers=1, heads=1, ff=48, context=1, pre_norm=False) - 1)", "11 * 768")),
)  # fmt: skip
exercise.right(
    "plain numbers",
    (('measured("Full()", **SHAPE)', "159_356"), ('measured("BitFit()", **SHAPE)', "2236"),
     ('measured("PrefixTuning(length=4)", **SHAPE)', "1536"), ("96 * 2 * factors(rank=8, into=12288, out=12288)", "37_748_736")),
)  # fmt: skip
exercise.right(
    "sums over layers",
    (("measured(\"LoRA(rank=4, targets=('up',))\", **SHAPE)", "sum(4 * D + 4 * FF for layer in range(LAYERS))"),
     ('measured("PrefixTuning(length=4, mlp=32)", **SHAPE)', "4 * D + (D * 32 + 32) + sum([2 * D * 32 + 2 * D] * LAYERS)"),
     ("D * D // factors(rank=1, into=D, out=D)", "D / 2"),
     ("measured(\"PTuningV2(length=4, form='hidden')\", **SHAPE)", "4e0 * D * LAYERS")),
)  # fmt: skip

exercise.variant(
    "other ranks",
    (("# LoRA of rank 4 in front of q and v.", "# LoRA of rank 6 in front of q and v."),
     ("\"LoRA(rank=4, targets=('q', 'v'))\"", "\"LoRA(rank=6, targets=('q', 'v'))\""),
     ("# LoRA of rank 4 in front of `up`", "# LoRA of rank 10 in front of `up`"),
     ("\"LoRA(rank=4, targets=('up',))\"", "\"LoRA(rank=10, targets=('up',))\""),
     ("# GPT-3: 96 layers of width 12,288. LoRA of rank 8", "# GPT-3: 96 layers of width 12,288. LoRA of rank 5"),
     ("factors(rank=8, into=12288", "factors(rank=5, into=12288")),
    "LORA has rank 6, LORA_UP 10 and GPT3_LORA 5",
)  # fmt: skip
exercise.variant(
    "other lengths",
    (("# Prompt tuning with 4 virtual tokens.", "# Prompt tuning with 9 virtual tokens."),
     ('"PromptTuning(length=4)"', '"PromptTuning(length=9)"'),
     ("# Prefix tuning with 4 keys and values.", "# Prefix tuning with 7 keys and values."),
     ('"PrefixTuning(length=4)"', '"PrefixTuning(length=7)"'),
     ("# The same, while training, with the network", "# With 4 keys and values and, while training, the network"),
     ("Prompt tuning with 5 virtual tokens.\nT5", "Prompt tuning with 20 virtual tokens.\nT5"),
     ("\"PromptTuning(length=5, init='uniform')\"", "\"PromptTuning(length=20, init='uniform')\"")),
    "there are 9 virtual tokens in PROMPT, 7 in PREFIX and 20 in T5_PROMPT",
)  # fmt: skip
exercise.variant(
    "other places",
    (("# DoRA of rank 4 in front of q and v:", "# DoRA of rank 4 in front of q, k and o:"),
     ("\"DoRA(rank=4, targets=('q', 'v'))\"", "\"DoRA(rank=4, targets=('q', 'k', 'o'))\""),
     ("# VeRA of rank 48 in front of q and v.", "# VeRA of rank 48 in front of `down`."),
     ("\"VeRA(rank=48, targets=('q', 'v'))\"", "\"VeRA(rank=48, targets=('down',))\""),
     ("# Houlsby's adapters with a bottleneck of 8, and all LayerNorms of the model, as in the paper.",
      "# Houlsby's adapters with a bottleneck of 8, and frozen LayerNorms, as in the adapters library."),
     ('"Houlsby(size=8)"', '"Houlsby(size=8, norms=False)"')),
    "DORA stands in front of q, k and o, VERA in front of `down`, and HOULSBY leaves the LayerNorms frozen",
)  # fmt: skip
