# %% [markdown]
# # 19 · Encoder-decoder: three places for a prefix
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 60 minutes | ●●○ | lessons 1, 8, 10 | a minute on a CPU |
#
# You will put one prefix at three places of an encoder-decoder, see what it learns at each, and explain it by hand.

# %% [markdown]
# ## What the papers did
#
# Li and Liang (2021) put prefixes in front of BART's encoder and decoder and came close to full fine-tuning. Lester et
# al. (2021) put a prompt before T5's source alone; at 11 billion parameters it matched full fine-tuning. Petrov et al.
# (2024) proved that a prefix cannot change how attention is divided among other tokens.

# %% [markdown]
# ## First, guess
#
# Our base reads a source and writes an answer. Without an instruction it copies the word. We train four vectors in
# front of the source, the memory or the answer.
#
# 1. Where can they learn to write the word backwards?
# 2. And to write another letter for each letter?
# 3. And both at once?

# %%
import copy
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from minipeft import LoRA, Mixture, PrefixTuning, PromptTuning, base, check, evaluate, fit, plots, summary, task
from minipeft.attach import trainable
from minipeft.classroom import with_mistake
from minipeft.lab import adapt
from minipeft.models import encoder_decoder
from minipeft.models.transformer import recording
from minipeft.tasks import answer, encode
from minipeft.training import Recipe
from minipeft.worlds.pairs import CONFIG, Pairs, reading

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with a few steps, for a quick check
SHORT, USUAL = (4, 8) if FAST else (200, 500)  # steps

# %% [markdown]
# ## Two stacks and a memory
#
# The **encoder** reads the source in both directions. Each block of the decoder makes keys and values of the encoder's
# vectors; these are the **memory**. The **decoder** attends to the answer so far, then to the memory: the second is
# **cross-attention**. Three sequences begin here, and a method can stand in front of each.

# %%
plots.three_places()
plt.show()
model = base("letters-pairs")
print(f"the base has {sum(p.numel() for p in model.parameters()):,} parameters")
for source in ("reverse plain : cadgib", "copy blue : cadgib", "reverse blue : cadgib", ": cadgib"):
    print(f"{source:24}{answer(model, source)}")

# %% [markdown]
# *Figure: the three places. Coloured boxes are what a prefix puts in front, in every block: 1 of the source, 2 of the
# memory, 3 of the answer.*
#
# ## Where does the answer read?
#
# `reverse` changes the order, `blue` the letters. Which of them shows in cross-attention? We draw the first block,
# averaged over its heads.

# %%
found = {}
for title, words in {"reverse plain": "reverse plain ", "copy blue": "copy blue ", "no instruction": ""}.items():
    seen = reading(model, words + ": cadgib")
    found[title] = seen.cross[0].mean(0), seen.source, seen.answer
plots.where_answers_read(found)
plt.show()

# %% [markdown]
# *Figure: cross-attention of the first block. Told to reverse, the answer reads from right to left; told `blue` or
# nothing, from left to right.*
#
# The order is a matter of where the answer reads. The letters are not.
#
# ## By hand
#
# Two tokens of an answer read a memory of three vectors, with one learned key and value in front.

# %%
K, V = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # of c, a, d
P_K, P_V = np.array([[1.0, 1.0]]), np.array([[0.0, -3.0]])  # learned


def weights(q, K):
    a = np.exp(K @ q / np.sqrt(len(q)))
    return a / a.sum()


for name, q in {"first": np.array([2.0, 0.0]), "second": np.array([0.0, 1.0])}.items():
    plain, (λ, *rest) = weights(q, K), weights(q, np.vstack([P_K, K]))
    y = np.array(rest) @ V + λ * P_V[0]
    print(f"{name} token: c, a, d get {plain.round(2)}, behind the prefix {np.round(rest, 2)}; λ = {λ:.2f}")
    print(f"    c against a: {plain[0] / plain[1]:.2f}, behind the prefix {rest[0] / rest[1]:.2f}")
    print(f"    y = {y.round(2)} = (1 − λ) {(plain @ V).round(2)} + λ {P_V[0]}")

