"""Calculating with tasks: sums, differences, averages and thinned-out changes of weights, and whether they work."""

from dataclasses import replace
from functools import lru_cache
from statistics import mean

import torch

from claims.forgetting import METHODS, WORD, Marked, Mixed
from claims.ledger import HELD_OUT, claim, measure, told
from claims.lora import MATRICES
from minipeft import arithmetic, deltas
from minipeft.bases import base as shipped
from minipeft.lab import adapt, trial
from minipeft.methods import Full, LoRA
from minipeft.tasks import EOS, ID, PAD, SEP, Few, Mixture, task
from minipeft.training import VALIDATION, Recipe, evaluate

SHORT = Recipe(steps=200)  # enough for what the base knows and is only asked for differently
SCALES = (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3)
WORDS = tuple(  # three new words, each for a table that the base knows
    Marked(task(f"{operation}+{table}"), (ID[operation], word))
    for operation, table, word in (("reverse", "red", EOS), ("left", "green", PAD), ("sort", "next", SEP))
)
SKILLS = (task("reverse+plain"), task("copy+blue"))  # together they are HELD_OUT
ANALOGY = (
    task("reverse+red"),
    task("copy+red"),
    task("copy+blue"),
)  # to the first as the third to the second: HELD_OUT


@lru_cache(200)
def learned(goal, places, lr, seed, recipe):
    """A delta for a task: LoRA of rank 4 on these matrices, or all weights if None."""
    method = LoRA(rank=4, targets=places) if places else Full()
    return deltas.delta_of(adapt(method, goal, lr, seed, recipe)[0])


def in_one_basis(model, own, scale, density=0.2):
    """TIES as KnOTS does it: not on the numbers of ΔWᵢ but on their coordinates in a basis that all share.

    [ΔW₁ … ΔWₙ] = U [C₁ … Cₙ], from the singular value decomposition; the Cᵢ are trimmed and merged to C, and ΔW = U C.
    """
    tasks, bases, parts = [arithmetic.changes(model, delta) for delta in own], {}, [{} for _ in own]
    for name in tasks[0]:
        bases[name], S, Vt = torch.linalg.svd(torch.cat([t[name] for t in tasks], dim=1), full_matrices=False)
        for part, C in zip(parts, (S[:, None] * Vt).chunk(len(own), dim=1), strict=True):
            part[name] = C
    trimmed, moved = [arithmetic.trimmed(part, density) for part in parts], {}
    for name, C in arithmetic.stack(trimmed, [scale] * len(own)).items():
        agree = C.sign() == C.sum(0).sign()
        moved[name] = bases[name] @ ((C * agree).sum(0) / agree.sum(0).clamp(min=1))
    return arithmetic.full(model, moved, {"made by": "in_one_basis"})


WAYS = {
    "sum": lambda model, own, scale: arithmetic.add(model, own, [scale] * len(own)),
    "analogy": lambda model, own, scale: arithmetic.add(model, own, [scale, -scale, scale]),
    "ties": lambda model, own, scale: arithmetic.ties(model, own, [scale] * len(own)),
    "aligned": in_one_basis,
    "factors": lambda model, own, scale: arithmetic.add_factors(own, [scale] * len(own)),
    "together": lambda model, own, scale: own[0],
}


