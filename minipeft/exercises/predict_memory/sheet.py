"""How many bytes does it take? Predict, then check.

Nothing is run here. Write a number, or better a formula from the letters below, which shows where it comes from:

    DELTA = 2 * LEARNED + 7

An answer may use another one, and no further names of your own. Of fractions three decimals count.

One number in float32 has 4 bytes. A step of training holds each weight, trained or not; one gradient for each number
that is trained; and what the optimizer remembers. Adam keeps two moments of each number that it moves.
Activations are counted apart, at the end.

The model is the shipped base, of BASE numbers: D wide, LAYERS layers. LoRA of rank 4 in front of q and v adds LEARNED.

`step`, `saved`, `merged`, `stored` and `kept` weigh real tensors. They are for afterwards: what is looked up is soon
forgotten.
"""

from minipeft.exercises.measuring import kept, merged, saved, step, stored
from minipeft.methods.qlora import predicted_bits

D = 64
LAYERS = 2
BASE = 109_372
LEARNED = 2_048

# -- full fine-tuning with Adam, everything in float32: bytes of

# the weights,
FULL_WEIGHTS = step("Full()").weights

# the gradients,
FULL_GRADIENTS = step("Full()").gradients

# the moments of Adam.
FULL_OPTIMIZER = step("Full()").optimizer

# A model of 7 billion numbers: all three together, in GB (billions of bytes).
SEVEN_FULL = 7 * step("Full()").total / BASE

# -- the same with LoRA: bytes of

# the weights,
LORA_WEIGHTS = step("LoRA(rank=4)").weights

# the gradients,
LORA_GRADIENTS = step("LoRA(rank=4)").gradients

# the moments of Adam,
LORA_OPTIMIZER = step("LoRA(rank=4)").optimizer

# and the weights again, after training, when LoRA is merged.
MERGED = merged("LoRA(rank=4)")

# -- what is saved: bytes of

# the delta of LoRA,
DELTA = saved("LoRA(rank=4)")

# the delta of prefix tuning with 4 keys and values, which were trained with a network of width 32,
DELTA_OF_PREFIX = saved("PrefixTuning(length=4, mlp=32)")

# all that a hundred tasks need with LoRA, one for each task on the one base.
HUNDRED_TASKS = merged("LoRA(rank=4)") + 100 * saved("LoRA(rank=4)")

# -- four bits

# A weight of 64 rows and 256 columns in NF4: 4 bits for each number, and for each block of 64 the largest absolute
# value in float32. Bytes of it all.
NF4_BYTES = stored(64, 256, block_size=64, double_quant=False)

# Bits for each number, in such a weight.
NF4_BITS = predicted_bits(block_size=64, double_quant=False)

# The same with double quantization, for a large weight: the largest values are stored in 8 bits, and 256 of them share
# one number in float32.
DOUBLE_BITS = predicted_bits(block_size=64, double_quant=True)

# A model of 7 billion numbers with all of them stored like that, in GB (billions of bytes).
SEVEN_NF4 = 7 * predicted_bits(block_size=64, double_quant=True) / 8

# -- activations: bytes that must be kept until the backward pass for one nn.Linear(64, 256), with 32 rows of float32 at
# its input. The gradient with respect to these rows is needed, too. Weights are not counted, nor is s·B.

# The weight is trained.
KEPT_BY_FULL = kept(trained=True, rank=None, rows=32, into=64, out=256)

# The weight is frozen.
KEPT_BY_FROZEN = kept(trained=False, rank=None, rows=32, into=64, out=256)

# The weight is frozen and LoRA of rank 4 stands in front of it.
KEPT_BY_LORA = kept(trained=False, rank=4, rows=32, into=64, out=256)
