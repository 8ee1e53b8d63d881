"""What stays and what goes: forgetting, tasks in sequence, tasks in one batch."""

from dataclasses import dataclass

import torch

from claims.lab import HELD_OUT, KNOWN, NEW
from claims.ledger import beats, claim, column, several
from minipeft.attach import detach
from minipeft.bases import base
from minipeft.comparison import learning_rate_of
from minipeft.deltas import delta_of, fingerprint, load
from minipeft.methods import IA3, BitFit, Full, LoRA, Pfeiffer, PrefixTuning, PromptTuning, PTuningV2
from minipeft.mixing import MultiTask
from minipeft.tasks import EOS, ID, LETTERS, PAD, SEP, Mixture, Task, rows, task
from minipeft.training import VALIDATION, evaluate, fit


@dataclass(frozen=True)
class Marked:
    """A task whose examples begin with these tokens: a mark that no example of the pretraining has there."""

    task: Task
    mark: tuple[int, ...]

    def __str__(self):
        return f"marked {self.task}"

    def batch(self, size, generator):
        x = torch.randint(len(LETTERS), (size, 6), generator=generator)
        return rows(torch.tensor(self.mark).expand(size, -1), x, self.task.answer(x))


class Learned(Exception):
    """Enough is known."""


def new_word(method, lr, seed, level=0.98, steps=300):
    """A new word is taught, `reverse .` for reverse+violet, up to an accuracy of 98 %: what is the retention then?

    validation: 1 − retention, on examples that are not reported, or more than 1 if the level is not reached.
    """
    goal, model = Marked(NEW, (ID["reverse"], EOS)), base()
    torch.manual_seed(seed)
    model = method.attach(model)
    found = {"steps": None}

    def look(step):
        if step % 10 == 9 and evaluate(model, goal, 200, seed=VALIDATION).accuracy >= level:
            found["steps"] = step + 1
            raise Learned

    try:
        fit(model, goal, steps=steps, lr=lr, batch_size=32, seed=seed, device="cpu", progress=False, on_step=look)
    except (Learned, FloatingPointError):
        model.eval()
    accuracy = evaluate(model, goal).accuracy
    lost = 1 - evaluate(model, Mixture(), seed=VALIDATION).accuracy
    found |= {"accuracy": accuracy, "retention": evaluate(model, Mixture()).accuracy}
    return found | {"validation": lost if found["steps"] else 2 - accuracy}


@claim(
    "A small method, attached, forgets less than full fine-tuning",
    "Biderman et al. 2024 (LoRA learns less and forgets less)",
    "A new word is taught up to an accuracy of 98 %, at most 300 steps of 32 examples; of six learning rates the one "
    "with the highest retention, for each method",
    2,
)
def forgetting(f):
    methods = [
        Full(),
        LoRA(rank=4),
        LoRA(rank=4, targets=("q", "k", "v", "o", "up", "down")),
        Pfeiffer(size=16),
        BitFit(),
        IA3(),
        PrefixTuning(length=4),
    ]
    found = f.tuned(new_word, [{"method": r} for r in methods], (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1))
    retention = [column(runs, "retention") for _, runs in found]
    names = ["Full", "LoRA on q and v", "LoRA on all six", *map(str, methods[3:])]
    f.measured = "retention: " + ", ".join(f"{n} {several(k)}" for n, k in zip(names, retention, strict=True))
    for name, (_, runs), mine in zip(names[1:], found[1:], retention[1:], strict=True):
        learned = all(run["steps"] for run in runs)
        f.state(
            f"{name}: higher retention than full fine-tuning"
            + ("" if learned else " (it does not learn the word in every seed)"),
            learned and beats(mine, retention[0]),
            f"{several(mine)}; full {several(retention[0])}",
        )
    f.table(
        "Attached, with the new word learned",
        ("", "learning rate", "steps, by seed", "accuracy, new word", "retention"),
        [
            (n, f"{lr:g}", " ".join(str(run["steps"] or "–") for run in runs), several(column(runs)), several(k))
            for n, (lr, runs), k in zip(names, found, retention, strict=True)
        ],
    )


MARKS = {"left+green": PAD, "sort+red": SEP, "swap+violet": EOS}


