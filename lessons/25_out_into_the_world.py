# %% [markdown]
# # 25 · Out into the world
#
# | time | difficulty | you need | it runs |
# |---|---|---|---|
# | 60 minutes (100 with exercises) | ●●○ | lessons 10, 22 | a minute or two on a CPU |
#
# You will hand an adapter to other programs, break it in four ways, and train on several processes.

# %% [markdown]
# ## What the papers did and claimed
#
# Li et al. (2020) let processes share a batch and sum gradients, with near-linear speed-up to 256 GPUs. Chen et al.
# (2016) computed activations twice: far less memory for one more forward pass. Micikevicius et al. (2018) trained in 16
# bits, but kept the weights in 32 too; else small updates vanish.

# %% [markdown]
# ## Predict
#
# 1. A file has the $A$ and $B$ of a LoRA. What else does another library need, to compute the same?
# 2. It finds none of its names in the file. Does it stop?
# 3. Two processes train a LoRA together. What do they exchange?
# 4. What does 16-bit arithmetic save, and what Chen's method?

# %%
import inspect
import json
import struct
from copy import deepcopy
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from minipeft import DeltaError, LoRA, base, costs, doctor, fit, load, merge, plots, task, trainable
from minipeft.attach import attachments
from minipeft.deltas import delta_of, updates
from minipeft.exchange import from_gguf_lora, from_peft, names, to_gguf_lora, to_peft, to_transformers, witnesses
from minipeft.published.gguf import GGUF
from minipeft.published.llama import halves, neighbours
from minipeft.published.smollm2 import answer, conversation, smollm2
from minipeft.training import loss_of
from minipeft.worlds.dialogues import UNSEEN, Dialogues

# %% tags=["hide-input"]
torch.set_num_threads(1)
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file

FAST = os.environ.get("MINIPEFT_FAST") == "1"  # the same lesson with fewer steps and rows, for a quick check
STEPS, ROWS, WORDS = (2, 1, 4) if FAST else (16, 4, 24)
folder = Path((keep := TemporaryDirectory()).name)


