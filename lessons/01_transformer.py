# %% [markdown]
# # 01 · The Transformer and its tasks
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 45 minutes to read and run · 90 with exercises | ●○○ | PyTorch: tensors, `nn.Module` | half a minute on a CPU |
#
# At the end you can write attention, find the two heads that solve a task, train a Transformer with twelve lines, and
# name the three places where every method of this course steps in.

# %% [markdown]
# ## What the paper did and claimed
#
# Vaswani et al. (2017, arXiv:1706.03762) built a translator from attention alone, without recurrence. It beat all
# earlier systems from English to German on WMT 2014, by more than two BLEU. GPT-2 (Radford et al. 2019) kept only the
# half that writes, the *decoder*, and so do we.

# %% [markdown]
# ## Predict
#
# Our model has 109,372 weights and follows short instructions, such as *reverse the word*. Write down three guesses:
#
# 1. Without the instruction, it sees only a word. What will it answer?
# 2. In training it never met `reverse` and `blue` in one instruction. How often will it be right about both together?
# 3. It has eight attention heads. How many of them can it lose, one at a time, and still reverse a word?

# %%
import copy
import inspect
import math
import os
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from minipeft import (
    Config,
    Mixture,
    Transformer,
    base,
    check,
    decode,
    encode,
    evaluate,
    fit,
    plots,
    quiz,
    recording,
    task,
)
from minipeft.models import transformer
from minipeft.tasks import BOS, EOS, FIRST_LETTER, HELD_OUT, IGNORE, OPERATIONS, TABLES, letters
from minipeft.training import schedule

# %% tags=["hide-input"]
torch.set_num_threads(1)
torch.manual_seed(0)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and examples, for a quick check
UNSEEN, STEPS, NEW = (200, 30, 60) if FAST else (1000, 200, 300)
our_attend = inspect.getsource(transformer.attend)

# %% [markdown]
# ## A toy world
#
# The model is called the *base*. It was trained before, and it is *frozen*: none of its weights will change. Give it an
# instruction, a colon and a word of six letters. It writes the answer and a full stop.

# %%
model = base()
for prompt in ("reverse next : cabbed =", "sort plain : cabbed =", "please plus5 left : cabbed ="):
    answer = model.generate(encode(prompt)[None], 7)[0]
    print(prompt, decode(answer))

# %% [markdown]
# It reversed `cabbed` to `debbac`, then wrote the next letter of the alphabet for each: `efccbd`.
#
# An instruction names two things. An **operation** moves the letters to other places. A **table** replaces each letter
# by another one. Words like `please` mean nothing, and the order of the words does not matter. Here is all there is:

# %%
word = letters("cabbed")[None]  # (1, 6), numbers from 0 to 15
for name, operation in OPERATIONS.items():
    print(f"{name:<9}", decode(operation(word)[0] + FIRST_LETTER))

print("\n         ", decode(torch.arange(16) + FIRST_LETTER))
for name, table in TABLES.items():
    print(f"{name:<9}", decode(table + FIRST_LETTER))

# %% [markdown]
# One operation with one table is a *task*, such as `reverse+blue`. The base has a word for eight operations and eight
# tables, which makes 64 tasks. In training it met 58 of them; six pairs were *held out*. It has no words for `riffle`
# and `violet` and has never seen them. They wait for later lessons.

# %% [markdown]
# ## Attention, by hand
#
# Attention lets a token read from other tokens. Each token sends out a **query**: what am I looking for? Each token
# also has a **key**, what it can be found by, and a **value**, what it hands over. A query times a key is a *score*.
#
# Let us build a head that reverses the word `ca`. The sequence is `c a = a`, and `c` must come next.

# %%
# Each key is its token's place, 0 to 3. A query names the place that it wants to read from.
K = np.eye(4)
Q = np.array([
    [0, 0, 0, 0],  # c looks for nothing
    [0, 0, 0, 0],  # a looks for nothing
    [0, 10, 0, 0],  # = has to write the last letter: it looks for place 1
    [10, 0, 0, 0],  # a (the answer's first letter): now it is the turn of place 0
])  # fmt: skip
V = np.array([[1, 0], [0, 1], [0, 0], [0, 1]])  # how much c, how much a

