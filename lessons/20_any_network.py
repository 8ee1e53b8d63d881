# %% [markdown]
# # 20 · Any network: LoRA without a Transformer
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 40 minutes to read and run · 80 with exercises | ●●○ | lesson 10 | 35 s on a CPU |
#
# After this lesson you can adapt a convolutional network and an LSTM, write LoRA for both, and say which of their
# weights a new task needs, and what rank.

# %% [markdown]
# ## What the papers did
#
# Hu et al. 2021 ([arXiv:2106.09685](https://arxiv.org/abs/2106.09685)) put LoRA on the attention of Transformers.
# "In principle", they write, it can be applied to "any subset of weight matrices in a neural network". Yeh et al. 2023
# ([arXiv:2309.14859](https://arxiv.org/abs/2309.14859)) apply it to the convolutions of an image generator as well, in
# their library LyCORIS.

# %% [markdown]
# ## First, guess
#
# 1. Which of these can be attached to a convolutional network: full fine-tuning, BitFit, LoRA, a prompt, a prefix, an
#    adapter?
# 2. An LSTM has one matrix for its input and one for its state. Which should LoRA change to learn a new table of
#    letters?
# 3. We add a random update of rank 4 to a matrix. Does LoRA need rank 4 to imitate the changed network? Does full
#    fine-tuning find an update of rank 4?

# %%
import inspect
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from minipeft import BitFit, Full, LoRA, Pfeiffer, PrefixTuning, PromptTuning, base, check, evaluate, fit, merge, plots

from minipeft import quiz, trainable  # isort: skip
from minipeft.classroom import with_mistake
from minipeft.deltas import updates
from minipeft.lab import adapt
from minipeft.methods import LinearProbe, lora
from minipeft.models.torch_nets import ConvNet
from minipeft.tasks import decode
from minipeft.training import Recipe
from minipeft.worlds.memory import Sums, by_letter, imitate, planted, pretraining
from minipeft.worlds.pictures import Digits

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, RECIPE, PICTURES = ([0], Recipe(steps=20), Recipe(steps=10)) if FAST else ([0, 1], Recipe(), Recipe(steps=300))
OURS = [inspect.getsource(body) for body in (lora.LoRAConv2d.forward, lora.LoRAConv2d.delta)]

# %% [markdown]
# ## Two networks
#
# The ConvNet has learned to read 118 printed characters, and the LSTM has learned sums of letters. Both consist of
# PyTorch's own modules. We adapt the ConvNet first, and then the LSTM.
#
# In a Transformer, the methods of this course step in at three doors: a weight, a sublayer, and the beginning of a
# sequence. These two networks have no sublayers, and a picture is no sequence. So we use the first door.

# %%
conv, lstm = base("characters-conv"), base("letters-lstm")
plots.one_door()
plt.show()
for name, weight in [*conv.named_parameters(), *lstm.named_parameters()]:
    if weight.ndim > 1:
        print(f"{name:18} {tuple(weight.shape)}")

# %% [markdown]
# *Figure: the ConvNet, above, and the LSTM, below. The 1 marks each weight: the first of the three doors.*
#
# ## Which methods can be attached?
#
# We attach each method to the ConvNet and read what the others say.

# %%
kernels = ("conv1", "conv2", "conv3")
for method in (Full(), BitFit(), LoRA(targets=kernels), PromptTuning(), PrefixTuning(), Pfeiffer()):
    try:
        view = method.attach(conv)
        print(f"{method}: trains {sum(p.numel() for p in trainable(view).values()):,} numbers\n")
    except (TypeError, ValueError) as error:
        print(f"{method}: {error}\n")

# %% [markdown]
# Guess 1: full fine-tuning, BitFit and LoRA. They need weights and biases, which every network has. A prompt needs a
# sequence, and a prefix needs attention. Our adapters need a sublayer of a Transformer, such as its `mlp`. (The LSTM
# does read a sequence: exercise 4 gives it a prompt.)

# %% [markdown]
# ## A convolution on a 4 × 4, by hand
#
# A convolution multiplies each patch $p$ by a kernel $W$ (out, in, k, k). A patch holds $\text{in}\cdot k^2$ numbers,
# so the kernel *is* a matrix of out rows and $\text{in}\cdot k^2$ columns. LoRA adds $BA$ to it:
#
# $$(W + s\,BA)\,p = Wp + s\,B(Ap)$$
#
# The right side needs no new kernel. $A$ is a k × k convolution with $r$ channels, and $B$ mixes these channels at each
# pixel.