def merged(way, lr, seed, goals=WORDS, asked=(), places=MATRICES, recipe=SHORT):
    """Train a delta for each goal, merge them in this way, and examine the result on the tasks `asked` (the goals).

    Of SCALES that one is taken which has the least loss on validation examples. "together" trains one delta on all
    goals mixed instead, for as many steps as there are in all.

    accuracy, loss: means over the tasks asked. alone: the highest mean accuracy that a single delta has on them. own:
    the mean accuracy of the deltas, each on its own goal.
    """
    asked, model, scales, trained = asked or goals, shipped(), SCALES, [(goal, recipe) for goal in goals]
    if way == "together":
        scales, trained = (1,), [(Mixed(goals), replace(recipe, steps=recipe.steps * len(goals)))]
    try:
        own = [learned(goal, places, lr, seed, settings) for goal, settings in trained]
        views = [deltas.load(WAYS[way](model, own, scale), model) for scale in scales]
        losses = [mean(evaluate(view, goal, 200, seed=VALIDATION).loss for goal in asked) for view in views]
    except (FloatingPointError, deltas.DeltaError):
        return dict.fromkeys(("accuracy", "alone", "own"), 0.0) | {"loss": None, "scale": 0, "validation": None}
    best = losses.index(min(losses))
    scores = [evaluate(views[best], goal) for goal in asked]
    singles = [deltas.load(delta, model) for delta in own]
    alone = [mean(evaluate(single, goal, 500).accuracy for goal in asked) for single in singles]
    each = [evaluate(single, goal, 500).accuracy for single, (goal, _) in zip(singles, trained, strict=True)]
    found = {"accuracy": mean(s.accuracy for s in scores), "loss": mean(s.loss for s in scores), "scale": scales[best]}
    return found | {"alone": max(alone), "own": mean(each), "validation": losses[best]}


def summary(f, runs):
    rows = [(name, *(told(e.column(c)) for c in ("accuracy", "alone", "own", "scale"))) for name, e in runs.items()]
    f.table(
        "Mean accuracy of the result, of the best single delta, of each delta on its own task; the scale chosen",
        ("", "result", "best single", "each on its own", "scale"),
        rows,
    )


@claim(
    "Adding task vectors gives one model that does several tasks",
    source="Ilharco et al. 2023, Editing models with task arithmetic, §4, arXiv:2212.04089",
    quote="adding task vectors together can improve performance on multiple tasks at once",
    lesson=15,
)
def addition(f):
    """Three new words for tables that the base knows, each learned by a delta of its own in 200 steps; then the deltas
    are added with one weight for all, chosen on validation examples. The learning rate is the one that is best for the
    sum."""
    runs = f.race({"LoRA on all six": {}, "full fine-tuning": {"places": None}}, experiment=merged, way="sum")
    lora, full = runs.values()
    for name, entry in runs.items():
        text = f"{name}: on the three tasks, the sum is better than the best single delta"
        f.ahead(text, entry, entry, by=("accuracy", "alone"), aside=entry is full)
    text = "LoRA: the sum is nearly as good as each delta on its own task"
    f.near(text, lora, lora, by=("accuracy", "own"), margin=0.1)
    runs |= f.race({"one LoRA, trained on all three": {"way": "together"}}, experiment=merged)
    summary(f, runs)
    f.result = f"The sum of three LoRAs has an accuracy of {told(lora.column('accuracy'))} on their three tasks, "
    f.result += f"the best single one {told(lora.column('alone'))}; each has {told(lora.column('own'))} on its own."


@claim(
    "The sum of LoRAs for two skills solves a task that needs both",
    source="Prabhakar et al. 2024, LoRA soups: merging LoRAs for practical skill composition tasks, arXiv:2410.13025",
    lesson=15,
)
def composition(f):
    """One LoRA learns to reverse, one to recolour letters, in 200 steps each; the sum is asked to do both, which nobody
    was trained for. Weight and learning rate are those that are best for validation examples of the task that needs
    both. As an aside, one LoRA is trained for 400 steps on both skills' examples mixed; it must fail, for the examples
    do not say which skill is meant."""
    entries = {"sum": {"way": "sum"}, "mixed data": {"way": "together"}}
    runs = f.race(entries, experiment=merged, goals=SKILLS, asked=(HELD_OUT,))
    added, data = runs.values()
    f.ahead("the sum solves more than either LoRA alone", added, added, by=("accuracy", "alone"))
    f.ahead("the sum solves more than the LoRA trained on mixed data", added, data, aside=True)
    runs |= f.race({"trained on the task": {"goals": (HELD_OUT,)}}, experiment=merged, way="sum", asked=(HELD_OUT,))
    f.ahead("a LoRA trained on the task itself has a lower loss", [*runs.values()][2], added, by="loss", aside=True)
    summary(f, runs)
    f.result = (
        f"Of the task that needs both skills, the sum solves {told(added.column('accuracy'))}, either LoRA alone "
    )
    f.result += f"at most {told(added.column('alone'))}, and one trained on mixed data {told(data.column('accuracy'))}."


