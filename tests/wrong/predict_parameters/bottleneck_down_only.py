# An adapter counted with its way down and without its way up.
# earns: only one of the adapter's two matrices

FULL = (VOCAB + CONTEXT) * D + LAYERS * (4 * (D * D + D) + D * FF + FF + FF * D + D + 4 * D) + 2 * D + D * VOCAB + VOCAB
BITFIT = LAYERS * (4 * D + FF + D + 2 * D) + D + VOCAB
LORA = LAYERS * 2 * (4 * D + D * 4)
LORA_UP = LAYERS * (4 * D + FF * 4)
LORA_EVERYWHERE = LAYERS * 4 * (4 * 2 * D + 2 * (D + FF))
RANK_OF_NO_SAVING = D / 2
DORA = LAYERS * 2 * (8 * D + D)
ADALORA = LAYERS * 2 * (6 * D + 6 + D * 6)
VERA = LAYERS * 2 * (48 + D)
IA_3 = LAYERS * (D + D + FF)
HOULSBY = LAYERS * 2 * (D * 8 + 8) + (2 * LAYERS + 1) * 2 * D
PROMPT = 4 * D
PREFIX = LAYERS * 4 * 2 * D
PREFIX_MLP = 4 * D + D * 32 + 32 + LAYERS * (32 * 2 * D + 2 * D)
P_TUNING_V2 = LAYERS * 4 * D
GPT3_LORA = 96 * 2 * 8 * (12288 + 12288)
T5_PROMPT = 5 * 4096
BERT_BITFIT = 3 * 768 + 768 + 3072 + 768 + 2 * 768