# %%
x = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])[None, None]  # one picture, one channel
W = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]  # (out, in, 3, 3)
A = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])[None, None]  # r = 1: it finds vertical edges
B = torch.tensor([[0.5]])  # (out, r)

h = F.conv2d(x, A)  # (1, r, 2, 2): a 3 × 3 kernel fits into a 4 × 4 picture at four places
beside = F.conv2d(x, W) + F.conv2d(h, B[:, :, None, None])
kernel = W + (B @ A.flatten(1)).view_as(W)  # (out, r) times (r, in·k²), then in the kernel's shape
print("what A sees at the four places:", h.flatten().tolist())
print("LoRA beside the kernel:        ", beside.flatten().tolist())
print("LoRA merged into the kernel:   ", F.conv2d(x, kernel).flatten().tolist())

# %% [markdown]
# The last two lines are equal, so LoRA can be merged. `A.flatten(1)` is A as a matrix (r, in·k²), and `view_as` gives
# the product the shape of the kernel.
#
# ## Write it: LoRA on a convolution
#
# `LoRAConv2d` wraps a frozen convolution, `self.base`. Its `A` has to see the patches that the base sees.
# `self.base._conv_forward(x, kernel, None)` convolves x with another kernel, without a bias, and with the base's
# stride, padding and dilation. `self.dropout` acts on the input of A.


# %%
class LoRAConv2d(lora.LoRAConv2d):
    def forward(self, x):  # (B, in, Y, X) → (B, out, Y', X'), with self.A (r, in, k, k), self.B (out, r), self.scale
        """The frozen convolution's output, plus s·B (A ∗ dropout(x))."""
        raise NotImplementedError("your turn, 2 lines")

    def delta(self):  # ΔW in the shape of self.base.weight, (out, in, k, k)
        raise NotImplementedError("your turn, 1 line")


check("any_network", LoRAConv2d, use=True)

# %% [markdown]
# ## The source, revealed
#
# The convolution with `A` comes first; it leaves $r$ channels. `B` is then a 1 × 1 convolution. `delta` is the
# product from the example by hand.

# %%
plots.lora_convolution()
plt.show()
print(*OURS, sep="\n")

# %% [markdown]
# *Figure: LoRA beside a frozen convolution. A has the kernel's size and r channels; B has one pixel and mixes them.*
#
# ## Train it: handwritten digits
#
# The ConvNet has read printed characters. Now it gets 50 handwritten digits of each kind, dark on uneven paper, and a
# fresh head. We train for 300 steps.

# %%
head = {"classes": 10, "head_lr": 1e-2}
on_paper, unseen = Digits(paper=True), Digits("test", paper=True)
methods = {"head alone": (LinearProbe(**head), 1e-2), "full fine-tuning": (Full(**head), 3e-3)}
methods["LoRA, rank 8"] = LoRA(rank=8, alpha=16, targets=kernels, **head), 3e-2
wrong, views = {}, {}
for name, (method, lr) in methods.items():
    views[name], _ = adapt(method, on_paper, lr, 0, PICTURES, "characters-conv", examples=50)
    wrong[name] = 100 * (1 - evaluate(views[name], unseen).accuracy)
    print(f"{name:16} {wrong[name]:.2f} % of the answers to unseen digits are wrong")

# %% [markdown]
# LoRA works on convolutions: like full fine-tuning, it makes fewer errors than the fresh head alone.
#
# But one control is missing, and it is often forgotten: the same network trained from scratch, without any pretraining.
# Where will it stand among the three?

# %%
torch.manual_seed(0)
scratch = ConvNet(replace(conv.config, classes=10))
fit(scratch, Digits(each=50, paper=True), lr=3e-3, device="cpu", progress=False, **PICTURES.settings())
wrong["from scratch"] = 100 * (1 - evaluate(scratch, unseen).accuracy)
plots.bars(wrong, label="wrong answers to unseen digits (%)")
plt.show()

# %% [markdown]
# *Figure: wrong answers to 2,000 unseen digits; one seed. Training from scratch makes about as few errors as full
# fine-tuning and LoRA.*
#
# So this pretraining helps little, with 50 digits of each kind. Over ten seeds in the [ledger](claims.md#any_network),
# 5.1 % of the answers are wrong with full fine-tuning, 6.5 % with LoRA and 7.0 % from scratch.