@claim(
    "Where task vectors conflict, TIES merges better than adding them",
    source="Yadav et al. 2023, TIES-merging: resolving interference when merging models, arXiv:2306.01708",
    lesson=15,
)
def conflicts(f):
    """The three new words of `addition`, merged by TIES with the paper's density of .2, against the weighted sum, of
    which the mean is one; both have their weight chosen on validation examples and the learning rate that is best for
    them."""
    ways = {"sum": {"way": "sum"}, "TIES": {"way": "ties"}}
    runs = f.race(ways, experiment=merged)
    f.ahead("LoRA: the test loss is lower with TIES", runs["TIES"], runs["sum"], by="loss")
    full = f.race({f"{name}, full fine-tuning": e | {"places": None} for name, e in ways.items()}, experiment=merged)
    plain, elected = full.values()
    f.ahead("full fine-tuning: the test loss is lower with TIES", elected, plain, by="loss", vary=False)
    summary(f, runs | full)
    means = [told(entry.column("accuracy")) for entry in (runs | full).values()]
    f.result = (
        "The mean accuracy on the three tasks is {} for the sum and {} for TIES with LoRA, {} and {} with full "
        "fine-tuning."
    ).format(*means)


@claim(
    "LoRAs merge better in a basis that they share",
    source="Stoica et al. 2024, Model merging with SVD to tie the knots, arXiv:2410.19735",
    lesson=15,
)
def shared_basis(f):
    """The three LoRAs of `addition`, merged by TIES with a density of .2: on the numbers of each ΔW, and on their
    coordinates in the basis that the singular value decomposition of all of them side by side gives (KnOTS)."""
    ways = {"TIES": {"way": "ties"}, "TIES in a shared basis": {"way": "aligned"}, "sum": {"way": "sum"}}
    runs = f.race(ways, experiment=merged)
    plain, aligned, added = runs.values()
    f.ahead("the test loss is lower in the shared basis", aligned, plain, by="loss", vary=False)
    f.ahead("the test loss is lower than with the sum", aligned, added, by="loss", aside=True)
    summary(f, runs)
    accuracy = ", ".join(f"{told(e.column('accuracy'))} with {name}" for name, e in runs.items())
    f.result = f"The mean accuracy on the three tasks is {accuracy}."


@claim(
    "Averaging LoRA's factors A and B, each by itself, is not averaging what they do, and costs accuracy",
    source="Sun et al. 2024, Improving LoRA in privacy-preserving federated learning, arXiv:2403.12313",
    lesson=15,
)
def averaged_factors(f):
    """The three LoRAs of `addition`: the sum of the products BA against the product of the sums of the factors, each
    with its own weight, chosen on validation examples, and the learning rate that is best for it."""
    runs = f.race({"sum of products": {"way": "sum"}, "sums of factors": {"way": "factors"}}, experiment=merged)
    products, factors = runs.values()
    f.ahead("the test loss is lower with the sum of products", products, factors, by="loss", vary=False)
    f.ahead("so is the number of wrong answers", products, factors, aside=True)
    summary(f, runs)
    f.result = (
        f"The sum of products has a mean accuracy of {told(products.column('accuracy'))} on the three tasks, the "
    )
    f.result += f"product of the factors' sums {told(factors.column('accuracy'))}."