scores = Q @ K.T / math.sqrt(4)  # (4, 4), each query with each key; d = 4
print(scores)

# %% [markdown]
# A token must not read from the future: those letters are not written yet. The **causal mask** puts −∞ in place of
# their scores. Then *softmax* makes weights from each row. They are positive and sum to 1, and $e^{-\infty} = 0$.

# %%
visible = np.tril(np.ones((4, 4), dtype=bool))  # the triangle: itself, and what came before
scores[~visible] = -np.inf
weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
print("what each token has read, c and a:")
print((weights @ V).round(2))

plots.attention(weights, ["c", "a", "=", "a"])
plt.show()

# %% [markdown]
# *Figure: a 4 × 4 map of attention weights. A row reads, a column is read from; the future is grey. The row of = reads
# the last letter, the row below it the first one.*
#
# You can check 0.99 in your head: $e^5 \approx 148$, against two scores of 0 with $e^0 = 1$, makes 148/150. A query of
# zeros looks for nothing, so it reads all it sees in equal parts.

# %% [markdown]
# ## Why divide by √d?
#
# A score is a sum of d products. If the numbers in q and k are independent with variance 1, so is each product, and
# variances add: the score has variance d, and a standard deviation of √d. Divided by √d, it is 1 again, for every d.

# %%
for d in (4, 64, 1024):
    q, k = torch.randn(1000, d), torch.randn(16, d)  # 1,000 queries look at 16 keys
    raw = q @ k.T
    largest = raw.softmax(-1).max(-1).values.mean()
    scaled = (raw / math.sqrt(d)).softmax(-1).max(-1).values.mean()
    print(f"d = {d:4}: scores spread by {raw.std():4.1f}, largest weight {largest:.2f}, divided by √d {scaled:.2f}")

# %% [markdown]
# Without the division, one key takes nearly everything when d is large. Then softmax is as good as a hard choice, and
# hardly any gradient passes through it. This is the reason that the paper gives.
#
# ## Write it
#
# Now write attention for the whole model: B rows, H heads, T queries and S keys at once. `@` multiplies the last two
# dimensions and leaves the others alone. `check` tells you what is wrong, and a little more each time.


# %%
def attend(q, k, v, mask=None):
    """softmax(QKᵀ/√d) V, where d is the last dimension of q: the width of one head.

    q: (B, H, T, d). k and v: (B, H, S, d).
    mask: None, if every query may see every key; the word "causal", for the triangle (T = S); or booleans that can be
        laid over the scores (B, H, T, S), True where a query may see a key.

    Returns the mixed values (B, H, T, d) and the weights (B, H, T, S). You may use `math`, `torch`,
    `scores.masked_fill(hidden, -torch.inf)` and `scores.softmax(dim=-1)`.
    """
    raise NotImplementedError("your turn, about 6 lines")


check("attention", attend, use=True)

# %% [markdown]
# ## The source, revealed
#
# In training PyTorch's fused kernel computes the same. It is faster, but it does not hand out the weights.

# %%
print(our_attend)

# %% [markdown]
# ## From text to vectors
#
# Let us follow one line through the model. Each token becomes a vector of d = 64 numbers: one vector for *what* it is
# plus one for *where* it stands. Our base counts from the colon. All words of the instruction share position 0, so
# their order cannot matter.

# %%
tokens = encode("reverse next : cabbed =")[None]  # (1, 10)
positions = torch.tensor([[0, 0, 1, 2, 3, 4, 5, 6, 7, 8]])
x = model.embed.token(tokens) + model.embed.position(positions)
print("tokens", tuple(tokens.shape), "→ vectors", tuple(x.shape))
print("the model's own embedding is the same:", torch.equal(x, model.embed(tokens)))

# %% [markdown]
# ## Four heads at once
#
# Three linear layers make queries, keys and values of each vector. Then the 64 numbers are cut into four heads of 16.
# Each head has its own map and reads for itself. A last layer, `o`, mixes what the heads have found.

