# %% [markdown]
# # 25 · Out into the world
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 50 minutes to read and run · 90 with exercises | ●●○ | lessons 10, 22 | a minute or two on a CPU |
#
# After this lesson you can write an adapter file that peft opens, find silent mistakes in such files, train on several
# processes, and halve the memory of a step.

# %% [markdown]
# ## What the papers did
#
# Li et al. 2020 ([arXiv:2006.15704](https://arxiv.org/abs/2006.15704)) let processes share a batch and sum their
# gradients, with nearly linear speed-up to 256 GPUs. Chen et al. 2016
# ([arXiv:1604.06174](https://arxiv.org/abs/1604.06174)) save memory by computing activations twice, for one more
# forward pass. Micikevicius et al. 2018 ([arXiv:1710.03740](https://arxiv.org/abs/1710.03740)) train in 16 bits and
# keep a copy of the weights in 32, because small updates vanish otherwise.

# %% [markdown]
# ## First, guess
#
# 1. Another library opens your adapter file and finds none of the names that it looks for. Does it stop?
# 2. Two processes train a LoRA together. What do they have to exchange in each step?
# 3. What does 16-bit arithmetic save in a training step, and what does Chen's method save?

# %%
import inspect
import struct
from copy import deepcopy
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from minipeft import DeltaError, LoRA, base, costs, doctor, fit, load, merge, plots, quiz, task, trainable
from minipeft.attach import attachments
from minipeft.classroom.beside import beside, tensors_beside
from minipeft.deltas import delta_of, updates
from minipeft.exchange import from_gguf_lora, from_peft, names, to_gguf_lora, to_peft, to_transformers, witnesses
from minipeft.published import llama
from minipeft.published.gguf import GGUF
from minipeft.published.smollm2 import answer, conversation, smollm2
from minipeft.training import loss_of
from minipeft.worlds.dialogues import UNSEEN, Dialogues

# %% tags=["hide-input"]
torch.set_num_threads(1)
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file

FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and rows, for a quick check
STEPS, ROWS, WORDS = (2, 1, 4) if FAST else (16, 4, 24)
PEFT, ABSENT = witnesses.there(), "peft or transformers is not installed: nothing to compare with."
folder = Path((keep := TemporaryDirectory()).name)

# %% tags=["hide-input"]


