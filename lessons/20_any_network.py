# %% [markdown]
# # 20 · Any network: LoRA without a Transformer
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 60 minutes | ●●○ | lesson 10 | a minute on a CPU |
#
# You will adapt a convolutional network and an LSTM, write LoRA for both, and find out which weights a new task needs.

# %% [markdown]
# ## What the papers did and claimed
#
# Hu et al. 2021 put LoRA on the attention of Transformers. "In principle", they write, it fits "any subset of weight
# matrices in a neural network". Yeh et al. 2023 ([LyCORIS](https://arxiv.org/abs/2309.14859)) put it on the
# convolutions of an image generator.

# %% [markdown]
# ## Predict
#
# 1. Which methods of lessons 2 to 14 work on a convolutional network?
# 2. An LSTM has one matrix for its input and one for its state. Which must change to learn a new symbol table?
# 3. A weight was changed by a matrix of rank 4. Will LoRA need rank 4 to imitate it?

# %%
import inspect
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from minipeft import BitFit, Full, LoRA, Pfeiffer, PrefixTuning, PromptTuning, base, check, evaluate, fit, merge, plots

from minipeft import targets, trainable  # isort: skip
from minipeft.classroom import with_mistake
from minipeft.deltas import updates
from minipeft.lab import adapt
from minipeft.methods import LinearProbe, lora
from minipeft.models.torch_nets import ConvNet
from minipeft.tasks import BOS, FIRST_LETTER, ID, TABLES, decode
from minipeft.training import Recipe
from minipeft.worlds.memory import Sums, imitate, planted, pretraining
from minipeft.worlds.pictures import Digits

# %% tags=["hide-input"]
torch.set_num_threads(1)
FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and seeds, for a quick check
SEEDS, RECIPE, PICTURES = ([0], Recipe(steps=20), Recipe(steps=10)) if FAST else ([0, 1], Recipe(), Recipe(steps=300))

# %% [markdown]
# ## Two networks
#
# The ConvNet was pretrained on 118 printed characters, the LSTM on sums of letters. A method steps into a Transformer
# at one of three doors: a weight, the residual stream, the front of the sequence. Here only the first is left.

# %%
conv, lstm = base("characters-conv"), base("letters-lstm")
plots.one_door()
plt.show()
for name, weight in [*conv.named_parameters(), *lstm.named_parameters()]:
    if weight.ndim > 1:
        print(f"{name:18} {tuple(weight.shape)}")

# %% [markdown]
# *Figure: both networks, with a door at each weight.*
#
# ## Which methods have a meaning here?
#
# Guess 1. A prompt must be read by attention, and an adapter is added to a residual stream: there is neither. Weights
# and biases are everywhere. Attach each method, and read what the others say.

# %%
kernels = ("conv1", "conv2", "conv3")
methods = (Full(), BitFit(), LoRA(targets=kernels), LoRA(), PromptTuning(), PrefixTuning(), Pfeiffer())
for method in methods:
    try:
        view = method.attach(conv)
        print(f"{method}: trains {sum(p.numel() for p in trainable(view).values()):,} numbers\n")
    except (TypeError, ValueError) as error:
        print(f"{method}: {error}\n")

# %% [markdown]
# ## By hand: LoRA on a convolution
#
# A kernel $W$ (out, in, k, k) multiplies each patch of k × k pixels: it is a matrix with in · k² columns. LoRA adds two
# factors. $A$ is a k × k convolution with $r$ channels; $B$ mixes them at each pixel:
#
# $$y = W * x + s\,B\,(A * x)$$

# %%
x = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])[None, None]  # one picture, one channel
W = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]  # (out, in, 3, 3)
A = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])[None, None]  # r = 1: it finds vertical edges
B = torch.tensor([[0.5]])  # (out, r)

h = F.conv2d(x, A)  # (1, r, 2, 2): a 3 × 3 kernel fits into a 4 × 4 picture four times
beside = F.conv2d(x, W) + F.conv2d(h, B[:, :, None, None])
kernel = W + (B @ A.flatten(1)).view_as(W)  # the merged kernel
print("A ∗ x =", h.flatten().tolist())
print("beside the kernel:", beside.flatten().tolist())
print("merged into it:   ", F.conv2d(x, kernel).flatten().tolist())

# %% [markdown]
# ## Write it
#
# `LoRAConv2d` stands in front of a convolution. `LoRAWeight` is handed any weight and returns W + ΔW. Fill in the four
# bodies. What follows runs with ours. The whole file: `python -m minipeft start any_network`.