# %% [markdown]
# ## The LSTM: a weight without a module
#
# A wrapper stands in front of a module, but $W_{hh}$ is none: the LSTM reads its parameter `weight_hh_l0` directly. So
# our wrapper stands in front of the whole LSTM. PyTorch's `functional_call` runs it with other weights than its own:
#
# ```python
# def forward(self, *args, **kwargs):
#     return functional_call(self.base, self.weights(), args, kwargs)
# ```
#
# ## Write it: LoRA on a weight
#
# `self.weights()` calls a `LoRAWeight` for each matrix that is to change. It gets the frozen weight and returns the
# weight to run with.


# %%
class LoRAWeight(lora.LoRAWeight):
    def forward(self, weight):
        """W + ΔW; the frozen weight itself must not change."""
        raise NotImplementedError("your turn, 1 line")

    def delta(self):  # ΔW in the shape self.shape, from self.A (r, in), self.B (out, r) and self.scale
        raise NotImplementedError("your turn, 1 line")


check("any_network", LoRAWeight, use=True)

# %% [markdown]
# <details><summary>Our two lines, once you have tried</summary>
#
# ```python
# return weight + self.delta()  # forward
# return self.scale * (self.B @ self.A).view(self.shape)  # delta
# ```
#
# </details>
#
# ## The LSTM's task
#
# A table maps each letter to another, its image. The network answers each letter with its image plus the image of the
# letter before, modulo 16 (a to p are 0 to 15). At the first letter, nothing is added.
#
# In `blue`, `m` becomes 4 and `p` becomes 2. So `mp` is answered by 4 and 2 + 4 = 6, which are `e` and `g`.

# %%
for table in ("blue", "violet"):
    batch = Sums(table).batch(1, torch.Generator().manual_seed(0))
    print(f"{table:7} letters {decode(batch.tokens[0, 1:])}   answers {decode(batch.targets[0, 1:])}")
    print(f"        accuracy of the base without the table's name: {evaluate(lstm, Sums(table)).accuracy:.2f}")
print(f"with the name, blue: {evaluate(lstm, Sums('blue', instructed=True)).accuracy:.2f}")

# %% [markdown]
# The base has practised `blue`, but it needs the name as the first token. It has never seen `violet`.
#
# ## A known table
#
# An LSTM computes its gates from $W_{ih}x + W_{hh}h + b$. Here $x$ is the letter, and the state $h$ carries the letter
# before. We train LoRA of rank 1 on one matrix, or the biases alone (BitFit), for the standard 500 steps. BitFit also
# tries `violet`: we count its right answers at each letter.

# %%
IH, HH = "rnn.weight_ih_l0", "rnn.weight_hh_l0"


def score(method, table, lr=3e-2, seed=0):
    view, _ = adapt(method, Sums(table), lr, seed, RECIPE, base="letters-lstm")
    return evaluate(view, Sums(table)).accuracy


def lora_on(rank, *names):
    return LoRA(rank=rank, alpha=2 * rank, targets=names)


known = {"LoRA on W_ih": score(lora_on(1, IH), "blue"), "LoRA on W_hh": score(lora_on(1, HH), "blue")}
known["BitFit"] = score(BitFit(), "blue", lr=1e-1)
by_bias, _ = adapt(BitFit(), Sums("violet"), 1e-1, 0, RECIPE, base="letters-lstm")
right_by_bias = by_letter(by_bias, Sums("violet"))
for name, value in known.items():
    print(f"blue, {name:13} {value:.2f}")
print("violet, BitFit, right answers at letters 1 to 6:", " ".join(f"{share:.2f}" for share in right_by_bias))

# %% [markdown]
# All three reach 1.00 on `blue`, so it cannot tell the methods apart. A known table has only to be *selected*. A bias
# can do that: it adds the same vector to the gates at every letter, a constant *push*.
#
# On `violet`, BitFit has all first answers right: the gates are nonlinear, so one push can change every letter's image.
# But the later answers depend on two letters, and the same push at each is not enough.

# %% [markdown]
# ## A new table
#
# Which matrix can hold it? We compare LoRA with about the same number of parameters: rank 4 in both matrices (3,584),
# rank 8 in the input's (3,328) or rank 8 in the state's (3,840). Then we free each matrix in full. The learning rate is
# 0.03 for all; there are two seeds.