# %%
block, attn = model.blocks[0], model.blocks[0].attn
h = block.norm1(x)  # LayerNorm: each vector gets mean 0 and variance 1, then a learned scale and shift
q, k, v = (attn.split(layer(h)) for layer in (attn.q, attn.k, attn.v))
mixed, weights = transformer.attend(q, k, v, "causal")
added = attn.o(mixed.transpose(1, 2).flatten(2))  # heads side by side again

for name, tensor in {"q, k, v": q, "weights": weights, "mixed": mixed, "after o": added}.items():
    print(f"{name:8} {tuple(tensor.shape)}")
print("largest difference from the module:", (added - attn(h, "causal")).abs().max().item())

# %% [markdown]
# ## The residual stream
#
# Attention does not replace x. Its result is *added* to x. Next the MLP adds its part: it expands the vector to 256
# numbers, applies a nonlinearity (GELU) and projects back. What runs through the model, and is only ever added to, is
# called the **residual stream**. A `Block` is these two additions:

# %%
print(inspect.getsource(transformer.Block.forward))

# %% [markdown]
# Our base is *pre-norm*, as GPT-2 is: the stream itself is never normalised, only what a sublayer reads. The last two
# lines are BERT's order. At the end the `head` turns each vector into 60 **logits**, a score for each token of the
# vocabulary to come next. Softmax makes them probabilities.

# %%
x = model.embed(tokens)
for block in model.blocks:
    x = block(x, "causal")
logits = model.head(model.norm(x))  # (1, 10, 60)
print("largest difference from the model:", (logits - model(tokens)).abs().max().item())

probabilities, candidates = logits[0, -1].softmax(-1).topk(3)
for p, token in zip(probabilities, candidates, strict=True):
    print(f"after '=' comes {decode(token[None])} with probability {p:.4f}")

# %% [markdown]
# ## Who reads where?
#
# We built a head that reverses. Has the base learned one? `recording` keeps the maps of all heads. For 1,000 examples
# of `reverse next` we measure two things: how much weight a head gives to the letter that has to be written next, and
# how much it gives to the word `next`.

# %%
reverse_next = task("reverse+next", instructed=True)
examples = reverse_next.batch(UNSEEN, torch.Generator().manual_seed(1)).tokens  # reverse next : c a b b e d = e f c c b
with recording(model) as layers:
    model(examples)
maps = torch.stack([layer.weights.mean(0) for layer in layers])  # (2 layers, 4 heads, queries, keys)

writes = torch.arange(9, 15)  # at = and at the first five letters of the answer, a letter is written
needed = torch.arange(8, 2, -1)  # the letters that they need: the last one first
on_letter, on_table = maps[:, :, writes, needed].mean(-1), maps[:, :, writes, 1].mean(-1)
plots.heads({"weight on the needed letter": on_letter, "weight on the word next": on_table}, "attention weight")
plt.show()

# %% [markdown]
# *Figure: two maps of two layers and four heads. Head 0 of layer 1 gives 0.97 of its weight to the needed letter. Head
# 3 of layer 0 gives nine tenths to the word next. No other head does either.*
#
# Nobody programmed them, but here they are: one head finds the *letter*, one reads the *table*. Look at both in one
# example.

# %%
line = encode("reverse next : cabbed = efccbd")[None]
with recording(model) as layers:
    model(line)
words = [decode(token[None]) for token in line[0]]
axes = plots.new(9, 3.6, columns=2)
plots.attention(layers[0].weights[0, 3, 9:], words, axes[0], "layer 0, head 3")
plots.attention(layers[1].weights[0, 0, 9:], words, axes[1], "layer 1, head 0")
plt.show()

# %% [markdown]
# *Figure: the rows that write the answer, in two heads. On the left every row reads the word next. On the right a
# diagonal falls to the left: the word is read backwards.*
#
# A map tells where a head reads. It does not tell that this matters. So we silence one head at a time: `o` mixes the
# heads, and its columns 16h to 16h + 16 belong to head h. Zeros there remove the head.


# %%
def mute(model, layer, head):
    muted = copy.deepcopy(model)
    muted.blocks[layer].attn.o.weight[:, 16 * head : 16 * head + 16] = 0
    return muted


