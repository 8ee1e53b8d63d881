"""What is left of a method's lead when every method has its own learning rate, and what the batch size does."""

from dataclasses import replace
from math import log2
from operator import sub
from statistics import mean

from claims.ledger import NEW, claim, log_steps, told
from minipeft import plots
from minipeft.lab import learning_rate_of
from minipeft.methods import DoRA, Full, LoRA, PiSSA
from minipeft.training import RECIPE

VARIANTS = {
    "LoRA": LoRA(rank=4),
    "LoRA+": LoRA(rank=4, lr_ratio=16.0),
    "rsLoRA": LoRA(rank=4, rslora=True),
    "DoRA": DoRA(rank=4),
    "PiSSA": PiSSA(rank=4),
}
BATCHES = {8: 1000, 32: 500, 128: 250}  # steps: half as many for a batch four times as large
EQUAL = {8: 2000, 32: 500, 128: 125}  # steps: always 16,000 examples
MATRICES = ("q", "k", "v", "o", "up", "down")


def with_batch(size, steps):
    """The usual recipe with batches of this size."""
    return replace(RECIPE, batch_size=size, steps=steps)


def steps_of(entry):
    """Steps to 90 % of each seed; of one that does not arrive, one more than it had."""
    return [run["reached"] or run["steps"] + 1 for run in entry.runs]


def middle(entry):
    """The mean over seeds of the logarithm of the steps."""
    return mean(map(log_steps, entry.runs))


def spread(entries):
    """How many times the steps of the fastest the slowest takes."""
    middles = [middle(entry) for entry in entries]
    return 2 ** (max(middles) - min(middles))


def listed(words):
    return ", ".join(words[:-1]) + " and " + words[-1]


@claim(
    "The variants of LoRA learn equally fast once each has its own learning rate",
    source="Lee et al. 2026, Learning Rate Matters: Vanilla LoRA May Suffice, arXiv:2602.04998; Lee & Lee 2026, Beware "
    "of the Batch Size, arXiv:2602.09492",
    quote="once learning rates are properly tuned, all methods achieve similar peak performance (within 1-2%), "
    "with only subtle rank-dependent behaviors",
    lesson=14,
)
def variants_tie_when_tuned(f):
    """LoRA and four variants of rank 4 learn a new table: first all at LoRA's usual learning rate, then each at its
    own, which is tuned for the least mean loss while training. The same is done with batches of 8 (1,000 steps) and of
    128 (250 steps), with five seeds."""
    shared, runs = learning_rate_of(LoRA(rank=4)), {}
    for size, steps in BATCHES.items():
        settings = {"goal": NEW, "recipe": with_batch(size, steps), "seeds": None if size == 32 else 5}
        own = {f"{v}, batches of {size}": method for v, method in VARIANTS.items()}
        same = {f"{name}, shared": method for name, method in own.items()}
        found = {"tuned": f.race(own, tuned_by="area", **settings), "fixed": f.race(same, lr=shared, **settings)}
        runs[size] = {how: dict(zip(VARIANTS, entries.values(), strict=True)) for how, entries in found.items()}
        for other in list(VARIANTS)[1:]:
            text = f"batches of {size}: {other}, tuned, takes as many steps to 90 % as LoRA, tuned"
            tuned = runs[size]["tuned"]
            f.near(text, tuned[other], tuned["LoRA"], by="steps", margin=0.3, aside=size != 32)
    text = f"batches of 32: at LoRA's learning rate, {shared:g}, LoRA+ reaches 90 % in fewer steps than LoRA"
    f.ahead(text, runs[32]["fixed"]["LoRA+"], runs[32]["fixed"]["LoRA"], by="steps")
    steps = {
        f"batches of {size}": {v: {how: steps_of(by[how][v]) for how in by} for v in VARIANTS}
        for size, by in runs.items()
    }
    f.picture(
        "what_tuning_leaves",
        "Steps to 90 % of five variants of LoRA, at one shared learning rate and at their own, for three batch sizes",
        lambda: plots.fixed_and_tuned(steps, {f"batches of {s}": n + 1 for s, n in BATCHES.items()})[0],
    )
    rows = [(v, *(told(by[v][how], 0) for by in steps.values() for how in ("fixed", "tuned"))) for v in VARIANTS]
    names = (f"{size}, {how}" for size in BATCHES for how in ("shared", "tuned"))
    f.table("Steps to 90 %, by the batch size and by how the learning rate was chosen", ("", *names), rows)
    for size, by in runs.items():
        order = sorted(VARIANTS, key=lambda v, fixed=by["fixed"]: middle(fixed[v]))
        f.note(f"At the shared learning rate, from the fastest to the slowest, batches of {size}: {', '.join(order)}.")
    factors = {how: [f"{spread(by[how].values()):.1f}" for by in runs.values()] for how in ("fixed", "tuned")}
    f.result = (
        f"With batches of 8, 32 and 128, the slowest variant takes {listed(factors['fixed'])} times as many steps as "
        f"the fastest at the shared learning rate, and {listed(factors['tuned'])} times as many when each is tuned."
    )