# %%
places = {"both, rank 4": lora_on(4, IH, HH), "W_ih, rank 8": lora_on(8, IH), "W_hh, rank 8": lora_on(8, HH)}
places |= {"W_ih, full": Full(targets=(IH,)), "W_hh, full": Full(targets=(HH,))}
new = {name: [score(method, "violet", seed=seed) for seed in SEEDS] for name, method in places.items()}
plots.bars(new, colour=plots.HUES["LoRA"])
plt.show()

# %% [markdown]
# *Figure: accuracy on the new table, mean of two seeds with a dot for each. Rank 4 in both matrices is ahead of rank 8
# in one, and the state's matrix alone is far behind. In full, either matrix alone reaches 0.98.*
#
# Guess 2: at low rank, both; the input's alone comes close. Ten seeds, with learning rates tuned for each, say the same
# ([ledger](claims.md#lstm_places)).

# %% [markdown]
# Why is `W_hh` in full enough, although it never reads the present letter? BitFit has shown that one push of the gates
# can give one table. After a given letter, the answer is a table of the present letter. So the LSTM needs one push for
# each letter before. `W_hh` can give it, because it reads the state, and the state knows the letter before. (At
# learning rate 0.3, such pushes alone reach 0.99 or more with three seeds.)

# %% [markdown]
# ## What was learned
#
# Nobody knows which rank the update for `violet` should have. So we plant an update whose rank we know. The **teacher**
# is the base with $W_{hh}+\Delta W$, where $\Delta W$ is random and of rank 4. The **student** is the base with LoRA on
# `W_hh`, or with all of `W_hh` free. `imitate` trains the student to give the teacher's logits. It returns the squared
# error that is left, as a share of the bare base's.

# %%
teacher = planted(lstm, rank=4, seed=0)


def imitation(method, lr=3e-2, seed=0):
    torch.manual_seed(seed)
    student = method.attach(lstm)
    return student, imitate(student, teacher, lr, seed, RECIPE.steps)


errors = {}
for rank in (3, 4, 5):
    errors[rank] = [imitation(lora_on(rank, HH), seed=seed)[1] for seed in SEEDS]
    print(f"LoRA of rank {rank} leaves", ", ".join(f"{error:.4f}" for error in errors[rank]))
by_full, full_error = imitation(Full(targets=(HH,)), lr=1e-2)
print(f"full fine-tuning leaves {full_error:.4f}")

# %% [markdown]
# LoRA's error falls off a cliff at the planted rank, as in the head of a Transformer in lesson 10. In the
# [ledger](claims.md#planted_in_lstm), ten seeds say the same.
#
# But all of `W_hh`, with its 36,864 numbers, leaves more than LoRA of rank 4, at the best of three learning rates. We
# compare the singular values.

# %%
by_lora, _ = imitation(lora_on(4, HH))
found = {"planted": teacher.get_parameter(HH) - lstm.get_parameter(HH)}
_, found["LoRA, rank 4"] = updates(by_lora)[HH]  # W, ΔW
_, found["full fine-tuning"] = updates(by_full)[HH]
plots.spectrum(found, first=10)
plt.show()

# %% [markdown]
# *Figure: singular values of the update, divided by the largest. The planted update and LoRA's end after four. Full
# fine-tuning finds four large ones, and behind them a long tail, which begins at a fifth of the largest.*
#
# Guess 3: LoRA needs rank 4. Full fine-tuning finds four large directions, but nothing forces the others to zero, and
# in 500 steps its error stays larger. Where the true update has low rank, LoRA's limit is a help.

# %% [markdown]
# ## What it costs
#
# We predict for rank 8. Beside a kernel, LoRA has $r\,(\text{in}\cdot k^2+\text{out})$ numbers. In an LSTM with input
# $d$ and state $h$, each matrix has $4h$ rows, $h$ for each of four gates. Beside it, LoRA has $r\,(4h+d)$ or
# $r\,(4h+h)$.

# %%
r = 8
predicted = {"conv1": r * (1 * 9 + 16), "conv2": r * (16 * 9 + 32), "conv3": r * (32 * 9 + 64)}
predicted |= {IH: r * (4 * 96 + 32), HH: r * (4 * 96 + 96)}
measured = {}
for name, numbers in predicted.items():
    network, weight = (conv, f"{name}.weight") if name in kernels else (lstm, name)
    view = LoRA(rank=r, targets=(name,)).attach(network)
    measured[name] = sum(p.numel() for p in trainable(view).values())
    frozen = network.get_parameter(weight).numel()
    print(f"{name:17} predicted {numbers:5,}, measured {measured[name]:5,}; the weight itself {frozen:6,}")