@claim(
    "Task vectors make analogies: A − B + C does the fourth task, without its data",
    source="Ilharco et al. 2023, Editing models with task arithmetic, §5, arXiv:2212.04089",
    lesson=15,
)
def analogies(f):
    """`reverse+red` − `copy+red` + `copy+blue`, each a LoRA of 200 steps, is asked for `reverse+blue`; the weight is
    chosen on validation examples of that task."""
    runs = f.race({"analogy": {"way": "analogy"}}, experiment=merged, goals=ANALOGY, asked=(HELD_OUT,))
    runs |= f.race({"sum of two skills": {"goals": SKILLS}}, experiment=merged, way="sum", asked=(HELD_OUT,))
    analogy, skills = runs.values()
    text = "the analogy solves more than any of the three deltas alone"
    f.ahead(text, analogy, analogy, by=("accuracy", "alone"))
    f.ahead("the sum of `reverse` and `blue` solves more than the analogy", skills, analogy, aside=True)
    summary(f, runs)
    f.result = (
        f"The analogy solves {told(analogy.column('accuracy'))} of the fourth task, the best of its three deltas "
    )
    f.result += (
        f"{told(analogy.column('alone'))}; the sum of two single skills solves {told(skills.column('accuracy'))}."
    )


# ---- taking away ------------------------------------------------------------------------------------------------

REVERSE = Mixture(tuple(pair for pair in Mixture().pairs() if pair.startswith("reverse")))
REST = Mixture(tuple(pair for pair in Mixture().pairs() if not pair.startswith("reverse")))
AMOUNTS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5)


def negated(what, lr, seed, recipe=SHORT):
    """W − λΔW, with the λ that leaves least of the instructed tasks with `reverse` and 95 % of all others (validation).

    what: ΔW is that of a LoRA that learned to reverse without instruction ("task") or from the instructed tasks
    ("instructed"), or one as large as the first with normal numbers ("random").
    """
    model = shipped()
    nothing = {"removed": 1.0, "rest": 1.0, "amount": 0, "validation": None}
    try:
        goal = REVERSE if what == "instructed" else SKILLS[0]
        moved = arithmetic.changes(model, learned(goal, MATRICES, lr, seed, recipe))
    except (FloatingPointError, deltas.DeltaError):
        return nothing
    if what == "random":
        draw = torch.Generator().manual_seed(seed)
        noise = {name: torch.randn(change.shape, generator=draw) for name, change in moved.items()}
        moved = {name: noise[name] * change.norm() / noise[name].norm() for name, change in moved.items()}
    found = []
    for amount in AMOUNTS:
        less = {name: -amount * change for name, change in moved.items()}
        view = deltas.load(arithmetic.full(model, less, {}), model)
        rest = evaluate(view, REST, 200, seed=VALIDATION).accuracy
        if rest < 0.95 * evaluate(model, REST, 200, seed=VALIDATION).accuracy:
            break
        found.append((evaluate(view, REVERSE, 200, seed=VALIDATION).accuracy, amount, view))
    left, amount, view = min(found, key=lambda one: one[0])
    result = {"removed": evaluate(view, REVERSE).accuracy, "rest": evaluate(view, REST).accuracy, "amount": amount}
    return result | {"validation": left}


