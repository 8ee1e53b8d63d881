# NF4_BYTES counts one largest value for each of the 64 rows instead of one for each block of 64 numbers
# earns: one scale for each row
D = 64
LAYERS = 2
BASE = 109_372
LEARNED = 2_048

FULL_WEIGHTS = 4 * BASE
FULL_GRADIENTS = 4 * BASE
FULL_OPTIMIZER = 2 * 4 * BASE
SEVEN_FULL = 7 * (4 + 4 + 8)
LORA_WEIGHTS = 4 * (BASE + LEARNED)
LORA_GRADIENTS = 4 * LEARNED
LORA_OPTIMIZER = 2 * 4 * LEARNED
MERGED = 4 * BASE
DELTA = 4 * LEARNED
DELTA_OF_PREFIX = 4 * 2 * LAYERS * 4 * D
HUNDRED_TASKS = 4 * BASE + 100 * DELTA
NF4_BYTES = 64 * 256 / 2 + 64 * 4
NF4_BITS = 4 + 32 / 64
DOUBLE_BITS = 4 + 8 / 64 + 32 / (64 * 256)
SEVEN_NF4 = 7 * DOUBLE_BITS / 8
KEPT_BY_FULL = 4 * 32 * 64
KEPT_BY_FROZEN = 0
KEPT_BY_LORA = 4 * 32 * 64 + 4 * 32 * 4
