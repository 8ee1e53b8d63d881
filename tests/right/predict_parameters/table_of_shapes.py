# Everything read off one table of the layer's parts, layer by layer.
PARTS = {"q": (D, D), "k": (D, D), "v": (D, D), "o": (D, D), "up": (D, FF), "down": (FF, D)}
low = lambda r, *names: LAYERS * sum(r * (PARTS[n][0] + PARTS[n][1]) for n in names)
out = lambda *names: LAYERS * sum(PARTS[n][1] for n in names)
NORMS = 2 * LAYERS + 1

BITFIT = out(*PARTS) + NORMS * D + VOCAB
FULL = BITFIT + LAYERS * sum(a * b for a, b in PARTS.values()) + NORMS * D + D * (VOCAB + CONTEXT + VOCAB)
LORA = low(4, "q", "v")
LORA_UP = low(4, "up")
LORA_EVERYWHERE = low(4, *PARTS)
RANK_OF_NO_SAVING = D**2 // (D + D)
DORA = LORA + out("q", "v")
ADALORA = low(6, "q", "v") + 2 * LAYERS * 6
VERA = 2 * LAYERS * 48 + out("q", "v")
IA_3 = out("k", "v", "up")
HOULSBY = 2 * LAYERS * (8 * D + 8 + D * 8 + D) + 2 * NORMS * D
PROMPT = D * 4
PREFIX = 4 * out("k", "v")
P_TUNING_V2 = LAYERS * PROMPT
PREFIX_MLP = PROMPT + 32 * (D + 1) + LAYERS * (32 + 1) * 2 * D
GPT3_LORA = 37748736.0
T5_PROMPT = 4096 * 5
BERT_BITFIT = sum([768] * 5, 3072) + 2 * 768