@claim(
    "Subtracting a task vector makes the model forget the task and little else",
    source="Ilharco et al. 2023, Editing models with task arithmetic, §3, arXiv:2212.04089",
    lesson=15,
)
def negation(f):
    """A LoRA learns to reverse, from examples without instruction or from the instructed tasks that the base knows; it
    is subtracted with the weight that leaves least of the instructed tasks with `reverse` while 95 % of all others stay
    right. As in the paper, a random change of the same size is the control. The learning rate is the one that removes
    most."""
    names = {"learned without instruction": "task", "learned from instructions": "instructed", "random": "random"}
    runs = f.race({name: {"what": what} for name, what in names.items()}, experiment=negated)
    untold, instructed, random = runs.values()
    for name, entry in list(runs.items())[:2]:
        gone = entry.column("removed")
        text = f"{name}: less than half of the tasks with `reverse` is left"
        f.always(text, [left < 0.5 for left in gone], told(gone))
    text = "learned from instructions: it removes more than a random change"
    f.ahead(text, instructed, random, "-removed", 0.05, vary=False)
    rows = [(name, *(told(e.column(c)) for c in ("removed", "rest", "amount"))) for name, e in runs.items()]
    f.table("Accuracy left", ("subtracted", "tasks with `reverse`", "all others", "weight"), rows)
    f.result = (
        "When 95 % of the other tasks are spared, the accuracy on tasks with `reverse` is still "
        f"{told(untold.column('removed'))} after subtracting what was learned without instruction, and "
        f"{told(instructed.column('removed'))} after subtracting what was learned from instructions."
    )


# ---- thinning out -----------------------------------------------------------------------------------------------


def thinned(density, lr, seed, places=None, rescale=True, goal=HELD_OUT, recipe=SHORT):
    """Drop numbers of a trained delta by lot (DARE) and examine what is left; rescale: divide the others by density."""
    model = shipped()
    try:
        weights = [1.0 if rescale else density]
        delta = arithmetic.dare(model, [learned(goal, places, lr, seed, recipe)], weights, density, seed)
        view = deltas.load(delta, model)
        score, validation = evaluate(view, goal), evaluate(view, goal, seed=VALIDATION).loss
    except (FloatingPointError, deltas.DeltaError):
        return {"accuracy": 0.0, "loss": None, "validation": None}
    return {"accuracy": score.accuracy, "loss": score.loss, "validation": validation}


@claim(
    "Most of the numbers of a fine-tuned model's change can be dropped at random, if the others are rescaled",
    source="Yu et al. 2024, Language models are super Mario, arXiv:2311.03099",
    lesson=15,
)
def dropping(f):
    """Full fine-tuning on a held-out pair for 200 steps; then half or nine tenths of the numbers of ΔW are set to zero
    by lot and the others multiplied by 2 or 10, or not. The learning rate is the one that is best after dropping."""
    entries = {
        "nothing dropped": {"density": 1.0},
        "half dropped": {"density": 0.5},
        "nine tenths dropped": {"density": 0.1},
        "half dropped, not rescaled": {"density": 0.5, "rescale": False},
        "nine tenths of a LoRA's dropped": {"density": 0.1, "places": MATRICES},
    }
    runs = f.race(entries, experiment=thinned)
    whole, half, tenth, plain, lora = runs.values()
    f.near("without nine tenths it is as accurate as with all", tenth, whole, vary=False)
    f.ahead("half dropped: rescaling is better than none", half, plain, by="loss", vary=False)
    f.ahead("full fine-tuning stands it better than LoRA", tenth, lora, by="loss", aside=True)
    rows = [(name, told(entry.column("accuracy")), told(entry.column("loss"))) for name, entry in runs.items()]
    f.table("What is left", ("", "accuracy", "test loss"), rows)
    f.result = f"With half of the numbers dropped the accuracy is {told(half.column('accuracy'))}, without rescaling "
    f.result += f"{told(plain.column('accuracy'))}; with nine tenths dropped it is {told(tenth.column('accuracy'))}."


# ---- averaging --------------------------------------------------------------------------------------------------