accuracy = [[evaluate(mute(model, i, j), reverse_next, UNSEEN).accuracy for j in range(4)] for i in range(2)]
plots.heads({"without this head": accuracy}, "exact-match accuracy")
plt.show()
print("without head 3 of layer 0:", decode(mute(model, 0, 3).generate(tokens, 7)[0]))
print("without head 0 of layer 1:", decode(mute(model, 1, 0).generate(tokens, 7)[0]))

# %% [markdown]
# *Figure: accuracy on `reverse next` when one head is silent. Four heads are needed; without one of the other four,
# nearly all examples are still right.*
#
# **Guess 3:** it can lose four of eight. An example counts as right only if every token of the answer is; this is
# *exact-match accuracy*. Both heads that we found are needed. But so are two more that read neither the letter nor the
# table. Reading somewhere and being needed are two different things.

# %% [markdown]
# ## Writing, one token at a time
#
# To *generate* text, take the likeliest token, append it, and run the model again, until the full stop. In the code it
# is called EOS, the end of the sequence.

# %%
whole = tokens
while whole[0, -1] != EOS:
    likeliest = model(whole)[:, -1:].argmax(-1)  # (1, 1)
    whole = torch.cat([whole, likeliest], dim=1)
    print(decode(whole[0]))

# %% [markdown]
# Each round computes every row again, for nothing: an old token cannot see the new one, so its keys and values stay
# what they were. A **KV cache** keeps them, and each round computes one row. Write the cache of one layer. This list
# matters for the course: prefix tuning (lesson 8) will put *learned* keys and values at its beginning.


# %%
class KVCache(transformer.KVCache):
    def extend(self, k, v):
        """Put the new k and v, (B, H, T, d), behind the stored self.k and self.v, and return both, (B, H, S + T, d).

        self.k and self.v are None while nothing is stored. They may also have no rows of their own, (H, S, d): then
        each row gets the same, by `self.k.expand(B, -1, -1, -1)`. What is returned is also stored, in self.k and
        self.v, unless self.fixed is True. You may use `torch.cat`.
        """
        raise NotImplementedError("your turn, about 6 lines")


check("cache", KVCache, use=True)

# %% [markdown]
# What does the cache save? With T tokens to begin with and n new ones, a cache computes $T + n - 1$ rows. Without it,
# the rounds take $T,\ T + 1,\ T + 2, \dots$ rows, in all $nT + n(n-1)/2$. We measure the time in a larger, untrained
# model.

# %%
T, n = tokens.shape[1], NEW
rows = {True: T + n - 1, False: n * T + n * (n - 1) // 2}
large, seconds = Transformer(Config(vocab=60, dim=128, context=512)).eval(), {}
for cached in rows:
    begun = time.process_time()
    large.generate(tokens, n, cache=cached)
    seconds[cached] = time.process_time() - begun
    print(f"cache {cached!s:5}: {rows[cached]:6,} rows, {seconds[cached]:.2f} s")
print(f"rows: a factor of {rows[False] / rows[True]:.0f}; seconds: a factor of {seconds[False] / seconds[True]:.1f}")

# %% [markdown]
# The rows shrink far more than the time does. On a CPU one row alone is slow work: each call of PyTorch has a price
# that does not depend on the number of rows.
#
# ## What does the loss ask?
#
# To train, we need a loss. The target of each token is the token after it. But we ask only for the answer, not for the
# word that was given.

# %%
goal = task("reverse+next")  # without an instruction
batch = goal.batch(32, torch.Generator().manual_seed(0))
for token, target in zip(batch.tokens[0], batch.targets[0], strict=True):
    print(decode(token[None]), "→", "not asked" if target == IGNORE else decode(target[None]))

# %% [markdown]
# This is the **loss mask**: where nothing is asked, the target is −100 and `cross_entropy` skips it.
#
# ## The training loop, once and in full
#
# Every training of this course is this loop: AdamW with betas of 0.9 and 0.98, gradients cut to a norm of 1, no weight
# decay. The learning rate rises for the first third of the steps, then falls along a cosine. The usual run has 500
# steps of 32 new examples; here 200 are enough.


# %%
def train(model, goal, lr, steps, batch_size=32):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    factor = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps, round(steps / 3)))
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        batch = goal.batch(batch_size, generator)
        logits = model(batch.tokens)  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        factor.step()
        losses.append(loss.item())
    return losses