# %%
class LoRAConv2d(lora.LoRAConv2d):
    def forward(self, x):  # x (B, in, Y, X); self.base, self.A (r, in, k, k), self.B (out, r), self.scale, self.dropout
        raise NotImplementedError("your turn")

    def delta(self):  # (out, in, k, k)
        raise NotImplementedError("your turn")


class LoRAWeight(lora.LoRAWeight):
    def forward(self, weight):  # the frozen weight → the weight that the network runs with
        raise NotImplementedError("your turn")

    def delta(self):  # self.A (r, in), self.B (out, r), self.scale, self.shape
        raise NotImplementedError("your turn")


check("any_network", LoRAConv2d, LoRAWeight)

# %% [markdown]
# ## The source, revealed
#
# $A$ must see what the base sees, so it borrows the base's stride, padding and dilation. The LSTM's matrices belong to
# no module of their own. Their owner is called with other weights, through PyTorch's `functional_call`.

# %%
plots.lora_convolution()
plt.show()
for body in (lora.LoRAConv2d.forward, lora.LoRAConv2d.delta, lora.LoRAWeight.delta, targets.Reweighted.forward):
    print(inspect.getsource(body))

# %% [markdown]
# *Figure: LoRA beside a convolution. A has the kernel's size, B has one pixel.*
#
# ## The LSTM's task
#
# A symbol table maps each letter to another one, its image. The network answers with sums: the image of each letter
# plus that of the letter before. $W_{ih}$ reads the letter, and $W_{hh}$ reads the memory.

# %%
for table in ("blue", "violet"):
    batch = Sums(table).batch(1, torch.Generator().manual_seed(0))
    print(f"{table:7} letters {decode(batch.tokens[0, 1:])}   answers {decode(batch.targets[0, 1:])}")
    print(f"        the base answers {evaluate(lstm, Sums(table)).accuracy:.2f} of the unseen examples exactly")
print(f"with the table's name, blue: {evaluate(lstm, Sums('blue', instructed=True)).accuracy:.2f}")

# %% [markdown]
# The base knows `blue`, but here BOS stands where the table's name would. It has never seen `violet`. First the known
# table: LoRA of rank 1 on one matrix, and BitFit, which trains the LSTM's two bias vectors and the head's. LoRA's
# learning rate is 0.03.

# %%
IH, HH = "rnn.weight_ih_l0", "rnn.weight_hh_l0"


def score(method, table, lr=3e-2, seed=0):
    view, _ = adapt(method, Sums(table), lr, seed, RECIPE, base="letters-lstm")
    return evaluate(view, Sums(table)).accuracy


def lora_on(rank, *names):
    return LoRA(rank=rank, alpha=2 * rank, targets=names)


known = {name: score(lora_on(1, place), "blue") for name, place in {"W_ih": IH, "W_hh": HH}.items()}
biases = {table: score(BitFit(), table, lr=1e-1) for table in ("blue", "violet")}
print("blue, with LoRA of rank 1:", *(f"on {name} {accuracy:.2f}" for name, accuracy in known.items()))
print("BitFit:", *(f"{table} {accuracy:.2f}" for table, accuracy in biases.items()))

# %% [markdown]
# A known table only has to be *selected*: a constant added to the gates does it, and that is all a bias can add. A new
# table has to be *written*. Which matrix can hold it? We give each about the same number of parameters.

# %%
places = {"both, r = 4": lora_on(4, IH, HH), "W_ih, r = 8": lora_on(8, IH), "W_hh, r = 8": lora_on(8, HH)}
new = {name: [score(method, "violet", seed=seed) for seed in SEEDS] for name, method in places.items()}
for name, method in {"W_ih, full": Full(targets=(IH,)), "W_hh, full": Full(targets=(HH,))}.items():
    new[name] = [score(method, "violet", seed=seed) for seed in SEEDS]
plots.bars(new, colour=plots.HUES["LoRA"])
plt.show()

# %% [markdown]
# *Figure: accuracy on the new table, a dot for each of two seeds. Rank 4 in both matrices beats rank 8 in one. In full,
# either matrix is nearly enough.*
#
# Guess 2: both, if the rank is small; `W_ih` matters more. Ten seeds are in the [ledger](claims.md#lstm_places).
#
# ## How low can the rank be?

# %%
by_rank = {rank: [score(lora_on(rank, IH, HH), "violet", seed=seed) for seed in SEEDS] for rank in (1, 2, 8)}
by_rank = {rank: by_rank.get(rank, new["both, r = 4"]) for rank in (1, 2, 4, 8)}
plots.accuracy_by_size({"LoRA": by_rank}, xlabel="rank of both updates")
plt.show()

