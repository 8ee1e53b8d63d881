# %% [markdown]
# # 25 · Out into the world
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 40 minutes to read and run · 90 with exercises | ●●○ | lessons 10, 22 | a minute or two on a CPU |
#
# After this lesson you can write an adapter file that peft opens and find silent mistakes in it (part 1), halve the
# memory of a step and train on several processes (part 2).

# %% [markdown]
# ## What the papers did
#
# Chen et al. 2016 ([arXiv:1604.06174](https://arxiv.org/abs/1604.06174)) save memory by computing activations twice,
# for one more forward pass. Micikevicius et al. 2018 ([arXiv:1710.03740](https://arxiv.org/abs/1710.03740)) train in 16
# bits and keep a copy of the weights in 32, because small updates vanish otherwise. Li et al. 2020
# ([arXiv:2006.15704](https://arxiv.org/abs/2006.15704)) let processes share a batch and sum their gradients, with
# nearly linear speed-up to 256 GPUs.

# %% [markdown]
# ## First, guess
#
# 1. Another library opens your adapter file and finds none of the names that it looks for. Does it stop?
# 2. What does 16-bit arithmetic save in a training step, and what does Chen's method save?
# 3. Two processes train a LoRA together. What do they have to exchange in each step?

# %%
import inspect
from copy import deepcopy
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch.utils.checkpoint import checkpoint

from minipeft import DeltaError, LoRA, costs, doctor, fit, load, merge, plots, quiz, trainable
from minipeft.attach import attachments
from minipeft.classroom.beside import beside, tensors_beside
from minipeft.deltas import delta_of, updates
from minipeft.exchange import from_gguf_lora, from_peft, names, to_gguf_lora, to_peft, to_transformers, witnesses
from minipeft.published import llama
from minipeft.published.gguf import GGUF
from minipeft.published.smollm2 import answer, conversation, smollm2
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
# ## Part 1: the file of peft
#
# peft opens a folder with two files. One holds the tensors, the other the configuration, with the scale $s = \alpha/r$.
# Each layer has two tensors, $A$ and $B$. This is the name of $A$ for $q$ in layer 3:
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
# `write_adapter` (hidden) puts your tensors into such a folder.

# %%
print(inspect.getsource(ours))
to_peft(view, folder / "pirate", base="HuggingFaceTB/SmolLM2-135M-Instruct")
write_adapter("pirate", written, configuration("pirate"))
for field in ("peft_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules"):
    print(f"{field:24} {configuration('pirate')[field]}")

# %% [markdown]
# `r` and `lora_alpha` give the scale. `target_modules` are ends of names. peft puts fresh adapters there, whose $B$ is
# zero, and fills them from the file. The name of the base is only a name: nothing checks that it is the same model.
#
# ## Opened by the others
#
# We open the folder with peft, on our base in the format of transformers. A **merged** model needs no peft, but it has
# the size of the base. Do the logits agree?

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
# Both agree with ours up to rounding. (The base is our own, written to disk. The one on the hub has the same name, but
# 16 bits a weight and not five: it is another model.)

# %% [markdown]
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
# If the rows of a weight change places, the rows of its $B$ do too, and $A$ stays as it is. We put the rows of our own
# $B$ into the order of `row_of`, head by head, and compare it with what the file holds.

# %%
size = to_gguf_lora(view, folder / "pirate.gguf")
file = GGUF(folder / "pirate.gguf")
print(f"{len(file.tensors)} tensors, {size:,} bytes, and these fields:")
print(*(f"  {key} = {value}" for key, value in file.meta.items()), sep="\n")

trained = layers["blocks.0.attn.q"].B  # (576, 8): nine heads of 64 rows
stored = file.read("blk.0.attn_q.weight.lora_b")
order = [row_of(place, 64) for place in range(64)]
print("rows of a head in the file:", order[:8], "...")
print("equal to our B:", torch.equal(stored, trained))
print("equal to our B in that order:", torch.equal(stored, trained.unflatten(0, (9, 64))[:, order].flatten(0, 1)))

# %% [markdown]
# llama.cpp adds the LoRA to the base while it runs:
#
# ```
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
del fields["lora_alpha"]
write_adapter("no alpha", written, fields)

for name in ("no prefix", "no alpha") if PEFT else ():
    logits, warned = witnesses.in_peft(folder / name, folder / "base", question)
    print(f"{name}: peft warns of {[text[:60] for text in warned] or 'nothing'}")
    for who, each in {"base": model, "pirate": view}.items():
        print(f"  its logits differ from the {who}'s by {(logits - each(question)).abs().max():.3f}")

