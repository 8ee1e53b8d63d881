# LORA_EVERYWHERE forgets o: three square matrices instead of four
# earns: one of the four square matrices is missing
D = 64
LAYERS = 3
HEADS = 4
FF = 256
VOCAB = 60
CONTEXT = 24
SHAPE = {"vocab": VOCAB, "dim": D, "layers": LAYERS, "heads": HEADS, "ff": FF, "context": CONTEXT, "bos": 1}

FULL = LAYERS * (4 * (D * D + D) + (D * FF + FF) + (FF * D + D) + 2 * 2 * D) + VOCAB * D + CONTEXT * D + 2 * D + D * VOCAB + VOCAB
BITFIT = LAYERS * (4 * D + FF + D + 2 * D) + D + VOCAB
LORA = LAYERS * 2 * 4 * (D + D)
LORA_UP = LAYERS * 4 * (D + FF)
LORA_EVERYWHERE = LAYERS * 4 * (3 * (D + D) + 2 * (D + FF))
RANK_OF_NO_SAVING = D // 2
DORA = LORA + LAYERS * 2 * D
ADALORA = LAYERS * 2 * (6 * (D + D) + 6)
VERA = LAYERS * 2 * (48 + D)
IA_3 = LAYERS * (D + D + FF)
HOULSBY = LAYERS * 2 * (8 * D + 8 + D * 8 + D) + (2 * LAYERS + 1) * 2 * D
PROMPT = 4 * D
PREFIX = 2 * LAYERS * 4 * D
PREFIX_MLP = 4 * D + (32 * D + 32) + LAYERS * (2 * D * 32 + 2 * D)
P_TUNING_V2 = LAYERS * 4 * D
GPT3_LORA = 96 * 2 * 8 * (12288 + 12288)
T5_PROMPT = 5 * 4096
BERT_BITFIT = 4 * 768 + 3072 + 768 + 2 * 768