def sequence(way, lr, seed, steps=120):
    """Three tasks, one after the other, each with a mark of its own. way: "full" and "lora" train one and the same
    module again and again, "deltas" begins a LoRA for each task.

    after: accuracy on the tasks (columns) after each stage (rows); mixture: retention at the end; restored: is the
    detached base the same.
    """
    goals = [Marked(task(name), (mark,)) for name, mark in MARKS.items()]
    model, method = base(), Full() if way == "full" else LoRA(rank=4, targets=("q", "k", "v", "o", "up", "down"))
    before, stored, after, losses = fingerprint(model), [], [], []
    torch.manual_seed(seed)
    try:
        for stage, goal in enumerate(goals):
            if way == "deltas" or stage == 0:
                model = method.attach(detach(model))
            fit(model, goal, steps=steps, lr=lr, batch_size=32, seed=seed, device="cpu", progress=False)
            losses.append(evaluate(model, goal, seed=VALIDATION).loss)
            stored.append(delta_of(model))
            after.append([])
            for i, old in enumerate(goals[: stage + 1]):
                then = load(stored[i], detach(model)) if way == "deltas" else model
                after[-1].append(evaluate(then, old, 500).accuracy)
    except FloatingPointError:
        return {"after": [], "validation": None}
    retention = evaluate(model, Mixture(), 500).accuracy
    restored = fingerprint(detach(model)) == before
    return {"after": after, "mixture": retention, "restored": restored, "validation": sum(losses)}


@claim(
    "Learning tasks in sequence: one model forgets, one delta for each task does not",
    "McCloskey & Cohen 1989; Houlsby et al. 2019, §1",
    "Three tasks with marks of their own, 120 steps of 32 examples each: one model fine-tuned again and again, one "
    "LoRA trained again and again, one LoRA for each; four learning rates for each way",
    14,
)
def in_sequence(f):
    ways = {"full": "one model, in full", "lora": "one LoRA", "deltas": "a LoRA for each"}
    found = dict(zip(ways, f.tuned(sequence, [{"way": w} for w in ways], (1e-3, 3e-3, 1e-2, 3e-2)), strict=True))
    last = {w: [run["after"][-1] for run in runs] for w, (_, runs) in found.items()}
    for way in ways:
        old = [sum(accuracy[:2]) / 2 for accuracy in last[way]]
        f.measured += f"{ways[way]}: the first two {several(old)}. "
    for way in ("full", "lora"):
        old = [sum(accuracy[:2]) / 2 for accuracy in last[way]]
        f.state(f"{ways[way]}: less than half is left of the first two tasks", max(old) < 0.5, several(old))
    each = [min(accuracy) for accuracy in last["deltas"]]
    f.state("a LoRA for each: all three are solved to the end", min(each) > 0.95, several(each))
    runs = found["deltas"][1]
    f.state(
        "detached, the base is the same bit for bit",
        all(column(runs, "restored")),
        f"{sum(column(runs, 'restored'))} of {len(runs)}",
    )
    rows = [
        (ways[w], f"{lr:g}", *(several([a[i] for a in last[w]]) for i in range(3)), several(column(runs, "mixture")))
        for w, (lr, runs) in found.items()
    ]
    f.table("Accuracy after the third task", ("", "learning rate", *MARKS, "retention"), rows)


@torch.no_grad()
def mixed(seed):
    """Rows of one batch under three trained deltas and none, against each alone: greatest difference of the logits
    (relative), and whether the generated tokens are the same."""
    model, views = base(), {}
    methods = {"lora": LoRA(rank=4), "prompt": PromptTuning(length=4), "deep": PTuningV2(length=4)}
    with torch.enable_grad():
        for (name, method), goal in zip(methods.items(), (KNOWN, HELD_OUT, NEW), strict=True):
            torch.manual_seed(seed)
            views[name] = method.attach(model)
            fit(views[name], goal, steps=30, lr=learning_rate_of(method), seed=seed, device="cpu", progress=False)
    several = MultiTask(views)
    names = [*methods, None] * 4
    tokens = HELD_OUT.batch(len(names), torch.Generator().manual_seed(seed)).tokens
    together = several(tokens, names)
    alone = torch.cat([several(tokens[i : i + 1], [name]) for i, name in enumerate(names)])
    made = several.generate(tokens[:, :8], names, new=6)
    single = torch.cat([several.generate(tokens[i : i + 1, :8], [name], new=6) for i, name in enumerate(names)])
    return {
        "difference": ((together - alone).abs().max() / alone.abs().max()).item(),
        "same": torch.equal(made, single),
    }


@claim(
    "A batch that mixes tasks gives each row the answer it gets alone",
    "Lester et al. 2021, figure 2; Sheng et al. 2023 (S-LoRA)",
    "Sixteen rows under a LoRA, a prompt, deep prompts and the bare base, in turn",
    14,
)
def mixed_batches(f):
    (runs,) = f.seeds(mixed, [{}])
    f.measured = f"greatest difference {max(column(runs, 'difference')):.0e}, "
    f.measured += f"{sum(column(runs, 'same'))} of {len(runs)} batches the same"
    f.state(
        "logits agree to a part in 100,000",
        max(column(runs, "difference")) < 1e-5,
        " ".join(f"{d:.0e}" for d in column(runs, "difference")),
    )
    f.state(
        "the generated letters are the same",
        all(column(runs, "same")),
        f"{sum(column(runs, 'same'))} of {len(runs)} batches",
    )