# %% [markdown]
# Guess 1: it does not stop. Without the prefix, peft warns, every $B$ stays zero, and the model computes what the
# *base* computes. Without α, peft is silent: it takes its default of 8, but we trained with 16, so half of the update
# is missing. minipeft refuses both files.

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
# ## Call the doctor
#
# `doctor` examines a folder; on the command line it is `python -m minipeft doctor FOLDER`.

# %%
for name in ("pirate", "no prefix", "no alpha"):
    checkup = doctor(folder / name)
    print(f"{name}: {checkup.verdict()}", *checkup, "", sep="\n")

# %% [markdown]
# It finds both mistakes. It cannot see that an adapter was merged twice, because no file tells. `doctor` also takes any
# PyTorch model in training, peft's too (exercise 5); [its page](../docs/doctor.md) lists what it finds.

# %% [markdown]
# This is a good place for a break.
#
# ## Part 2: the memory of a step
#
# **Checkpointing** keeps only the input of each block and computes its inside again in the backward pass. For 30 blocks
# of width 576 and four rows of 66 tokens that is $30·(4·66)·576·4$ bytes, 18 MB; the logits (49,152 a token), 52 MB,
# stay. So we predict 70 MB. **bfloat16**, a type of 16 bits, should halve the 540 MB of weights, and the activations.


# %%
def prepared(base, again):
    """A fresh LoRA on the base, A and B in 32 bits. again: blocks compute their inside again."""
    view = LoRA(rank=8, alpha=16, targets=("q", "v")).attach(base)
    for p in trainable(view).values():
        p.data = p.data.float()
    for block in view.blocks if again else ():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return view


half, batch, measured = deepcopy(model).bfloat16(), Dialogues().batch(ROWS, torch.Generator().manual_seed(0)), {}
cases = {"32 bits": (model, False), "checkpointing": (model, True), "bfloat16": (half, False), "both": (half, True)}
for name, (which, again) in cases.items():
    with torch.autocast("cpu", torch.bfloat16, enabled=which is half):
        measured[name] = costs.measure(prepared(which, again), batch)
plots.memory(measured, shares=False)
plt.show()

# %% [markdown]
# *Figure: memory of a training step of LoRA on SmolLM2 in four settings. Checkpointing saves activations; bfloat16
# saves weights and some activations.*
#
# Guess 2: bfloat16 halves the weights, but not all activations: norms and the softmax stay in 32 bits. Checkpointing
# keeps 71 MB of 333. In the backward pass, the inside of one block comes on top of these 71 MB. Computing it again
# takes time (exercise 4).

# %% [markdown]
# ## Break it: rounded to bfloat16
#
# What do 16 bits lose? bfloat16 has 8 bits of precision: between ¼ and ½, neighbouring numbers are 0.002 apart. We
# merge the pirate into a weight in bfloat16, called `start` below. What arrives of the change?
#
# ```python
# W + change                   # right: 32 bits
# (start + change).bfloat16()  # broken: start is W in 16 bits, and the sum is rounded too
# ```

# %%
W, change = updates(view)["blocks.0.attn.q.weight"]
start = W.bfloat16()
arrived = (start.float() + change).bfloat16().float() - start.float()
near = (W.abs() > 0.25) & (W.abs() < 0.5)
plots.rounded_changes(change[near], arrived[near])
plt.show()
lost, error = (arrived == 0).float().mean(), (arrived - change).norm() / change.norm()
print(f"the whole matrix: {lost:.0%} of the weights do not change; the error is {error:.0%} of ΔW")
rounded = deepcopy(merged).bfloat16().float()
print("merged in bfloat16:", answer(rounded, tokenizer, UNSEEN[0], new=WORDS))

# %% [markdown]
# *Figure: what training changed in weights between ¼ and ½ of the first query projection, and what arrived after
# rounding. Changes arrive in steps of 0.002. The few dots off the stairs are weights that left this range.*

# %% [markdown]
# This pirate survives. The smaller a change is beside the steps, the more of it is lost: in four bits nearly all
# (lesson 24). So merge in 32 bits, or keep the adapter.
#
# A and B stay in 32 bits for the same reason: a step of the optimizer can be too small for 16 (exercise 3). This is why
# Micikevicius et al. keep a copy in 32 bits.

# %% [markdown]
# ## Several processes
#
# Each process takes its rows of every batch. Then they sum the gradients **of what is trained**, four bytes a number.
# On the toy base, which is quick, we predict 8,192 bytes a step for a LoRA of 2,048 numbers, and 437,488 for all its
# 109,372 weights.