# %% [markdown]
# The predictions are exact. Look at `conv1`: LoRA has *more* numbers than the kernel itself, because a matrix of
# 16 × 9 has no room for two factors of rank 8. Low rank saves only where both sides of the matrix are large.
#
# ## Break it
#
# Two mistakes that raise no error. What will each one show?
#
# ```python
# self.scale * (self.B @ self.A.flatten(1)).view_as(self.base.weight)               # right: (out, in·k²)
# self.scale * (self.A.flatten(1).T @ self.B.T).reshape(self.base.weight.shape)     # broken 1: (in·k², out)
# ```
#
# ```python
# return weight + self.delta()                          # right: makes a new tensor
#
# weight.data += self.delta().detach()                  # broken 2: writes ΔW into the frozen weight
# return weight + self.delta() - self.delta().detach()  # (value and gradient of this step are right)
# ```

# %%
exchanged = with_mistake("any_network", "axes of delta exchanged")
broken = exchanged.LoRA(rank=8, alpha=16, targets=kernels, **head).attach(conv)
broken.load_state_dict(views["LoRA, rank 8"].state_dict())
shown = {}
for name, view in {"right": views["LoRA, rank 8"], "axes exchanged": broken}.items():
    shown[name] = evaluate(view, unseen).accuracy, evaluate(merge(view), unseen).accuracy
    print(f"{name}: accuracy {shown[name][0]:.2f} unmerged, {shown[name][1]:.2f} merged")

spoilt, victim = with_mistake("any_network", "changed in place"), base("letters-lstm")
before = evaluate(victim, pretraining).accuracy
view = spoilt.LoRA(rank=4, targets=(HH,)).attach(victim)
fit(view, Sums("violet"), lr=3e-2, steps=20, device="cpu", progress=False)
after = evaluate(victim, pretraining).accuracy
print(f"changed in place: the base on its pretraining task {before:.2f}, after 20 steps on a view of it {after:.2f}")

# %% [markdown]
# With the first mistake, ΔW has the right shape and wrong contents. Training never calls `delta` of a convolution, so
# only the merged model fails. With the second, training looks as usual, and the base that others share is lost.
#
# Two tests of one line catch them: merged and unmerged outputs are equal; the base's weights are the same to the last
# bit after training.

# %% [markdown]
# ## Seen here or not
#
# | claim | here | ledger: ten seeds |
# |---|---|---|
# | LoRA fits any weight matrix (Hu) | yes: kernels, W_ih, W_hh | [supported](claims.md#any_network) |
# | LoRA finds a planted rank, and not below | yes, at 4 | [supported](claims.md#planted_in_lstm) |
# | on a new table, both matrices at rank 4 beat one at rank 8 | yes: 0.98, 0.95 | [supported](claims.md#lstm_places) |

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* `score(lora_on(r, IH, HH), "violet")` for r = 1, 2, 4, 8: from which rank is the table
#    learned?
# 2. *Predict, then measure.* Plant in the other matrix: `planted(lstm, rank=4, seed=0, place=IH)`. Can LoRA of rank 4
#    or 16 on `W_hh` imitate it, or all of `W_hh`?
# 3. *Find the mistake.* A `forward` has `h = F.conv2d(self.dropout(x), self.A, padding=1)`. On our ConvNet it is right.
#    For which convolutions is it wrong without an error?

