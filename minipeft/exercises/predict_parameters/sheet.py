"""How many numbers does it train? Predict, then check.

Nothing is run here. Write a whole number, or better a formula from the letters below, which shows where it comes from:

    FULL = 2 * D + 7

An answer may use another one, and no further names of your own.

All questions but the last three are about one model, the shipped base with a third layer. Each of its LAYERS has

    attention   q, k, v, o: nn.Linear(D, D), each with a bias
    MLP         up: nn.Linear(D, FF), down: nn.Linear(FF, D), each with a bias
    norms       two nn.LayerNorm(D), each with a weight γ and a bias β

and around them stand a table of tokens (VOCAB, D), a table of positions (CONTEXT, D), a last nn.LayerNorm(D), and the
head nn.Linear(D, VOCAB) with a bias and a weight of its own. Count what the optimizer would move: all of it, and
nothing else. What the method puts in is meant, unless the question says more.

`measured` and `factors` count in real models. They are for afterwards: what is looked up is soon forgotten.
"""

from minipeft.exercises.measuring import factors, measured

D = 64
LAYERS = 3
HEADS = 4
FF = 256
VOCAB = 60
CONTEXT = 24
SHAPE = {"vocab": VOCAB, "dim": D, "layers": LAYERS, "heads": HEADS, "ff": FF, "context": CONTEXT, "bos": 1}

# -- the whole and its biases

# Full fine-tuning: every number of the model.
FULL = measured("Full()", **SHAPE)

# BitFit: every bias of the model, the head's too.
BITFIT = measured("BitFit()", **SHAPE)

# -- low rank

# LoRA of rank 4 in front of q and v.
LORA = measured("LoRA(rank=4, targets=('q', 'v'))", **SHAPE)

# LoRA of rank 4 in front of `up`, which is not square.
LORA_UP = measured("LoRA(rank=4, targets=('up',))", **SHAPE)

# LoRA of rank 4 in front of all six matrices of each layer.
LORA_EVERYWHERE = measured("LoRA(rank=4, targets=('q', 'k', 'v', 'o', 'up', 'down'))", **SHAPE)

# The rank at which LoRA in front of q trains as many numbers as q's weight has itself.
RANK_OF_NO_SAVING = D * D // factors(rank=1, into=D, out=D)

# DoRA of rank 4 in front of q and v: LoRA, and the magnitudes.
DORA = measured("DoRA(rank=4, targets=('q', 'v'))", **SHAPE)

# AdaLoRA that starts at rank 6 in front of q and v: P Λ Q, before anything is pruned.
ADALORA = measured("AdaLoRA(rank=4, initial_rank=6, targets=('q', 'v'))", **SHAPE)

# -- vectors

# VeRA of rank 48 in front of q and v.
VERA = measured("VeRA(rank=48, targets=('q', 'v'))", **SHAPE)

# IA³: keys, values, and the middle of the MLP.
IA_3 = measured("IA3()", **SHAPE)

# -- adapters

# Houlsby's adapters with a bottleneck of 8, and all LayerNorms of the model, as in the paper.
HOULSBY = measured("Houlsby(size=8)", **SHAPE)

# -- virtual tokens

# Prompt tuning with 4 virtual tokens.
PROMPT = measured("PromptTuning(length=4)", **SHAPE)

# Prefix tuning with 4 keys and values.
PREFIX = measured("PrefixTuning(length=4)", **SHAPE)

# The same, while training, with the network [P_K ; P_V] = W_l tanh(W P' + b) + b_l of width 32: P' (4, D) and W, b are
# one for all layers, W_l (2·D, 32) and b_l are each layer's own.
PREFIX_MLP = measured("PrefixTuning(length=4, mlp=32)", **SHAPE)

# P-tuning v2 with 4 vectors in front of the hidden states of every layer.
P_TUNING_V2 = measured("PTuningV2(length=4, form='hidden')", **SHAPE)

# -- large models

# GPT-3: 96 layers of width 12,288. LoRA of rank 8 in front of q and v.
GPT3_LORA = 96 * 2 * factors(rank=8, into=12288, out=12288)

# T5-XXL: width 4,096, 24 layers in the encoder and 24 in the decoder. Prompt tuning with 5 virtual tokens.
T5_PROMPT = measured("PromptTuning(length=5, init='uniform')", vocab=1, dim=4096, layers=0, heads=1, ff=1, context=1)

# BERT-base: width 768, 3,072 in the middle of the MLP, the same parts in a layer as above. BitFit in one of its layers.
BERT_BITFIT = 64 * (measured("BitFit()", vocab=1, dim=12, layers=1, heads=1, ff=48, context=1, pre_norm=False) - 1)
