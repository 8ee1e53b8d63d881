# Two answers in one line, names of the student's own, numpy's numbers, an annotation.
import math

import numpy as np

SQUARE = D * D
NORM = 2 * D
LAYER = 4 * (SQUARE + D) + 2 * D * FF + FF + D + 2 * NORM
BIASES = [D, D, D, D, FF, D, D, D]

FULL, BITFIT = LAYERS * LAYER + (VOCAB + CONTEXT) * D + NORM + (D + 1) * VOCAB, LAYERS * sum(BIASES) + D + VOCAB
pair = lambda r, into, out: r * (into + out)
LORA = LAYERS * 2 * pair(4, D, D)
LORA_UP = np.int64(LAYERS * pair(4, D, FF))
LORA_EVERYWHERE: int = LAYERS * (4 * pair(4, D, D) + pair(4, D, FF) + pair(4, FF, D))
RANK_OF_NO_SAVING = SQUARE / pair(1, D, D)
DORA = LORA + LAYERS * NORM
ADALORA = sum(6 * D + 6 + 6 * D for place in ("q", "v") for layer in range(LAYERS))
VERA = LAYERS * 2 * (48 + D)
IA_3 = LAYERS * sum((D, D, FF))
HOULSBY = LAYERS * 2 * (2 * 8 * D + 8 + D) + (2 * LAYERS + 1) * NORM
PROMPT = 4 * D
PREFIX = 2 * PROMPT * LAYERS
PREFIX_MLP = PROMPT + D * 32 + 32 + LAYERS * (NORM * 32 + NORM)
P_TUNING_V2 = PROMPT * LAYERS
GPT3_LORA, T5_PROMPT = np.array([96 * 2 * 8 * 2 * 12288, 5 * 4096])
BERT_BITFIT = int(math.fsum([11 * 768]))