# %% [markdown]
# 4. *Write it.* A prompt for the frozen LSTM (`h, _ = rnn(embed(tokens))`, then `head(h)`): four learned vectors
#    replace the first token's, and the logits begin at the last of them. Does `fit` teach it `blue`? And `violet`?
# 5. *Write it.* Teach it `violet` without training: move rows of its embedding. `BOS` must be read as `blue`, and each
#    letter as the one whose `blue` image is its own `violet` image. (`minipeft.tasks` has `TABLES`, `BOS`,
#    `FIRST_LETTER`, `ID`.)

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: From rank 4: 0.00, 0.34, 0.99, 1.00 (seed 0).
#
# 2: No: 0.48, 0.43, and 0.39 for all of `W_hh` at a learning rate of 0.01 (seeds 0, 1). It pushes without knowing the
# present letter. Such a push can make the right logit the largest, but here it fails to set all of them.
#
# 3: Those with padding 2 and dilation 2, or `padding_mode="circular"`. With stride 2 the shapes differ, which is an
# error.
#
# ```python
# class Prompted(torch.nn.Module):  # 4
#     def __init__(self, network, length=4):
#         super().__init__()
#         self.network = network.requires_grad_(False)
#         self.prompt = torch.nn.Parameter(torch.randn(length, network.config.dim))
#
#     def forward(self, tokens):
#         x = self.network.embed(tokens[:, 1:])
#         h, _ = self.network.rnn(torch.cat([self.prompt.expand(len(x), -1, -1), x], dim=1))
#         return self.network.head(h[:, len(self.prompt) - 1 :])
#
#
# for table in ("blue", "violet"):
#     for seed in (0, 1):
#         torch.manual_seed(seed)
#         model = Prompted(base("letters-lstm"))
#         fit(model, Sums(table), lr=0.3, seed=seed, device="cpu", progress=False)
#         print(table, evaluate(model, Sums(table)).accuracy)  # blue 1.0, 1.0; violet 0.0, 0.001
# # the prompt sets the state, so it selects a known table, as the name does; it writes no new one
# ```
#
# ```python
# from minipeft.tasks import BOS, FIRST_LETTER, ID, TABLES  # 5
#
# network, letters = base("letters-lstm"), slice(FIRST_LETTER, FIRST_LETTER + 16)
# E = network.embed.weight.data
# old = E.clone()
# same_image = torch.argsort(TABLES["blue"])[TABLES["violet"]]  # blue maps this letter to what violet asks for
# E[letters], E[BOS] = old[letters][same_image], old[ID["blue"]]  # and BOS is read as the word "blue"
# # the letters change places in 7 cycles, so their rows change by rank 16 − 7 = 9; BOS adds one: rank 10
# print(torch.linalg.matrix_rank(E - old), evaluate(network, Sums("violet")).accuracy)  # 10, 1.0
# print(score(Full(targets=("embed.weight",)), "violet", lr=1e-1))  # 0.01: training does not find it
# ```
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions that an interviewer might ask. Write a letter for each, such as `answers="abcda"`, and run the cell.

# %%
quiz("20_any_network", answers="")

# %% [markdown]
# ## In three lines
#
# - LoRA needs a weight with a name. A prompt needs a sequence, and a prefix needs attention.
# - A kernel is a matrix (out, in·k²): A is a convolution with r channels, and B mixes them at each pixel.
# - A bias can select a known skill; a new one needs a change of matrices. Compare with training from scratch
#   before you fine-tune.
#
# The same in peft, the reference library:
#
# ```python
# from peft import LoraConfig
#
# LoraConfig(target_modules=["conv1", "conv2", "conv3"])  # convolutions
# LoraConfig(target_modules=[], target_parameters=["rnn.weight_hh_l0"])  # a weight by its name
# ```
#
# Papers: LoRA [2106.09685](https://arxiv.org/abs/2106.09685), LyCORIS
# [2309.14859](https://arxiv.org/abs/2309.14859).

# %% tags=["hide-input"]
assert torch.allclose(beside, F.conv2d(x, kernel))
assert abs(shown["right"][0] - shown["right"][1]) < 1e-2
assert measured == predicted
if not FAST:
    assert min(*known.values(), right_by_bias[0]) > 0.95
    assert max(right_by_bias[1:]) < 0.25
    assert min(new["both, rank 4"]) > 0.9 > 0.6 > max(new["W_hh, rank 8"])
    assert min(new["both, rank 4"]) > max(new["W_ih, rank 8"]) > min(new["W_ih, rank 8"]) > max(new["W_hh, rank 8"])
    assert max(errors[4]) < 0.01 * min(errors[3])
    assert max(errors[4]) < 5 * min(errors[5])
    assert full_error > 10 * errors[4][0]
    assert max(wrong["LoRA, rank 8"], wrong["full fine-tuning"]) < wrong["head alone"]
    assert abs(wrong["from scratch"] - wrong["LoRA, rank 8"]) < 3
    assert shown["axes exchanged"][1] < shown["axes exchanged"][0] - 0.3
    assert after < 0.1 < 0.95 < before
