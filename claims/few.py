"""Few examples, and other examples: who generalises from 8, who to letters never trained on, and if fusion helps."""

from dataclasses import dataclass

import torch

from claims.ledger import HELD_OUT, claim, told
from minipeft import plots
from minipeft.bases import base
from minipeft.deltas import load
from minipeft.lab.trial import SOURCE_LR, adapter
from minipeft.methods import AdapterFusion, BitFit, Full, LoRA, Pfeiffer, PrefixTuning, PromptTuning
from minipeft.tasks import LENGTH, Few, Task, rows, task
from minipeft.training import RECIPE, VALIDATION, evaluate, fit

SIZES = (8, 32, 128)
METHODS = {
    "full": Full(), "LoRA": LoRA(rank=4), "an adapter": Pfeiffer(size=16), "BitFit": BitFit(),
    "a prompt": PromptTuning(length=4), "prefix": PrefixTuning(length=4, mlp=64),
}  # fmt: skip
NAMES = {"fresh adapter": "a fresh adapter", "full": "full fine-tuning", "best source": "the best source"}
WAYS = {"fusion": AdapterFusion(adapters=3), "fresh adapter": METHODS["an adapter"], "full": METHODS["full"]}
SOURCES = {  # a new task, and three others of which adapters are fused
    "pure": {"goal": task("left+violet"), "sources": ("left+plain", "copy+violet", "reverse+plain")},
    "tangled": {"goal": task("swap+violet"), "sources": ("reverse+violet", "left+violet", "copy+red")},
}


@dataclass(frozen=True)
class Half:
    """A task on words from one half of the alphabet: eight letters, from the `first` on."""

    task: Task
    first: int = 0

    def batch(self, size, generator):
        x = self.first + torch.randint(8, (size, LENGTH), generator=generator)
        return rows(x.new_empty(size, 0), x, self.task.answer(x))


def elsewhere(view, base, goal):
    """The score on words from the other half of the alphabet."""
    score = evaluate(view, Half(goal.task, 8 - goal.first))
    return {"accuracy elsewhere": score.accuracy, "loss elsewhere": score.loss}


def warm(goal, sources, examples, lr, seed, recipe=RECIPE):
    """Go on with the adapter of one source: the one that has the least loss on the examples that there are."""
    given = Few(goal, examples, seed)
    starts = [load(adapter(16, source, SOURCE_LR, seed, recipe, "letters-d64"), base()) for source in sources]
    view = min(starts, key=lambda start: evaluate(start, given, size=examples).loss)
    try:
        fit(view, given, lr=lr, seed=seed, device="cpu", progress=False, **recipe.settings())
    except FloatingPointError:
        return {"accuracy": 0.0, "loss": None, "validation": None}
    final, validation = evaluate(view, goal), evaluate(view, goal, seed=VALIDATION).loss
    return {"accuracy": final.accuracy, "loss": final.loss, "validation": validation}


def from_few(f, *names, sizes=SIZES, seeds=None, lr=None):
    """{(name, size): Entry}: methods on so many examples of a held-out pair, tuned at each size unless `lr` is set."""
    keys = {f"{name}, {size}": (name, size) for name in names for size in sizes}
    entries = {text: {"method": METHODS[name], "examples": size} for text, (name, size) in keys.items()}
    return {keys[text]: entry for text, entry in f.race(entries, goal=HELD_OUT, seeds=seeds, lr=lr).items()}


def losses(entry):
    return told([100.0 if loss is None else loss for loss in entry.column("loss")])


@claim(
    "With few examples, prefix tuning generalises better than full fine-tuning",
    source="Li and Liang 2021, Prefix-Tuning, §6.3, arXiv:2101.00190",
    quote="by learning only 0.1% of the parameters, prefix-tuning obtains comparable performance in the full "
    "data setting, outperforms fine-tuning in low-data settings",
    lesson=16,
)
def few_examples(f):
    """8, 32 and 128 examples of a held-out pair, each seed with its own; scored on unseen examples. The prefix is made
    by a network, as in the paper. LoRA, an adapter and a prompt stand beside these two with five seeds, and with the
    learning rate that is best for 32 examples."""
    runs, others = from_few(f, "full", "prefix", "BitFit"), ("LoRA", "an adapter", "a prompt")
    for name in others:
        runs |= from_few(f, name, sizes=(32,), seeds=5)
        runs |= from_few(f, name, sizes=(8, 128), seeds=5, lr=runs[name, 32].lr)
    for size in SIZES:
        text = f"{size} examples: the prefix is more accurate on unseen examples than full fine-tuning"
        f.ahead(text, runs["prefix", size], runs["full", size], aside=size == 128, vary=size == 8)
    for other in others:
        text = f"8 examples: {other} is more accurate on unseen examples than full fine-tuning"
        f.ahead(text, runs[other, 8], runs["full", 8], aside=True)
    seen = runs["full", 8].column("training_accuracy")
    f.always("full fine-tuning solves the 8 examples that it is given", [a == 1 for a in seen], aside=True)
    found = {name: {n: runs[name, n].column("accuracy") for n in SIZES} for name in METHODS}
    f.table("Accuracy on unseen examples, by the number of training examples", ("", *SIZES),
            [(name, *(told(found[name][n]) for n in SIZES)) for name in METHODS])  # fmt: skip
    f.picture(
        "few_examples_by_size",
        f"Accuracy on {HELD_OUT} against the number of training examples, 8 to 128, for six methods, with the range "
        "over seeds; the numbers are in the table above",
        lambda: plots.accuracy_by_size({str(METHODS[name]): found[name] for name in METHODS},
                                       xlabel="training examples", ylabel="accuracy on unseen examples"),
    )  # fmt: skip
    each = "; ".join(f"{n} examples: {told(found['prefix'][n])} and {told(found['full'][n])}" for n in SIZES)
    f.result = f"The accuracy of the prefix and of full fine-tuning on unseen examples is, from {each}."