# %% [markdown]
# $$y = (1-\lambda)\,\mathrm{Attn}(q, K, V) + \lambda\,P_V$$
#
# The prefix adds a fixed vector; a query decides how much of it. Among c, a and d the proportions stay, unless $q$
# changes, as a prefix of the decoder can bring about, or $K$, as one of the encoder can. We predict: the memory's can
# learn letters, but hardly the order.

# %% [markdown]
# ## Write cross-attention
#
# A source is remembered once, then each token of the answer reads it. Your layer has `q`, `k`, `v`, `o` and `split`,
# as in lesson 1. `attend(q, k, v, mask)` gives the mixed values $(B, H, U, d/H)$ and the weights. Until both bodies are
# right, the lesson runs on ours.


# %%
class CrossAttention(encoder_decoder.CrossAttention):
    def remember(self, x, cache):  # what the encoder gave, (B, S, d): cache.extend(keys, values)
        raise NotImplementedError("your turn, 1 line")

    def forward(self, x, mask=None, cache=None):  # the answer, (B, U, d), reads cache.k and cache.v
        raise NotImplementedError("your turn, 4 lines; if self.recording, keep self.weights")


check("encoder_decoder", CrossAttention)

# %% [markdown]
# ## The source
#
# Only the queries come from the answer. `Memory.forward` makes the cache that all blocks read. It asks `begin`, where a
# method may have put something, then lets each block remember. The mask hides the padding of the source.

# %%
print(inspect.getsource(encoder_decoder.CrossAttention))
print(inspect.getsource(encoder_decoder.Memory.forward))

# %% [markdown]
# ## Train
#
# Three tasks, without an instruction. At every place the prefix is four keys and values for each of two blocks. Memory
# and decoder train for 500 steps, the encoder for 200, as it needs no more; the learning rate is what suits each. Here
# you see one seed; the ledger has ten.


# %%
def learn(method, goal, steps=USUAL, lr=0.3):
    view, _ = adapt(method, goal, lr, seed=0, recipe=Recipe(steps=steps), base="letters-pairs")
    return view


NAMES = {"order": "reverse+plain", "letters": "copy+blue", "both": "reverse+blue"}
GOALS = {name: Pairs(task(words)) for name, words in NAMES.items()}
views, scores = {}, {name: {} for name in GOALS}
for name, goal in GOALS.items():
    for place, steps, lr in (("encoder", SHORT, 0.3), ("memory", USUAL, 0.1), ("decoder", USUAL, 0.3)):
        view = views[name, place] = learn(PrefixTuning(length=4, places=(place,)), goal, steps, lr)
        scores[name][place] = [evaluate(view, goal, 500).accuracy]
print(summary(view))
plots.accuracy_by_place({f"{name}: {GOALS[name]}": found for name, found in scores.items()})
plt.show()

# %% [markdown]
# *Figure: accuracy on unseen examples, one seed. The memory's prefix learns the letters and not the order, the
# decoder's either of them. Only the encoder's learns both at once.*
#
# A fixed vector can do what the word `blue` does: memory and decoder can add one. The order needs other queries or
# other keys. Did they change?

# %%
found = {}
for name, place in (("order", "decoder"), ("both", "encoder"), ("letters", "memory")):
    seen = reading(views[name, place], ": cadgib")
    found[f"{place}'s, {name}"] = seen.cross[0].mean(0), seen.source, seen.answer
plots.where_answers_read(found)
plt.show()

# %% [markdown]
# *Figure: the maps after training, without an instruction. The prefixes of decoder and encoder have turned the order
# round. Behind the memory's, P1 to P4, the answer reads from left to right.*
#
# How far did attention move? We leave out what the prefix gets and scale the rest to 1. The memory gets another chance,
# with sixteen vectors.


# %%
def cross_maps(view):
    """For each block how the first token of the answer divides its attention among the 7 tokens of the source."""
    maps = [block[:, 0, -7:] for block in reading(view, ": cadgib").cross]  # (H, 7)
    return [block / block.sum(-1, keepdim=True) for block in maps]