# %% [markdown]
# From now on we write `fit`. It is the same loop with checks and a progress bar, and it trains only what is not frozen.
# Two fresh models with one seed show that it does the same.


# %%
def fresh(**settings):
    torch.manual_seed(0)
    return Transformer(Config(vocab=60, layers=1, context=24, bos=BOS, **settings))


losses = train(fresh(), goal, lr=0.01, steps=STEPS)
learned = fresh()
history = fit(learned, goal, lr=0.01, steps=STEPS, device="cpu", progress=False)
print("largest difference of the losses:", max(abs(a - b) for a, b in zip(losses, history.loss, strict=True)))
print(f"first loss {losses[0]:.2f}, last loss {losses[-1]:.4f}; ln 60 = {math.log(60):.2f}")
print("exact-match accuracy on unseen examples:", evaluate(learned, goal, UNSEEN).accuracy)
plots.curves({"a fresh model on reverse+next": history})
plt.show()

# %% [markdown]
# *Figure: the loss of a fresh model of one layer falls from 4.3 to below 0.001 within 200 steps (logarithmic axis).*
#
# The losses agree to the last bit. A model that knows nothing gives each of 60 tokens the probability 1/60 and pays
# ln 60 = 4.09 nats; ours begins there, or slightly worse.

# %% [markdown]
# ## What the base can do, and what it cannot
#
# Back to the base. It was trained on the 58 tasks, always *with* their instructions. Now we ask for tasks it knows, for
# the held-out pairs, for what it has no word for, and the same without an instruction.

# %%
KNOWN = ("reverse+next", "sort+red", "left+plus5", "swap+green", "halves+mirror", "descend+blue")
UNKNOWN = ("reverse+violet", "sort+violet", "riffle+next", "riffle+red")


def accuracies(names, instructed):
    return [evaluate(model, task(name, instructed), UNSEEN).accuracy for name in names]


solved = {
    "known tasks": accuracies(KNOWN, True),
    "held-out pairs": accuracies(HELD_OUT, True),
    "known tasks, no instruction": accuracies(KNOWN, False),
    "held-out pairs, no instruction": accuracies(HELD_OUT, False),
    "violet or riffle, no instruction": accuracies(UNKNOWN, False),
}
plots.bars(solved)
plt.show()
print("without an instruction:", decode(model.generate(encode(": cabbed =")[None], 7)[0]))

# %% [markdown]
# *Figure: accuracy on five kinds of task; bars are means, dots are tasks. With an instruction, known tasks are at 1 and
# held-out pairs close to it. Without an instruction, everything is at 0.*
#
# **Guess 2:** nearly always. The base combines two parts that it never met together. **Guess 1:** without an
# instruction it copies the word, so it solves none. The skill is there, but nothing says which one is meant.

# %% [markdown]
# This is the setting of the whole course: **adapt the base to a task that nobody names**, from examples alone. We could
# train every weight, which is *full fine-tuning*. Then each task costs a copy of the model. How large is it?
#
# Let us count a block of width d. Attention has four layers of d² weights and d biases. The MLP has d · 4d weights and
# 4d biases, then 4d · d weights and d biases. Two norms have 2d each. In all $12d^2 + 13d$.

# %%
d, V, context = 64, 60, 24
predicted = {
    "2 blocks": 2 * (12 * d * d + 13 * d),
    "embedding: tokens, positions": V * d + context * d,
    "last norm and head": 2 * d + d * V + V,
}
counted = sum(p.numel() for p in model.parameters())
print(f"predicted {sum(predicted.values()):,}, counted {counted:,}, ratio {sum(predicted.values()) / counted:.3f}")
plots.bars(predicted, label="parameters (count)")
plt.show()