@claim(
    "BitFit is better than full fine-tuning with little data, and worse with more",
    source="Ben Zaken et al. 2022, BitFit, arXiv:2106.10199",
    quote="with small-to-medium training data, applying BitFit on pre-trained BERT models is competitive with "
    "(and sometimes better than) fine-tuning the entire model",
    lesson=3,
)
def few_biases(f):
    """8, 32 and 128 examples of a held-out pair, each seed with its own. The loss on unseen examples tells, for from
    8 examples the accuracy may stay at zero; guessing letters has a loss of 2.4 nats."""
    runs = from_few(f, "full", "BitFit")
    f.ahead("8 examples: BitFit has a lower loss on unseen examples", runs["BitFit", 8], runs["full", 8], by="loss")
    text = "32 examples: BitFit has a lower loss on unseen examples"
    f.ahead(text, runs["BitFit", 32], runs["full", 32], by="loss", vary=False)
    text = "128 examples: full fine-tuning has a lower loss on unseen examples"
    f.ahead(text, runs["full", 128], runs["BitFit", 128], by="loss", vary=False)
    each = "; ".join(f"{n} examples: {losses(runs['BitFit', n])} and {losses(runs['full', n])}" for n in SIZES)
    f.result = f"The loss of BitFit and of full fine-tuning on unseen examples is, in nats, from {each}."


@claim(
    "Prompt tuning is more robust to a shift of domain than full fine-tuning",
    source="Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, §5, arXiv:2104.08691",
    lesson=6,
)
def domain_shift(f):
    """A held-out pair is learned from words of the first eight letters, and tested on words of the other eight. The
    base knows the table for all sixteen. Learning rates are chosen on the first eight, as one would."""
    runs = f.race({name: METHODS[name] for name in ("a prompt", "full", "LoRA")}, goal=Half(HELD_OUT), look=elsewhere)
    text = "the prompt is more accurate on the other letters than full fine-tuning"
    f.ahead(text, runs["a prompt"], runs["full"], by="accuracy elsewhere", margin=0.05)
    text = "the prompt is more accurate on the other letters than LoRA"
    f.ahead(text, runs["a prompt"], runs["LoRA"], by="accuracy elsewhere", margin=0.05, aside=True)
    columns = {"first eight letters": "accuracy", "other eight letters": "accuracy elsewhere"}
    f.table("Accuracy", ("", *columns), [(n, *(told(e.column(c)) for c in columns.values())) for n, e in runs.items()])
    each = ", ".join(f"{name} {told(entry.column('accuracy elsewhere'))}" for name, entry in runs.items())
    f.result = f"The accuracy on letters that were never trained on is: {each}."


@claim(
    "AdapterFusion improves on a single adapter and on full fine-tuning for a task with few data",
    source="Pfeiffer et al. 2021, AdapterFusion, arXiv:2005.00247",
    quote="the classifier can effectively exploit the representations learned from multiple tasks in a "
    "non-destructive manner",
    lesson=5,
)
def fusion(f):
    """Three adapters are trained on other tasks, then fused with 16 or 64 examples of a new one. Pure sources have its
    operation or its table alone; tangled ones have its table together with another operation. Unlike the paper's, no
    source is the new task itself. The best source is the one whose adapter has the least loss on the examples; its
    training goes on with them."""
    entries = {}
    for kind, size, *ways in (("pure", 16, *WAYS), ("pure", 64, "fusion", "fresh adapter"), ("tangled", 16, *WAYS)):
        for way in ways:
            job = {"method": WAYS[way], "examples": size, "goal": SOURCES[kind]["goal"]}
            entries[f"{way}, {kind}, {size}"] = job | (SOURCES[kind] if way == "fusion" else {})
    runs = f.race(entries) | f.race({"best source, pure, 16": {"examples": 16, **SOURCES["pure"]}}, experiment=warm)

    def ahead(rival, kind, size, by, aside=False):
        a, b = (runs[f"{way}, {kind}, {size}"] for way in ("fusion", rival))
        text = f"{kind} sources, {size} examples: fusion does better than {NAMES[rival]}"
        f.ahead(text, a, b, by=by, vary=False, aside=aside)

    ahead("fresh adapter", "pure", 16, "accuracy")
    ahead("full", "pure", 16, "accuracy")
    ahead("fresh adapter", "tangled", 16, "loss")
    ahead("full", "tangled", 16, "loss", aside=True)
    ahead("best source", "pure", 16, "accuracy", aside=True)
    ahead("fresh adapter", "pure", 64, "accuracy", aside=True)
    rows = [(name, told(entry.column("accuracy")), losses(entry)) for name, entry in runs.items()]
    f.table("On unseen examples of the new task", ("", "accuracy", "loss"), rows)
    for kind, settings in SOURCES.items():
        f.note(f"{kind.capitalize()}: {', '.join(settings['sources'])}; then {settings['goal']}.")
    pure = {way: told(runs[f"{way}, pure, 16"].column("accuracy")) for way in (*WAYS, "best source")}
    f.result = f"With pure sources and 16 examples the accuracy is: {', '.join(f'{w} {a}' for w, a in pure.items())}."