sixteen = learn(PrefixTuning(length=16, places=("memory",)), GOALS["order"])
print(f"sixteen vectors in front of the memory, order: accuracy {evaluate(sixteen, GOALS['order'], 500).accuracy:.2f}")
trained = {place: views["order", place] for place in ("encoder", "decoder", "memory")} | {"sixteen": sixteen}
moved = {}
for name, view in trained.items():
    pairs = zip(cross_maps(view), cross_maps(model), strict=True)
    moved[name] = [float((after - before).abs().sum(-1).mean() / 2) for after, before in pairs]
    print(f"{name:8} share of attention that moved: block 1 {moved[name][0]:.6f}, block 2 {moved[name][1]:.6f}")

# %% [markdown]
# In block 1 a prefix of the memory moves nothing: that is Petrov's theorem. But what it adds there changes the queries
# of block 2. Four vectors were too few to reverse a word; sixteen suffice.
#
# And in the encoder: which tokens read the prefix?

# %%
seen = reading(views["both", "encoder"], ": cadgib")
plots.prefix_by_token(seen.encoder, seen.source, virtual=4)
plt.show()

# %% [markdown]
# *Figure: how much of its attention each token of the source gives to the encoder's prefix, after training on both.
# Every token reads it, in most heads.*
#
# ## Take it away
#
# Now all three places are trained together, and one prefix is taken away afterwards. Behind a prefix stands the plain
# `begin`.


# %%
def without(view, *places):
    less = copy.deepcopy(view)
    for place in places:
        part = less.get_submodule(place)
        part.begin = part.begin.base
    return less


PLACES, both = ("encoder", "memory", "decoder"), GOALS["both"]
every = learn(PrefixTuning(length=4, places=PLACES), both, SHORT)
print(f"all three: {evaluate(every, both, 500).accuracy:.2f}")
away, alone = {}, {}
for place in PLACES:
    others = [other for other in PLACES if other != place]
    away[place] = evaluate(without(every, place), both, 500).accuracy
    alone[place] = evaluate(without(every, *others), both, 500).accuracy
    print(f"without the {place}'s: {away[place]:.2f}   the {place}'s alone: {alone[place]:.2f}")

# %% [markdown]
# The encoder's prefix does nearly all of the work.
#
# ## What can be done, and what is found
#
# The decoder's prefix knows the order, the memory's the letters. Is `reverse+blue` beyond them? We put the two together
# and train on, for 300 steps at a learning rate of 0.1.


# %%
def hand_over(giver, taker):
    for name, numbers in trainable(giver).items():
        taker.get_parameter(name).data.copy_(numbers)