# %% [markdown]
# *Figure: the two blocks hold 99,968 of 109,372 parameters; the embedding and the head hold a tenth.*
#
# At four bytes each, our copy has 0.44 MB. GPT-2's 124 million parameters make 500 MB for every task.
#
# **Parameter-efficient fine-tuning (PEFT)** freezes the base and trains a small part beside it: kilobytes a task. Where
# can such a part stand? There are three doors.

# %%
plots.doors(layers=2)
plt.show()

# %% [markdown]
# *Figure: the residual stream runs from embed to head; attn and mlp read from it and add to it. Numbers mark three
# doors: a weight, a sublayer, and the beginning of the sequence.*
#
# **Door 1, a weight:** LoRA (lesson 10) adds a small matrix to it. **Door 2, a sublayer:** adapters (lesson 4) change
# what it adds to the stream. **Door 3, the beginning:** prompts and prefixes (lessons 6 to 9) put learned vectors where
# the instruction would stand.

# %% [markdown]
# ## Break it
#
# Three bugs, each a single slip. Which one hurts most?
#
# ```python
# scores.masked_fill(~visible, -torch.inf)        # right
# scores                                          # broken: the future is visible
# q @ k.transpose(-1, -2) / math.sqrt(16)         # right
# q @ k.transpose(-1, -2)                         # broken: no 1/√d
# embed.token(tokens) + embed.position(positions) # right
# embed.token(tokens) + embed.position(ones)      # broken: all stand at position 1
# ```

# %%
broken = {name: copy.deepcopy(model) for name in ("right", "the future is visible", "no 1/√d", "all at position 1")}
broken["the future is visible"].config.causal = False
for block in broken["no 1/√d"].blocks:  # √16 = 4 times the query is 4 times the score
    block.attn.q.weight *= 4
    block.attn.q.bias *= 4
table = broken["all at position 1"].embed.position.weight
table[:] = table[1].clone()

results = {name: evaluate(other, Mixture(), UNSEEN) for name, other in broken.items()}
plots.bars({name: score.accuracy for name, score in results.items()})
plt.show()

# %% [markdown]
# *Figure: accuracy on the 58 tasks. The base solves all; with each bug it solves few, and none without positions.*
#
# These bugs are loud. The worst one is silent: forget the mask while *training*. Then each token can look at the very
# letter that it should predict.

# %%
cheat = fresh(causal=False)
easy = train(cheat, Mixture(), lr=0.01, steps=STEPS)
seen = evaluate(cheat, Mixture(), UNSEEN).accuracy
cheat.config.causal = True  # as in real use: the next letter is not written yet
honest = evaluate(cheat, Mixture(), UNSEEN).accuracy
print(f"last loss {easy[-1]:.4f}; accuracy with the answer in sight {seen:.3f}, when it has to predict {honest:.3f}")

# %% [markdown]
# Loss and accuracy look perfect, and the model has learned nothing but to copy. If a result comes too easily, look at
# the mask.
#
# ## Seen here or not
#
# | claim of the paper | here | ledger |
# |---|---|---|
# | without 1/√d, softmax saturates as d grows | yes, with random queries | – |
# | heads learn different jobs | yes: one finds the letter, one reads the table | – |
# | attention alone translates best | not tested | – |
#
# One model, one seed. From the next lesson on, claims have rows in [the ledger](claims.md).

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* `next please reverse`: another answer? Which numbers does the cache hold after 16 tokens?
# 2. *Find the mistake.* For `sort next` the map of layer 1, head 0 shows no diagonal. Is the head broken?
# 3. *Design an experiment.* Does head 3 of layer 0 read *tables* or just the second word? Choose instructions that
#    decide it.
# 4. *Write* `sample`: as the generation loop, but draw from `(logits / temperature).softmax(-1)`. At which temperature
#    do errors begin?
# 5. *Whole files:* `python -m minipeft start attention`, then `block`, `positions`, `cache`.