def run(*command):
    """What torchrun prints, in the folder of this lesson's files; it is that of this Python."""
    if FAST:
        return "left out on the fast dial"
    command = [sys.executable, "-m", "torch.distributed.run", *command[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


# %% [markdown]
# ## A pirate, quickly
#
# We train lesson 22's pirate for 16 steps. The model is optional: `python run.py real` installs it. So are peft and
# transformers, which will open our files: `python run.py parity`. Without them some comparisons are left out. The
# lesson needs 3 GB of memory and, for a while, 1.1 GB of disk.

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
# ## Write it
#
# peft opens a folder with two files. One holds the tensors. In it, $A$ of $q$ in layer 3 has this name:
#
# `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight`
#
# Write what this file must hold. The scale $s = \alpha/r$ stands in the other file. If you leave the body blank, the
# lesson goes on with ours.


# %%
def peft_tensors(view):
    """{name in peft: tensor} of a LoRA on a Llama.

    attachments(view)[0].layers is {"blocks.3.attn.q": a layer with A and B, ...},
    names.their_names(view) is {"blocks.3.attn.q": "model.layers.3.self_attn.q_proj", ...}
    """
    raise NotImplementedError("your turn (about 6 lines)")


# %% tags=["hide-input"]
PEFT, ABSENT = witnesses.there(), "peft or transformers is not installed: nothing to compare with."
to_peft(view, folder / "pirate", base="HuggingFaceTB/SmolLM2-135M-Instruct")
wanted = load_file(folder / "pirate" / "adapter_model.safetensors")


def verdict(found):
    if odd := sorted(found.keys() ^ wanted.keys()):
        return f"not yet: {odd[0]} " + ("is not in your file" if odd[0] in wanted else "is no name that peft knows")
    if wrong := [name for name in wanted if not torch.equal(found[name], wanted[name])]:
        return f"not yet: {wrong[0]} should be the factor as it was trained, without the scale"
    return "right: peft will open your file"


try:
    said = verdict(peft_tensors(view) or {})
except NotImplementedError as error:
    said = f"{error}; the lesson goes on with ours"
print(said)

# %% [markdown]
# ## The source, revealed
#
# `to_peft` does this for six methods, and for models whose names and matrices differ. It also writes the second file,
# the **configuration**.


# %%
def ours(view):
    found, theirs = {}, names.their_names(view)
    for path, layer in attachments(view)[0].layers.items():
        found[f"base_model.model.{theirs[path]}.lora_A.weight"] = layer.A
        found[f"base_model.model.{theirs[path]}.lora_B.weight"] = layer.B
    return found


written = (peft_tensors if said.startswith("right") else ours)(view)
save_file(written, folder / "pirate" / "adapter_model.safetensors")
print((folder / "pirate" / "adapter_config.json").read_text())

# %% [markdown]
# `r` and `lora_alpha` give the scale (guess 1). `target_modules` are ends of names; peft puts empty adapters there and
# fills them from the file. `base_model.model.` leads through its wrapper to the model. The name of the base is only a
# name.
#
# ## Opened by the others
#
# A **merged** model needs no peft, but has the size of the base.

# %%
ends = {"eos_token_id": tokenizer.end}
to_transformers(model, folder / "base", ends)
merged = merge(view)
size = to_transformers(merged, folder / "merged", ends)
print(inspect.getsource(witnesses.open_adapter))

here = view(question)
if PEFT:
    logits, warned = witnesses.in_peft(folder / "pirate", folder / "base", question)
    print(f"largest logit {here.abs().max():.1f}; largest difference in peft {(logits - here).abs().max():.5f}")
    logits = witnesses.in_transformers(folder / "merged", question)
    print(f"merged, {size:,} bytes: in transformers {(logits - here).abs().max():.5f}")
else:
    print(ABSENT)
back = load(from_peft(folder / "pirate", model), model)
print("and back, equal logits:", torch.equal(back(question), here))

# %% [markdown]
# We wrote the base as well: the one on the hub has 16 bits a weight, ours five, so it is another model.
#
# ## By hand: three matrices in one
#
# GPT-2 has $q$, $k$ and $v$ in one matrix. One LoRA there must hold two: the $A$ stand above each other, the $B$ in
# blocks.

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
# Two LoRAs of rank $r$ become one of rank $2r$. The scale is $\alpha/r$, so α doubles as well.
#
# ## A LoRA for llama.cpp
#
# A GGUF file begins with four letters and three numbers. llama.cpp rotates *neighbours* (lesson 22), so the rows of $q$
# and $k$ stand in another order there, and with them the rows of $B$.

# %%
size = to_gguf_lora(view, folder / "pirate.gguf")
file = GGUF(folder / "pirate.gguf")
print(struct.unpack("<4sIQQ", file.data[:24]), "letters, version, tensors, metadata;", f"{size:,} bytes")
print("\n".join(f"  {key} = {value}" for key, value in file.meta.items()))
for name in list(file.tensors)[:4]:
    print(f"  {name:28} {file.tensors[name].shape}")

print("\nrows of a head in the file:", neighbours(torch.arange(64), heads=1)[:8].tolist(), "...")
trained = attachments(view)[0].layers["blocks.0.attn.q"].B
stored = file.read("blk.0.attn_q.weight.lora_b")
print("B of q in our order:", torch.equal(stored, trained), end=", ")
print("turned back:", torch.equal(halves(stored, model.config.heads), trained))
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

# %%
config = json.loads((folder / "pirate" / "adapter_config.json").read_text())
short = {name.removeprefix("base_model.model."): tensor for name, tensor in written.items()}  # broken
without = {field: value for field, value in config.items() if field != "lora_alpha"}  # broken
broken = {"no prefix": (short, config), "no alpha": (written, without)}
for name, (tensors, fields) in broken.items():
    (folder / name).mkdir()
    save_file(tensors, folder / name / "adapter_model.safetensors")
    (folder / name / "adapter_config.json").write_text(json.dumps(fields))
    print(f"{name}:" if PEFT else f"{name}: {ABSENT}")
    if PEFT:
        logits, warned = witnesses.in_peft(folder / name, folder / "base", question)
        print(f"  peft warns of: {[text[:60] for text in warned] or 'nothing'}")
        for who, each in {"base": model, "pirate": view}.items():
            print(f"  its logits differ from the {who}'s by {(logits - each(question)).abs().max():.4f}")

# %% [markdown]
# Without the prefix it warns and computes what the *base* computes (guess 2). Without α it is silent: its default is 8,
# we trained with 16, so half of the update is missing. minipeft refuses both files.
#
# ## Break it: merged twice
#
# Somebody merges and uploads. Somebody else puts the adapter on it.

# %%
twice = load(from_peft(folder / "pirate", merged), merged)  # broken: it is in there already
print("merged once: ", answer(merged, tokenizer, UNSEEN[0], new=WORDS))
print("merged twice:", answer(twice, tokenizer, UNSEEN[0], new=WORDS))
try:
    load(delta_of(view), merged)
except DeltaError as error:
    print("\na delta of minipeft:", error)

# %% [markdown]
# Names and shapes fit, so nothing can warn. A delta of minipeft knows the fingerprint of its base.
#
# ## Break it: rounded to bfloat16
#
# **bfloat16** has 8 bits of precision. Between ¼ and ½, neighbours are 0.002 apart, and a merged weight is rounded to
# one of them. What arrives of the change?

# %%
W, change = updates(view)["blocks.0.attn.q.weight"]
start = W.bfloat16()
arrived = (start.float() + change).bfloat16().float() - start.float()  # broken
near = (W.abs() > 0.25) & (W.abs() < 0.5)
plots.rounded_changes(change[near], arrived[near])
plt.show()
lost, error = (arrived == 0).float().mean(), (arrived - change).norm() / change.norm()
print(f"{lost:.0%} of the weights do not change; the error is {error:.0%} of ΔW")
rounded = deepcopy(merged).bfloat16().float()
print("merged in bfloat16:", answer(rounded, tokenizer, UNSEEN[0], new=WORDS))
del rounded

# %% [markdown]
# *Figure: weights between ¼ and ½ in the first query projection. Their changes arrive in steps of 0.002.*
#
# This pirate survives. The smaller the changes, the more is lost: nearly all in four bits (lesson 24). Merge in 32
# bits, or keep the adapter.
#
# ## Call the doctor
#
# `doctor` examines a folder; so does `python -m minipeft doctor FOLDER`.

# %%
for name in ("pirate", "no prefix", "no alpha"):
    checkup = doctor(folder / name)
    print(f"{name}: {checkup.verdict()}", *checkup, "", sep="\n")

# %% [markdown]
# It cannot see that an adapter is merged twice: no file tells.
#
# ## Nothing is learned
#
# The most common silent failure needs no file. We train on the toy base with a loop of our own. Then `doctor` gets the
# model, the optimizer, and a function that computes a loss.

# %%
toy = base()
optimizer = torch.optim.AdamW(toy.parameters(), lr=1e-2)  # broken: made before attaching
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
# `doctor` takes any PyTorch model, peft's too; [its page](../docs/doctor.md) lists what it finds.
#
# ## Several processes
#
# Each takes its rows of every batch; then they sum the gradients **of what is trained**, four bytes for a number.
# Predicted: 1,024 for the prompt, 8,192 for LoRA, 437,488 for all. (Many *small* runs go elsewhere with `--executor`:
# [several machines](../docs/several-machines.md).)

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
# Equal losses, and little more than predicted travels (guess 3). On two machines; on GPUs too, which we could not try:
#
# ```
# torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 together.py
# ```
#
# ## Less memory
#
# **Checkpointing** keeps only the inputs of 30 blocks: for 288 tokens 20 MB. The logits, 57 MB, stay. **bfloat16**
# should halve weights, 540 MB, and activations.


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
        measured[name] = costs.measure(prepared(bits, again), batch)
plots.memory(measured, shares=False)
plt.show()

# %% [markdown]
# *Figure: memory of a training step of LoRA on SmolLM2. Checkpointing saves activations, bfloat16 saves weights and
# some activations (guess 4).*
#
# Norms and the softmax stay in 32 bits. In the backward pass, one block's activations come on top.
#
# ## A and B in 32 bits
#
# Why did we leave them there?

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
# This is why Micikevicius et al. keep a copy in 32 bits.
#
# ## Choose
#
# 1. **All linear layers**, rank 8, α = 2r.
# 2. Three **learning rates**, half a decade apart; at the edge, go on.
# 3. More rank only if training loss stays high.
# 4. Memory: checkpointing, 16 bits, four.
# 5. Merged for speed, unmerged for many tasks.

# %% [markdown]
# ## Seen here?
#
# claim | seen
# ---|---
# processes train as one | yes
# checkpointing saves memory | yes
# small updates vanish in 16 bits | yes
# merging costs nothing later | [ledger](claims.md#inference)
# rank matters little | [undecided](claims.md#real_rank)
# all layers beat q and v | [supported](claims.md#real_layers)
# LoRA wants a higher learning rate | [supported](claims.md#real_learning_rate)

# %% [markdown]
# ## Exercises
#
# 1. Make a `Transformer(Config(vocab=50, gelu="tanh"))` with a head without bias. Which `r` and `lora_alpha` does
#    `to_peft` write for `LoRA(rank=4)` on it?
# 2. Round to float16, which has 11 bits of precision. How large is the error?
# 3. What does checkpointing cost in time? `costs.training_time`.
# 4. Break the loop otherwise: what does `doctor` find?

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `r` 8 and `lora_alpha` 16, twice ours: its `c_attn` has $q$ and $v$ in one.
# 2. 2 % of ΔW instead of 13 %.
# 3. We measured 1.33 times a step; less than one more forward pass, since the head is not computed again.
# 4. `lr=0`: "The learning rate of 8 trained tensors is 0."
#
# </details>

# %% [markdown]
# ## In three lines
#
# - An adapter file is names, factors and a scale; it does not know its base.
# - What is trained decides what travels and what must stay in 32 bits.
# - Open every file with the program that will use it, and compare logits.
#
# In the reference library:
#
# ```python
# model.save_pretrained("pirate")
# model = PeftModel.from_pretrained(base, "pirate")
# merged = model.merge_and_unload()
# ```

# %% tags=["hide-input"]
assert torch.equal(back(question), here)
assert [len(doctor(folder / name)) for name in ("pirate", *broken)] == [0, 1, 1]
assert measured["checkpointing"].activations < measured["32 bits"].activations / 3
if PEFT:
    (bare, warned), (halfway, silent) = (witnesses.in_peft(folder / name, folder / "base", question) for name in broken)
    assert (bare - model(question)).abs().max() < 1e-3
    assert (halfway - here).abs().max() > 1
    assert warned
    assert not silent
if not FAST:
    assert [heard.count(sent) for sent in ("1,044 bytes", "8,240 bytes", "437,656 bytes")] == [1, 1, 1]
keep.cleanup()