pair = PrefixTuning(length=4, places=("memory", "decoder")).attach(model)
hand_over(views["order", "decoder"], pair)
hand_over(views["letters", "memory"], pair)
halves = [evaluate(pair, both, 500)]
fit(pair, both, lr=0.1, steps=SHORT * 3 // 2, device="cpu", progress=False)
halves.append(evaluate(pair, both, 500))
for when, score in zip(("put together", "trained on"), halves, strict=True):
    print(f"{when:14} right tokens {score.token_accuracy:.2f}, right answers {score.accuracy:.2f}")

# %% [markdown]
# They *can* do it. Direct training does not find it: the right order alone improves no wrong letter, and right letters
# in the wrong order are wrong.
#
# ## A new duty, and LoRA
#
# Everything is told, but the answer shall stop after three letters. Then LoRA on cross-attention, with 1,024 numbers as
# well.

# %%
duty, learned = Pairs(Mixture(), letters=3), {}
for place in PLACES:
    view = learn(PrefixTuning(length=4, places=(place,)), duty, SHORT)
    learned[place] = evaluate(view, duty, 500).accuracy
    print(f"stop after three letters, {place}'s prefix: {learned[place]:.2f}")
print("    reverse next : cadgib  ", answer(view, "reverse next : cadgib"))
lora = learn(LoRA(rank=2, alpha=4, targets=("cross.q", "cross.v")), GOALS["order"], lr=0.03)
learned["LoRA"] = evaluate(lora, GOALS["order"], 500).accuracy
print(f"order, LoRA on cross-attention: {learned['LoRA']:.2f}   {summary(lora)}")

# %% [markdown]
# Every place learns to stop, so the place matters where something must be read differently. LoRA on cross-attention
# learns the order, which a prefix there did not: it changes the queries themselves.
#
# ## What it costs
#
# We predict: in each of 2 blocks, each of 7 tokens multiplies with $n$ more keys and $n$ more values of width $d$.

# %%
words = encode(": cadgib")[None]  # 7 tokens; the decoder is given as many
started = torch.cat([torch.full((1, 1), CONFIG.start), words[:, 1:]], dim=1)
compared = {place: views["both", place] for place in PLACES}
compared |= {"prompt": PromptTuning(length=4, places=("encoder",)).attach(model)}
work = {}
for name, view in {"base": model, **compared}.items():
    with FlopCounterMode(display=False) as counter, torch.no_grad(), recording(view):
        view(words, started)
    work[name] = counter.get_total_flops() // 2
for name in compared:
    more = work[name] - work["base"]
    print(f"{name:8}{more:8,} multiplications more than {work['base']:,}; predicted {2 * 7 * 2 * 4 * 64:,}")

# %% [markdown]
# A prompt costs more, for its vectors pass through the encoder. What stands before the source is paid once, what stands
# before memory or answer with every token that is written.
#
# ## Break it
#
# Here `remember` replaces what is in the cache. The base never notices.

# %%
wrong = with_mistake("encoder_decoder", "the memory replaces a prefix")
broken = wrong.EncoderDecoder(CONFIG).eval()
broken.load_state_dict(model.state_dict())
told = {}
for name, module, origin in (("right", encoder_decoder, model), ("wrong", wrong, broken)):
    view = PrefixTuning(length=4, places=("memory",)).attach(origin)
    hand_over(views["letters", "memory"], view)
    told[name] = [evaluate(origin, Pairs(Mixture()), 300).accuracy, evaluate(view, GOALS["letters"], 300).accuracy]
    print(name, inspect.getsource(module.CrossAttention.remember).splitlines()[-1])
    print("    accuracy of the base {:.2f}, of the memory's prefix on letters {:.2f}\n".format(*told[name]))

# %% [markdown]
# ## Claims
#
# | claim | seen here? |
# |---|---|
# | In front of the source is enough (Lester) | [yes](claims.md#before_the_source) |
# | A prefix keeps proportions (Petrov) | [in block 1](claims.md#before_the_memory) |
# | The decoder's steers what is written (Li) | [and what is read](claims.md#before_the_answer) |
# | Both stacks need one (Li) | [no](claims.md#prefix_taken_away) |

# %% [markdown]
# ## Exercises
#
# 1. The whole file: `python -m minipeft start encoder_decoder`.
# 2. Tell the order, `Pairs(Told("reverse", "blue"))`: which places learn the letters?
# 3. Can the memory's prefix learn a new table, `copy+violet`?
# 4. LoRA on `cross.q` alone, learning rate 0.03: which tasks?
#
# <details><summary>Answers</summary>
#
# 2: Encoder 1.00, memory 1.00, decoder 0.41. 3: 0.96. 4: Order 0.83, letters and both 0.00.
#
# </details>

# %% [markdown]
# ## In three lines
#
# - Source, memory, answer: a prefix can stand before each.
# - It adds a vector. Where an answer reads depends on keys, which the encoder makes, and on queries.
# - So begin in front of the source.
#
# ```python
# # peft: this prefix stands before the decoder alone, PromptTuningConfig's vectors before the encoder
# config = PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)
# model = get_peft_model(bart, config)
# ```

# %% tags=["hide-input"]
assert max(moved["memory"][0], moved["sixteen"][0]) < 1e-4
assert set(work[name] - work["base"] for name in PLACES) == {2 * 7 * 2 * 4 * 64}
if not FAST:
    assert min(scores[name]["encoder"][0] for name in GOALS) > 0.97
    assert min(scores["order"]["decoder"][0], scores["letters"]["memory"][0]) > 0.8
    assert max(scores["order"]["memory"][0], scores["both"]["memory"][0], scores["both"]["decoder"][0]) < 0.5
    assert away["encoder"] < 0.1 < 0.7 < min(alone["encoder"], away["memory"], away["decoder"])
    assert halves[0].accuracy < 0.1 < 0.8 < halves[1].accuracy
    assert min(learned.values()) > 0.9
    assert told["wrong"][0] > 0.95 > 0.1 > told["wrong"][1]