# %% [markdown]
# *Figure: accuracy against the rank in both matrices. Rank 1 learns nothing, rank 4 nearly everything.*
#
# ## A solution that training does not find
#
# Exchange rows of the *embedding* by hand. Each letter gets the row of the letter whose image under `blue` is what
# `violet` asks for; BOS gets the row of the word `blue`.

# %%
by_hand, letters = base("letters-lstm"), slice(FIRST_LETTER, FIRST_LETTER + 16)
E = by_hand.embed.weight.data
same_image = torch.argsort(TABLES["blue"])[TABLES["violet"]]  # blue maps this letter to what violet asks for
change = torch.zeros_like(E)
change[letters] = E[letters][same_image] - E[letters]
change[BOS] = E[ID["blue"]] - E[BOS]
E += change
accuracy = evaluate(by_hand, Sums("violet")).accuracy
print(f"by hand, without training: rank {torch.linalg.matrix_rank(change)}, accuracy {accuracy:.3f}")
for lr in (1e-2, 1e-1):
    print(f"trained embedding, learning rate {lr}: accuracy {score(Full(targets=('embed.weight',)), 'violet', lr):.3f}")

# %% [markdown]
# A change of rank 10 in one matrix solves the task exactly. Gradient descent on the same matrix does not come near it
# in 500 steps.
#
# ## Plant a rank
#
# The teacher is the base with $W_{hh} + \Delta W$, where $\Delta W$ is random and of rank 4. LoRA on `W_hh` is trained
# to give the teacher's logits.

# %%
teacher = planted(lstm, rank=4, seed=0)


def imitation(method, lr=3e-2):
    torch.manual_seed(0)
    student = method.attach(lstm)
    return student, imitate(student, teacher, lr, steps=RECIPE.steps)


students = {rank: imitation(lora_on(rank, HH)) for rank in (1, 2, 3, 4, 5)}
errors = {rank: [error] for rank, (_, error) in students.items()}
plots.error_by_rank(errors, true_rank=4)
plt.show()

# %% [markdown]
# *Figure: squared error of the logits over that of the bare base. From rank 3 to 4 it falls by a factor of several
# hundred.* One seed here; ten are in the [ledger](claims.md#planted_in_lstm).
#
# ## What does full fine-tuning find?
#
# The same with all of `W_hh` free: the singular values of each change, largest first.

# %%
full, error = imitation(Full(targets=(HH,)), lr=1e-2)
found = {"planted": teacher.get_parameter(HH) - lstm.get_parameter(HH)}
found |= {name: updates(m)[HH][1] for name, m in {"Full": full, "LoRA(rank=4)": students[4][0]}.items()}
plots.spectrum(found, first=10)
plt.show()
print(f"error of full fine-tuning {error:.4f}, of LoRA {students[4][1]:.4f}")

# %% [markdown]
# *Figure: the planted change and LoRA's end after four singular values. Full fine-tuning finds four large ones too, and
# a long tail.* Guess 3: yes, here.
#
# ## Handwritten digits with the ConvNet
#
# The base reads printed characters. Now digits on paper, 50 of each, with a fresh head. From scratch: the same network
# without pretraining.

# %%
head = {"classes": 10, "head_lr": 1e-2}
on_paper, test = Digits(paper=True), Digits("test", paper=True)
tuned = {"head alone": (LinearProbe(**head), 1e-2), "Full": (Full(**head), 3e-3)}
tuned |= {f"LoRA, r = {r}": (LoRA(rank=r, alpha=2 * r, targets=kernels, **head), 1e-2) for r in (1, 8)}
digits, views = {}, {}
for name, (method, lr) in tuned.items():
    views[name], _ = adapt(method, on_paper, lr, 0, PICTURES, "characters-conv", examples=50)
    digits[name] = 100 - 100 * evaluate(views[name], test).accuracy
torch.manual_seed(0)
scratch = ConvNet(replace(conv.config, classes=10))
fit(scratch, Digits(each=50, paper=True), lr=3e-3, device="cpu", progress=False, **PICTURES.settings())
digits["from scratch"] = 100 - 100 * evaluate(scratch, test).accuracy
plots.bars(digits, label="wrong answers to unseen digits (%)")
plt.show()

# %% [markdown]
# *Figure: errors on 2,000 unseen digits, one seed ([ten](claims.md#any_network)). Training from scratch does nearly as
# well: with 50 of each, nobody needs this base.*
#
# ## What it costs
#
# Predict: r·(in·k² + out) numbers beside a kernel. For an LSTM of width d and state h, with four gates:
# r·(4h + d) and r·(4h + h).