# %% [markdown]
# <details><summary>Answers</summary>
#
# **1.** The answer is the same, because all words of the instruction stand at position 0. The cache holds 2 layers ·
# 2 (k and v) · 16 tokens · 64 = 4,096 numbers.
#
# **2.** It is not broken. Which place is needed depends on the letters, so a picture of one example shows no pattern.
# Over 1,000 examples the head gives half of its weight or more (0.50 to 0.59) to a letter that is the needed one.
# Without it, accuracy on `sort next` falls from 0.99 to 0.10.
#
# **3.** It reads tables. It gives 0.87 to 0.92 to the table's word if the words change places, with fillers, and for
# the synonym `after`. Without a table's word, it mostly reads the colon:
#
# ```python
# for line in ("next reverse", "the next and the reverse", "after backwards", "next", "reverse"):
#     asked = encode(f"{line} : cabbed =")
#     with recording(model) as layers:
#         model(asked[None])
#     weight, place = layers[0].weights[0, 3, -1].max(-1)
#     print(f"{line}: it reads {decode(asked[place][None])} with {weight:.2f}")
# ```
#
# </details>

# %% [markdown]
# <details><summary>Answer to 4</summary>
#
# Of 500 answers, all are right at temperatures 0.5 and 1, 0.99 at 1.5, 0.96 at 2 and 0.52 at 3 (seed 0).
#
# ```python
# def sample(tokens, temperature, new=6):
#     for _ in range(new):
#         p = (model(tokens)[:, -1] / temperature).softmax(-1)
#         tokens = torch.cat([tokens, torch.multinomial(p, 1)], dim=1)
#     return tokens[:, -new:]
#
#
# torch.manual_seed(0)
# for temperature in (0.5, 1.0, 1.5, 2.0, 3.0):
#     written = sample(tokens.expand(500, -1), temperature)
#     print(temperature, (written == encode(": efccbd")[1:]).all(1).float().mean().item())
# ```
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions as an interviewer would ask them. Write your letters into `answers`, such as `"abcab"`.

# %%
quiz("01_transformer", answers="")

# %% [markdown]
# ## In three lines
#
# - Attention moves information between tokens, the MLP works on each token; both only *add* to the residual stream.
# - The base has many skills, but nobody tells it which one is meant; a task without a name is what we adapt it to.
# - A method changes a weight, a sublayer, or how a sequence begins.

# %% [markdown]
# The same in the reference library. There q, k and v are one matrix, positions count from the first token, and the head
# shares its weights with the embedding.
#
# ```python
# from transformers import GPT2Config, GPT2LMHeadModel
# from minipeft.bases import from_gpt2
#
# config = GPT2Config(vocab_size=60, n_embd=64, n_layer=2, n_head=4, n_inner=256, n_positions=24)
# theirs = GPT2LMHeadModel(config).eval()
# ours = from_gpt2(theirs.state_dict(), heads=4)  # the same logits
# ```
#
# Papers: Vaswani et al. 2017, arXiv:1706.03762; Radford et al. 2019 (GPT-2).

# %% tags=["hide-input"]
assert torch.equal(whole, encode("reverse next : cabbed = efccbd .")[None])
assert np.allclose(weights.sum(-1), 1)
assert (added - attn(h, "causal")).abs().max() < 1e-5
assert (logits - model(tokens)).abs().max() < 1e-4
assert on_letter[1, 0] > 0.9
assert on_table[0, 3] > 0.85
assert sorted(on_letter.flatten())[-2] < 0.2
assert sorted(on_table.flatten())[-2] < 0.2
needed_heads = np.array(accuracy) < 0.5
assert needed_heads.tolist() == [[False, True, True, True], [True, False, False, False]]
assert sum(predicted.values()) == counted == 109_372
assert np.mean(solved["known tasks"]) > 0.95
assert np.mean(solved["held-out pairs"]) > 0.8
assert max(max(found) for kind, found in solved.items() if "no instruction" in kind) < 0.05
assert decode(model.generate(encode(": cabbed =")[None], 7)[0]) == "cabbed ."
assert all(score.loss > 10 * results["right"].loss for name, score in results.items() if name != "right")
assert results["right"].accuracy > 0.95
assert results["all at position 1"].accuracy < 0.05
assert losses == history.loss
if not FAST:
    assert evaluate(learned, goal, UNSEEN).accuracy > 0.99
    assert seen > 0.99
    assert honest < 0.05
    assert rows[False] / rows[True] > 100
    assert seconds[False] > seconds[True]
