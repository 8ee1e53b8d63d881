# Everything counted in bits first, then in bytes; a small class for what goes with a number.
import collections
import math

BYTE = 8
Cost = collections.namedtuple("Cost", "weight gradient moments")
adam = Cost(32, 32, 64)
bytes_of = lambda count, bits: math.prod((count, bits)) // BYTE

FULL_WEIGHTS, FULL_GRADIENTS, FULL_OPTIMIZER = bytes_of(BASE, adam.weight), bytes_of(BASE, 32), bytes_of(BASE, 64)
SEVEN_FULL = 7 * sum(adam) / BYTE
LORA_WEIGHTS = FULL_WEIGHTS + bytes_of(LEARNED, adam.weight)
LORA_GRADIENTS = bytes_of(LEARNED, adam.gradient)
LORA_OPTIMIZER = 2 * LORA_GRADIENTS
MERGED = FULL_WEIGHTS
DELTA = LORA_GRADIENTS
DELTA_OF_PREFIX = bytes_of(LAYERS * 2 * 4 * D, 32)
HUNDRED_TASKS = sum([DELTA] * 100, start=MERGED)
BLOCKS = 64 * 256 / 64
NF4_BYTES = (64 * 256 * 4 + BLOCKS * 32) / BYTE
NF4_BITS = BYTE * NF4_BYTES / (64 * 256)
DOUBLE_BITS = NF4_BITS - (32 - 8 - 32 / 256) / 64
SEVEN_NF4 = round(7 * DOUBLE_BITS / BYTE, 3)
KEPT_BY_FULL = bytes_of(32 * 64, 32)
KEPT_BY_LORA = KEPT_BY_FULL + bytes_of(32 * 4, 32)
KEPT_BY_FROZEN = KEPT_BY_FULL - KEPT_BY_FULL