# %%
script = """
import torch
from minipeft import Full, LoRA, base, fit, processes, task

processes.join()  # the others, if torchrun started this process
for method in (LoRA(rank=4), Full()):
    torch.manual_seed(0)
    view = method.attach(base())
    history = fit(view, task("reverse+blue"), lr=1e-3, steps=20, device="cpu", progress=False)
    if processes.rank() == 0:
        print(f"{type(method).__name__:5} last loss {history.loss[-1]:.6f}, sent {history.sent:7,} bytes a step")
"""
(folder / "together.py").write_text(script)
print("one process:")
exec(script, {})
heard = run("torchrun", "--nproc-per-node", "2", "together.py")
print(f"\ntwo processes:\n{heard}")

# %% [markdown]
# Guess 3: they exchange gradients of A and B only, and a few numbers more: four, such as the loss, and one for each
# trained tensor. One and two processes have equal losses: two train as one. (Twenty steps at one learning rate do not
# compare methods.) For several machines, and for many *small* trainings on them, see [their
# page](../docs/several-machines.md).

# %% [markdown]
# ## Seen here or not
#
# | claim | here | ledger |
# |---|---|---|
# | processes train as one | yes | – |
# | checkpointing saves most activations | yes | – |
# | small changes vanish in 16 bits | yes | – |
# | merged, an adapter costs no time | not tested | [supported](claims.md#inference) |

# %% [markdown]
# ## More exercises
#
# 1. *Write it.* GPT-2 has $q$, $k$ and $v$ in one matrix. Make one LoRA for it from ours for $q$ and $v$ ($r = 4$,
#    $\alpha = 8$). What are its `r` and `lora_alpha`?
# 2. *Predict, then measure.* float16 has 11 bits of precision. How large is the error of ΔW?

# %% [markdown]
# 3. *Predict, then measure.* On `base().bfloat16()`, A and B of a LoRA have 16 bits too. What share of A moves in 20
#    steps of learning rate 1e-4?
# 4. *Design the experiment.* What does checkpointing cost in time?
# 5. *Find the mistake.* This loss stays at 13.1631. Why? Ask `doctor(learner, optimizer, loss)`.
#
# ```python
# from minipeft import base, task
# from minipeft.training import loss_of
#
# toy = base()
# optimizer = torch.optim.AdamW(toy.parameters(), lr=1e-2)
# learner = LoRA(rank=4).attach(toy)
# batch = task("reverse+blue").batch(32, torch.Generator().manual_seed(0))
#
# def loss():
#     return loss_of(batch.logits(learner), batch.targets)
#
# for step in range(3):
#     optimizer.zero_grad()
#     loss().backward()
#     optimizer.step()
#     print(loss().item())
# ```

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1: `r` is 8 and `lora_alpha` 16, so that $s = \alpha/r$ stays.
#
# ```python
# A = torch.cat([A_q, A_v])  # (8, in)
# B = torch.zeros(3 * out, 8)
# B[:out, :4], B[2 * out :, 4:] = B_q, B_v  # the rows of k stay zero
# ```
#
# 2: Three more bits, so an eighth of 13 %: 2 % of ΔW (`half()`).
#
# 3: 23 %, mostly numbers below 1/32 in size; with A and B in 32 bits, all.
#
# ```python
# from minipeft import base, task
#
# view = LoRA(rank=4).attach(base().bfloat16())
# with torch.autocast("cpu", torch.bfloat16):
#     fit(view, task("reverse+blue"), lr=1e-4, steps=20, device="cpu")
# ```
#
# 4: The ratio of the medians of `costs.training_time`, in turns: 1.33 here.
#
# 5: The optimizer was made before attaching: it holds the base's weights, not A and B.
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
# - Open each file with the program that will use it; compare logits.
#
# You have written every method by hand. Now put one to work: `python -m minipeft teach` trains on your own examples;
# `doctor` examines what fails to learn.
#
# The same in peft:
#
# ```python
# model.save_pretrained("pirate")
# model = PeftModel.from_pretrained(base, "pirate")
# merged = model.merge_and_unload()
# ```

# %% tags=["hide-input"]
assert torch.equal(back(question), here)
back = load(from_gguf_lora(folder / "pirate.gguf", model), model)
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
    assert [heard.count(sent) for sent in ("8,240 bytes", "437,656 bytes")] == [1, 1]
keep.cleanup()