def soup(lr, seed, examples=32, recipe=SHORT):
    """Four LoRAs learn the same few examples of a held-out pair, two with this learning rate and two with a third of
    it, from different starts; then their changes are averaged.

    soup, best, member: the test loss of the average, of the one with the least validation loss, and the mean of all.
    """
    model, goal = shipped(), Few(HELD_OUT, examples, seed)
    try:
        own = [learned(goal, MATRICES, rate, 4 * seed + i, recipe) for i, rate in enumerate((lr, lr, lr / 3, lr / 3))]
        views = [deltas.load(delta, model) for delta in (*own, arithmetic.add(model, own, [1 / len(own)] * len(own)))]
        *losses, _ = (evaluate(view, HELD_OUT, seed=VALIDATION).loss for view in views)
    except (FloatingPointError, deltas.DeltaError):
        return {"soup": 100.0, "best": 100.0, "member": 100.0, "validation": None}
    *tests, whole = (evaluate(view, HELD_OUT).loss for view in views)
    best = losses.index(min(losses))
    return {"soup": whole, "best": tests[best], "member": mean(tests), "validation": losses[best]}


@claim(
    "Averaging the weights of several runs gives a better model than the best of them",
    source="Wortsman et al. 2022, Model soups, arXiv:2203.05482",
    lesson=15,
)
def soups(f):
    """Four LoRAs learn the same 32 examples of a held-out pair in 200 steps, with two learning rates and different
    starts; the average of their changes stands against the one with the least validation loss. The learning rate is
    the one that is best for that one."""
    runs = f.race({"four LoRAs": {}}, experiment=soup)["four LoRAs"]
    average, best, member = (measure("loss", name) for name in ("soup", "best", "member"))
    f.ahead("the test loss of the average is lower than that of the best run", runs, runs, by=(average, best))
    f.ahead("it is lower than the runs' mean test loss", runs, runs, by=(average, member), aside=True)
    f.result = (
        f"The test loss is {told(runs.column('soup'), 3)} for the average, {told(runs.column('best'), 3)} for the "
    )
    f.result += f"best run and {told(runs.column('member'), 3)} for the mean of the runs."


SHARES = (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def between(view, base, goal):
    """W + αΔW with the least α that costs at most two points on validation examples of the task: what is kept?"""
    moved = {name: change for name, (_, change) in deltas.updates(view).items()}
    whole = evaluate(view, goal, seed=VALIDATION).accuracy
    for share in SHARES:
        less = {name: share * change for name, change in moved.items()}
        new = deltas.load(arithmetic.full(base, less, {}), base)
        if evaluate(new, goal, seed=VALIDATION).accuracy < whole - 0.02:
            break
        best, chosen = new, share
    return {"share": chosen, "kept": evaluate(best, Mixture()).accuracy, "still": evaluate(best, goal).accuracy}


@claim(
    "Between the base and the fine-tuned model lies one that has learned as much and forgotten less",
    source="Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv:2109.01903",
    lesson=2,
)
def interpolation(f):
    """Full fine-tuning and LoRA on a new word for 500 steps, at the learning rate that is best for the word; then all
    of ΔW is multiplied by the least share that costs at most two points of accuracy on validation examples."""
    entries = {name: METHODS[name] for name in ("full fine-tuning", "LoRA on all six")}
    runs = f.race(entries, experiment=trial, goal=WORD, look=between)
    for name, entry in runs.items():
        pairs = [(run["kept"] - run["retention"], run["accuracy"] - run["still"]) for run in entry.runs]
        gains = [gain for gain, _ in pairs]
        better = [gain > 0.05 and cost < 0.05 for gain, cost in pairs]
        f.always(f"{name}: five points of retention are gained for less than five of accuracy", better, told(gains))
    columns = ("share", "accuracy", "still", "retention", "kept")
    rows = [(name, *(told(e.column(c)) for c in columns)) for name, e in runs.items()]
    f.table("The share of ΔW; accuracy on the word and retention, before and after", ("", *columns), rows)
    f.result = "; ".join(
        f"with {name}, retention changes from {told(e.column('retention'))} to {told(e.column('kept'))} and accuracy "
        f"on the word changes from {told(e.column('accuracy'))} to {told(e.column('still'))}"
        for name, e in runs.items()
    )
    f.result = f"When ΔW is made smaller, {f.result}."