# %%
r = 8
shapes = [(module.out_channels, module.in_channels * 9) for module in (conv.conv1, conv.conv2, conv.conv3)]
predicted = {"ConvNet": sum(r * (out + into) for out, into in shapes), "LSTM": r * (384 + 32) + r * (384 + 96)}
attached = {"ConvNet": LoRA(rank=r, targets=kernels).attach(conv), "LSTM": LoRA(rank=r, targets=(IH, HH)).attach(lstm)}
for name, view in attached.items():
    print(f"{name:8} predicted {predicted[name]:,}, trained {sum(p.numel() for p in trainable(view).values()):,}")
with torch.no_grad():
    pictures, plain = test.every().tokens[:100], merge(views["LoRA, r = 8"])
    difference = (plain(pictures) - views["LoRA, r = 8"](pictures)).abs().max()
print(f"largest difference of a logit after merging: {difference:.0e}; conv1 is a plain {type(plain.conv1).__name__}")

# %% [markdown]
# ## Break it
#
# Two mistakes of the exercise, each below the right lines. The first gives ΔW the right shape with its axes in another
# order: nothing is wrong until the merge. The second changes the frozen weight where it lies: the base is lost.

# %%
exchanged = with_mistake("any_network", "axes of delta exchanged")
print(inspect.getsource(lora.LoRAConv2d.delta), inspect.getsource(exchanged.LoRAConv2d.delta), sep="")
wrong = exchanged.LoRA(rank=8, alpha=16, targets=kernels, **head).attach(conv)
wrong.load_state_dict(views["LoRA, r = 8"].state_dict())
print(f"accuracy: attached {evaluate(wrong, test).accuracy:.2f}, merged {evaluate(merge(wrong), test).accuracy:.2f}\n")

spoilt, victim = with_mistake("any_network", "changed in place"), base("letters-lstm")
print(inspect.getsource(lora.LoRAWeight.forward), inspect.getsource(spoilt.LoRAWeight.forward), sep="")
view, before = spoilt.LoRA(rank=4, targets=(HH,)).attach(victim), evaluate(victim, pretraining).accuracy
fit(view, Sums("violet"), lr=3e-2, steps=20, device="cpu", progress=False)
after = evaluate(victim, pretraining).accuracy
print(f"accuracy of the base on its pretraining task: before {before:.2f}, after 20 steps on a view of it {after:.2f}")

# %% [markdown]
# ## Claims
#
# | claim | seen here? | ledger |
# |---|---|---|
# | LoRA fits any weight matrix | yes: kernels, W_ih, W_hh | [row](claims.md#any_network) |
# | The rank of a planted change is found | yes, at 4 | [row](claims.md#planted_in_lstm) |
# | A new table is learned best in both matrices | yes, at equal size | [row](claims.md#lstm_places) |

# %% [markdown]
# ## Your turn
#
# 1. Plant rank 2: `planted(lstm, rank=2, seed=0)`. Where is the elbow?
# 2. Plant in `W_ih` with `place=IH`, and let LoRA on `W_hh` imitate it.
# 3. Train LoRA on `("head",)` for violet. Why must it fail?
# 4. Give the ConvNet 10 digits of each. What does pretraining bring now?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: At 2: the error falls from 0.40 at rank 1 to 0.00002.
#
# 2: Rank 4 leaves 0.48, rank 16 still 0.43.
#
# 3: It cannot look back at the letters; 0.00 to 0.01 of the examples come out right.
#
# 4: Two seeds: scratch 0.84 and 0.85, LoRA of rank 8 0.87 and 0.90.
#
# </details>

# %% [markdown]
# ## In three lines
#
# - LoRA needs a weight with a name; prompts need attention, adapters a residual stream.
# - A solution of low rank may exist, and training may still not find it.
# - Compare with training from scratch before you fine-tune.
#
# In peft:
#
# ```python
# LoraConfig(target_modules=["conv1", "conv2", "conv3"])  # convolutions
# LoraConfig(target_modules=[], target_parameters=["rnn.weight_hh_l0"])  # a weight by its name
# ```

# %% tags=["hide-input"]
assert torch.allclose(beside, F.conv2d(x, kernel))
assert difference < 1e-3
assert all(predicted[name] == sum(p.numel() for p in trainable(view).values()) for name, view in attached.items())
if not FAST:
    assert min(known.values()) > 0.95
    assert min(new["both, r = 4"]) > 0.9
    assert max(by_rank[1]) < 0.1
    assert errors[4][0] < 0.1 * errors[3][0]
    assert biases["blue"] > 0.95
    assert biases["violet"] < 0.05