def run(*command):
    """What torchrun prints, in the folder of this lesson's files; it is that of this Python."""
    if FAST:
        return "left out on the fast dial"
    command = [sys.executable, "-m", "torch.distributed.run", *command[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def configuration(name):
    """The second file of an adapter folder, {field: value}."""
    return json.loads((folder / name / "adapter_config.json").read_text())


def write_adapter(name, tensors, fields):
    """Write an adapter folder as peft reads it: the tensors, and the configuration {field: value}."""
    (folder / name).mkdir(exist_ok=True)
    save_file(tensors, folder / name / "adapter_model.safetensors")
    (folder / name / "adapter_config.json").write_text(json.dumps(fields))


# %% [markdown]
# ## A pirate, quickly
#
# We train lesson 22's pirate for 16 steps of four examples. The model is optional: `python run.py real` installs it. So
# are peft and transformers, which will open our files: `python run.py parity`. Without them, some comparisons are left
# out. The lesson needs 3 GB of memory and, for a while, 1.1 GB of disk.

# %%
model, tokenizer = smollm2()
torch.manual_seed(0)
view = LoRA(rank=8, alpha=16, targets=("q", "v")).attach(model)
history = fit(view, Dialogues(), lr=4e-3, steps=STEPS, batch_size=ROWS, device="cpu", progress=False)
question = torch.tensor([tokenizer.encode(conversation(UNSEEN[0]))])

print(UNSEEN[0])
for name, each in {"base": model, "pirate": view}.items():
    print(f"  {name:7} {answer(each, tokenizer, UNSEEN[0], new=WORDS)}")

# %% [markdown]
# ## The file of peft
#
# peft opens a folder with two files. One holds the tensors, the other the configuration, with the scale
# $s = \alpha/r$. For each layer there are two names. $A$ of $q$ in layer 3 of our model has this one:
#
# `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight`
#
# The beginning, `base_model.model.`, leads through peft's wrapper to the model. Then comes the layer's name in
# transformers, and at the end the factor.

# %%
layers = attachments(view)[0].layers  # {our name: a layer with A and B}
theirs = names.their_names(view)  # {our name: the name in transformers}
path = "blocks.3.attn.q"
print(path, "is", theirs[path], "with A of shape", tuple(layers[path].A.shape))

# %% tags=["hide-input"]


def ours(view):
    """What the file must hold, {name in peft: tensor}."""
    found, theirs = {}, names.their_names(view)
    for path, layer in attachments(view)[0].layers.items():
        found[f"base_model.model.{theirs[path]}.lora_A.weight"] = layer.A
        found[f"base_model.model.{theirs[path]}.lora_B.weight"] = layer.B
    return found


def right_row_of(place, c):
    """What `row_of` should give."""
    return llama.neighbours(torch.arange(c), heads=1)[place].item()


right_row_of.__name__ = "row_of"

# %% [markdown]
# ## Write it
#
# The cell counts how many of your names peft knows, and how many hold the right numbers. If all do, peft will open
# *your* file below.


# %%
def peft_tensors(view):
    """{name in peft: tensor} of a LoRA on a Llama: A and B of each layer, as they were trained, without the scale.

    attachments(view)[0].layers is {"blocks.3.attn.q": a layer with A and B, ...},
    names.their_names(view) is {"blocks.3.attn.q": "model.layers.3.self_attn.q_proj", ...}.
    """
    raise NotImplementedError("your turn, about 6 lines")


written = tensors_beside(peft_tensors, ours, view)

# %% [markdown]
# ## The source, revealed
#
# `to_peft` does this for six methods, and for models whose names and matrices differ. It also writes the configuration.

# %%
print(inspect.getsource(ours))
to_peft(view, folder / "pirate", base="HuggingFaceTB/SmolLM2-135M-Instruct")
write_adapter("pirate", written, configuration("pirate"))
for field in ("peft_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules"):
    print(f"{field:24} {configuration('pirate')[field]}")

# %% [markdown]
# `r` and `lora_alpha` give the scale. `target_modules` are ends of names; peft puts empty adapters there and fills them
# from the file. The name of the base is only a name: nothing checks that it is the same model.
#
# ## Opened by the others
#
# We open the folder with peft, on our base, written in the format of transformers. A **merged** model needs no peft,
# but it has the size of the base. Do the logits agree?

# %%
ends = {"eos_token_id": tokenizer.end}
to_transformers(model, folder / "base", ends)
merged = merge(view)
size = to_transformers(merged, folder / "merged", ends)
print(inspect.getsource(witnesses.open_adapter))

here = view(question)
if PEFT:
    logits, warned = witnesses.in_peft(folder / "pirate", folder / "base", question)
    print(f"largest logit {here.abs().max():.1f}; largest difference in peft {(logits - here).abs().max():.4f}")
    logits = witnesses.in_transformers(folder / "merged", question)
    print(f"merged, {size:,} bytes: difference in transformers {(logits - here).abs().max():.4f}")
else:
    print(ABSENT)
back = load(from_peft(folder / "pirate", model), model)
print("and back, equal logits:", torch.equal(back(question), here))

# %% [markdown]
# Both agree with ours up to rounding. (We wrote the base ourselves because the one on the hub has 16 bits a weight and
# ours five. It is another model, although it has the same name.)
#
# ## By hand: three matrices in one
#
# GPT-2 has $q$, $k$ and $v$ in one matrix. There, one LoRA must hold the two that we train, for $q$ and for $v$. Their
# $A$ stand above each other, and their $B$ in blocks:

# %%
rng = np.random.default_rng(0)
A_q, A_v = rng.integers(1, 4, (2, 1, 4))  # rank 1, four inputs
B_q, B_v = rng.integers(1, 4, (2, 2, 1))  # two outputs each

A = np.vstack([A_q, A_v])  # (2, 4)
B = np.zeros((6, 2), int)
B[0:2, :1] = B_q  # the rows of q
B[4:6, 1:] = B_v  # the rows of v; those of k stay zero
print("A:", A, "B:", B, sep="\n")
print("q right:", (B @ A)[0:2].tolist() == (B_q @ A_q).tolist(), " k unchanged:", not (B @ A)[2:4].any())

# %% [markdown]
# Two LoRAs of rank $r$ become one of rank $2r$. Since $s=\alpha/r$, $\alpha$ doubles too.
#
# ## Write it: the rows of llama.cpp
#
# Rotary positions turn pairs of numbers (lesson 22). In a head of $c$ rows, our model turns row $i$ together with row
# $i + c/2$. llama.cpp turns *neighbours*, so its files have the rows of $q$ and $k$ in another order: 0, 2, 1, 3 for $c
# = 4$.


# %%
def row_of(place, c):
    """Which of our rows stands at this place among the c rows of a head in llama.cpp's order? Both count from 0."""
    raise NotImplementedError("your turn, 1 line")


places = {f"place {place} of {c}": (place, c) for place, c in ((0, 4), (1, 4), (2, 4), (3, 4), (5, 64), (62, 64))}
row_of = beside(row_of, right_row_of, places)

# %% [markdown]
# ## A LoRA for llama.cpp
#
# If the rows of a weight change places, the rows of its $B$ do too, and $A$ stays as it is. A GGUF file begins with
# four letters and three numbers. We put the rows of our own $B$ into the order of `row_of`, head by head, and compare
# it with what the file holds.

# %%
size = to_gguf_lora(view, folder / "pirate.gguf")
file = GGUF(folder / "pirate.gguf")
print(struct.unpack("<4sIQQ", file.data[:24]), "letters, version, tensors, metadata;", f"{size:,} bytes")
print("\n".join(f"  {key} = {value}" for key, value in file.meta.items()))
for name in list(file.tensors)[:4]:
    print(f"  {name:28} {file.tensors[name].shape}")

trained = attachments(view)[0].layers["blocks.0.attn.q"].B  # (576, 8): nine heads of 64 rows
stored = file.read("blk.0.attn_q.weight.lora_b")
order = [row_of(place, 64) for place in range(64)]
print("\nrows of a head in the file:", order[:8], "...")
print("equal to our B:", torch.equal(stored, trained), end=", ")
print("to our B in that order:", torch.equal(stored, trained.unflatten(0, (9, 64))[:, order].flatten(0, 1)))
back = load(from_gguf_lora(folder / "pirate.gguf", model), model)
print("read again, equal logits:", torch.equal(back(question), here))

# %% [markdown]
# ```
# python -m minipeft export pirate.safetensors --to gguf --base smollm2 --out pirate.gguf
# llama-cli -m SmolLM2-135M-Instruct.Q4_1.gguf --lora pirate.gguf
# ```
#
# ## Break it: names and α
#
# Two small mistakes in a file that was written by hand. What does peft compute?
#
# ```python
# f"base_model.model.{theirs[path]}.lora_A.weight"           # right
# f"{theirs[path]}.lora_A.weight"                            # broken 1: no prefix
#
# {"r": 8, "lora_alpha": 16, ...}                            # right
# {"r": 8, ...}                                              # broken 2: no alpha
# ```

# %%
fields = configuration("pirate")
short = {name.removeprefix("base_model.model."): tensor for name, tensor in written.items()}
write_adapter("no prefix", short, fields)
write_adapter("no alpha", written, {field: value for field, value in fields.items() if field != "lora_alpha"})

for name in ("no prefix", "no alpha"):
    print(f"{name}:" if PEFT else f"{name}: {ABSENT}")
    if PEFT:
        logits, warned = witnesses.in_peft(folder / name, folder / "base", question)
        print(f"  peft warns of: {[text[:60] for text in warned] or 'nothing'}")
        for who, each in {"base": model, "pirate": view}.items():
            print(f"  its logits differ from the {who}'s by {(logits - each(question)).abs().max():.3f}")

# %% [markdown]
# Guess 1: it does not stop. Without the prefix, peft warns and computes what the *base* computes. Without α it is
# silent: it takes its default of 8, but we trained with 16, so half of the update is missing. minipeft refuses both
# files.

# %% [markdown]
# ## Break it: merged twice
#
# Somebody merges the pirate and uploads it. Somebody else puts the adapter on it.
#
# ```python
# load(from_peft("pirate", model), model)      # right: on the base
# load(from_peft("pirate", merged), merged)    # broken: the merged model has it already
# ```

# %%
twice = load(from_peft(folder / "pirate", merged), merged)
print("merged once: ", answer(merged, tokenizer, UNSEEN[0], new=WORDS))
print("merged twice:", answer(twice, tokenizer, UNSEEN[0], new=WORDS))
try:
    load(delta_of(view), merged)
except DeltaError as error:
    print("\na delta of minipeft:", error)

# %% [markdown]
# Names and shapes fit, so peft has nothing to warn of. A delta of minipeft knows the fingerprint of its base, and
# refuses.
#
# ## Break it: rounded to bfloat16
#
# **bfloat16** has 8 bits of precision. Between ¼ and ½, neighbouring numbers are 0.002 apart. What arrives of the
# change if the merged weight is rounded?
#
# ```python
# W + change                # right: 32 bits
# (W + change).bfloat16()   # broken
# ```

# %%
W, change = updates(view)["blocks.0.attn.q.weight"]
start = W.bfloat16()
arrived = (start.float() + change).bfloat16().float() - start.float()
near = (W.abs() > 0.25) & (W.abs() < 0.5)
plots.rounded_changes(change[near], arrived[near])
plt.show()
lost, error = (arrived == 0).float().mean(), (arrived - change).norm() / change.norm()
print(f"{lost:.0%} of the weights do not change; the error is {error:.0%} of ΔW")
rounded = deepcopy(merged).bfloat16().float()
print("merged in bfloat16:", answer(rounded, tokenizer, UNSEEN[0], new=WORDS))
del rounded

# %% [markdown]
# *Figure: what training changed in weights between ¼ and ½ of the first query projection, and what arrived after
# rounding. Changes arrive in steps of 0.002.*
#
# This pirate survives. The smaller the changes are, the more is lost: in four bits nearly all (lesson 24). So merge in
# 32 bits, or keep the adapter.
#
# ## Call the doctor
#
# `doctor` examines a folder; on the command line it is `python -m minipeft doctor FOLDER`.

# %%
for name in ("pirate", "no prefix", "no alpha"):
    checkup = doctor(folder / name)
    print(f"{name}: {checkup.verdict()}", *checkup, "", sep="\n")

# %% [markdown]
# It finds both mistakes. It cannot see that an adapter was merged twice, because no file tells.
#
# ## Break it: nothing is learned
#
# The most common silent mistake needs no file. We train on the toy base with a loop of our own. Then `doctor` gets the
# model, the optimizer, and a function that computes a loss.
#
# ```python
# learner = LoRA(rank=4).attach(toy)                                  # right: attach first
# optimizer = torch.optim.AdamW(trainable(learner).values(), lr=1e-2)
#
# optimizer = torch.optim.AdamW(toy.parameters(), lr=1e-2)            # broken: made before attaching
# learner = LoRA(rank=4).attach(toy)
# ```

# %%
toy = base()
optimizer = torch.optim.AdamW(toy.parameters(), lr=1e-2)
learner = LoRA(rank=4).attach(toy)
batch = task("reverse+blue").batch(32, torch.Generator().manual_seed(0))


def loss():
    return loss_of(batch.logits(learner), batch.targets)


for step in range(3):
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    print(f"step {step}: loss {loss().item():.4f}")

print(*doctor(learner, optimizer, loss), sep="\n")
healthy = doctor(learner, torch.optim.AdamW(trainable(learner).values(), lr=1e-2), loss)
print("\nmade after attaching:", healthy.verdict())

# %% [markdown]
# The loss stays the same to the last digit: the optimizer holds the base's frozen weights, not A and B. `doctor` takes
# any PyTorch model, peft's too; [its page](../docs/doctor.md) lists what it finds.
#
# ## Several processes
#
# Each process takes its rows of every batch. Then they sum the gradients **of what is trained**, four bytes a number.
# So we predict 1,024 bytes for a prompt of 4 · 64 numbers, 8,192 for LoRA, and 437,488 for all.

# %%
script = """
import torch
from minipeft import Full, LoRA, PromptTuning, base, fit, processes, task

processes.join()  # the others, if torchrun started this process
for method in (PromptTuning(length=4), LoRA(rank=4), Full()):
    torch.manual_seed(0)
    view = method.attach(base())
    history = fit(view, task("reverse+blue"), lr=1e-3, steps=20, device="cpu", progress=False)
    if processes.rank() == 0:
        print(f"{type(method).__name__:13} last loss {history.loss[-1]:.6f}, sent {history.sent:7,} bytes a step")
"""
(folder / "together.py").write_text(script)
print("one process:")
exec(script, {})
heard = run("torchrun", "--nproc-per-node", "2", "together.py")
print(f"\ntwo processes:\n{heard}")

# %% [markdown]
# Guess 2: they exchange gradients of A and B only, and little more than predicted travels. The losses are equal: two
# processes train as one. On two machines (on GPUs too, which we could not try):
#
# ```
# torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 together.py
# ```
#
# Many *small* runs go elsewhere with `--executor`: [several machines](../docs/several-machines.md).

# %% [markdown]
# ## What it costs: memory
#
# **Checkpointing** keeps only the input of each block and computes its inside again in the backward pass. For 30 blocks
# of width 576 and 264 tokens that is $30·264·576·4$ bytes, 18 MB; the logits, 52 MB, stay. So we predict 70 MB.
# **bfloat16** should halve the 540 MB of weights, and the activations.


# %%
def prepared(bits, again):
    """A fresh LoRA on the base in so many bits, A and B in 32. again: blocks compute their inside again."""
    view = LoRA(rank=8, alpha=16, targets=("q", "v")).attach(model if bits == 32 else half)
    for p in trainable(view).values():
        p.data = p.data.float()
    for block in view.blocks if again else ():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return view


half, batch, measured = deepcopy(model).bfloat16(), Dialogues().batch(ROWS, torch.Generator().manual_seed(0)), {}
CASES = {"32 bits": (32, False), "checkpointing": (32, True), "bfloat16": (16, False), "both": (16, True)}
for name, (bits, again) in CASES.items():
    with torch.autocast("cpu", torch.bfloat16, enabled=bits == 16):
        seen = measured[name] = costs.measure(prepared(bits, again), batch)
    print(f"{name:14} weights {seen.weights / 1e6:4.0f} MB, activations {seen.activations / 1e6:4.0f} MB")
plots.memory(measured, shares=False)
plt.show()

# %% [markdown]
# *Figure: memory of a training step of LoRA on SmolLM2 in four settings. Checkpointing saves activations; bfloat16
# saves weights and some activations.*
#
# Guess 3: bfloat16 halves the weights, but not all activations: norms and the softmax stay in 32 bits. Checkpointing
# keeps 71 MB of 333; in the backward pass, one block comes on top.
#
# ## A and B stay in 32 bits
#
# Why? We train 20 steps on the toy base (one seed).

# %%
a = torch.tensor(0.1, dtype=torch.bfloat16)
print(f"0.1 + 0.0001 == 0.1 in bfloat16: {bool(a + 1e-4 == a)}")
for kind in (torch.bfloat16, torch.float32):
    torch.manual_seed(0)
    each = LoRA(rank=4).attach(base().bfloat16())
    for p in trainable(each).values():
        p.data = p.data.to(kind)
    before = {name: p.detach().clone() for name, p in trainable(each).items()}
    with torch.autocast("cpu", torch.bfloat16):
        fit(each, task("reverse+blue"), lr=1e-4, steps=20, device="cpu", progress=False)
    still = [(p == before[name]).float().mean() for name, p in trainable(each).items() if name.endswith("A")]
    print(f"{kind}: after 20 steps, {torch.stack(still).mean():.0%} of A's numbers are where they were")

# %% [markdown]
# In bfloat16, most of A's numbers never move: an update of less than half the distance between neighbouring numbers is
# rounded away. This is why Micikevicius et al. keep a copy in 32 bits.

# %% [markdown]
# ## Seen here or not
#
# | claim | here | ledger |
# |---|---|---|
# | processes train as one | yes | – |
# | checkpointing saves most activations | yes | – |
# | small updates vanish in 16 bits | yes | – |
# | merged, an adapter costs no time | not tested | [row](claims.md#inference) |

# %% [markdown]
# ## More exercises
#
# 1. *Predict, then measure.* Make a `Transformer(Config(vocab=50, gelu="tanh"))`, its head without bias. Which `r` and
#    `lora_alpha` does `to_peft` write for `LoRA(rank=4)`?
# 2. *Predict, then measure.* float16 has 11 bits of precision. How large is the error of ΔW?
# 3. *Find the mistake.* `learner.requires_grad_(False)` shall freeze the base, *after* `attach`. Ask `doctor`.
# 4. *Design the experiment.* What does checkpointing cost in time?
# 5. *Write it.* The opposite of `row_of`: where does row $i$ of ours go?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: `r` 8 and `lora_alpha` 16, twice ours: `c_attn` is one matrix for $q$, $k$, $v$.
#
# 2: Three more bits, so an eighth of 13 %: 2 % of ΔW (`half()` in place of `bfloat16()`).
#
# 3: "Nothing is trained: no parameter requires a gradient." A and B are frozen too.
#
# 4: The ratio of the medians of `costs.training_time`, in turns. We measured 1.33.
#
# 5: For every row, `row_of(place, c)` must be `i` again:
#
# ```python
# place = 2 * i if i < c // 2 else 2 * (i - c // 2) + 1
# ```
#
# </details>

# %% [markdown]
# ## Questions
#
# Five questions that an interviewer might ask. Write a letter for each, such as `answers="abcda"`, and run the cell.

# %%
quiz("25_out_into_the_world", answers="")

# %% [markdown]
# ## In three lines
#
# - An adapter file is names, factors and a scale; it does not know its base.
# - What is trained decides what travels between processes, and what must stay in 32 bits.
# - Open every file with the program that will use it, and compare logits.
#
# The same in the reference library:
#
# ```python
# model.save_pretrained("pirate")
# model = PeftModel.from_pretrained(base, "pirate")
# merged = model.merge_and_unload()
# ```

# %% tags=["hide-input"]
assert torch.equal(back(question), here)
assert [len(doctor(folder / name)) for name in ("pirate", "no prefix", "no alpha")] == [0, 1, 1]
assert measured["checkpointing"].activations < measured["32 bits"].activations / 3
if PEFT:
    (bare, warned), (halfway, silent) = (
        witnesses.in_peft(folder / name, folder / "base", question) for name in ("no prefix", "no alpha")
    )
    assert (bare - model(question)).abs().max() < 1e-3
    assert (halfway - here).abs().max() > 1
    assert warned
    assert not silent
if not FAST:
    assert [heard.count(sent) for sent in ("1,044 bytes", "8,240 bytes", "437,656 bytes")] == [1, 1, 1]
keep.cleanup()