@claim(
    "Larger batches cost LoRA more nats than full fine-tuning",
    source="Schulman and Thinking Machines Lab 2025, LoRA Without Regret, thinkingmachines.ai/blog/lora",
    quote="In some scenarios, LoRA is less tolerant of large batch sizes than full fine-tuning",
    lesson=11,
)
def large_batches(f):
    """Full fine-tuning and LoRA of rank 4 on all matrices learn a new table from 16,000 examples: in batches of 8, 32
    or 128, so in 2,000, 500 or 125 steps. Learning rates are tuned for each, for the least mean loss while training.
    That is also what is compared: the mean over all examples, so what a batch size costs shows in it."""
    methods, runs = {"full": Full(), "LoRA": LoRA(rank=4, targets=MATRICES)}, {}
    for size, steps in EQUAL.items():
        entries = {f"{name}, batches of {size}": method for name, method in methods.items()}
        found = f.race(entries, goal=NEW, recipe=with_batch(size, steps), tuned_by="area").values()
        runs |= {(name, size): entry for name, entry in zip(methods, found, strict=True)}
    small, large = min(EQUAL), max(EQUAL)

    def costs(name, how):
        pairs = zip(runs[name, large].column("area"), runs[name, small].column("area"), strict=True)
        return [{"cost": how(a or 100.0, b or 100.0)} for a, b in pairs]  # a run that diverged has no area

    more, times = ({name: costs(name, how) for name in methods} for how in (sub, lambda a, b: log2(a / b)))
    text = f"batches of {large} instead of {small} raise the loss of LoRA by more nats than that of full fine-tuning"
    f.ahead(text, more["full"], more["LoRA"], by="-cost", margin=0.05)
    text = f"batches of {large} instead of {small} multiply the loss of LoRA by more than that of full fine-tuning"
    f.ahead(text, times["full"], times["LoRA"], by="-cost", margin=0.15, aside=True)
    rows = []
    for size, steps in EQUAL.items():
        both = [runs[name, size] for name in methods]
        reached = [told(steps_of(entry), 0) for entry in both]
        losses = [told([area or 100.0 for area in entry.column("area")]) for entry in both]
        rows.append((size, steps, *reached, *losses))
    names = (*(f"steps to 90 %, {n}" for n in methods), *(f"mean loss, {n}" for n in methods))
    f.table("The price of a large batch", ("batch", "steps", *names), rows)
    nats = {name: mean(run["cost"] for run in found) for name, found in more.items()}
    factor = {name: 2 ** mean(run["cost"] for run in found) for name, found in times.items()}
    f.result = (
        f"From batches of {small} to {large}, the mean loss rises by {nats['LoRA']:.2f} nats for LoRA and by "
        f"{nats['full']:.2f} for full fine-tuning, to {factor['LoRA']:.1f} and {factor['full']:.1f} times what it was."
    )
