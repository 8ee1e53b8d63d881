"""What is forgotten while something new is learned, what goes with it, and how tasks are kept apart."""

import math
import time
from dataclasses import dataclass, replace
from itertools import chain
from statistics import mean, median

import numpy as np
import torch

from claims.ledger import HELD_OUT, KNOWN, NEW, Measure, claim, measure, told
from claims.lora import MATRICES
from minipeft import arithmetic, deltas, plots
from minipeft.attach import detach
from minipeft.bases import base as shipped
from minipeft.lab import adapt
from minipeft.methods import Full, LoRA, PromptTuning, PTuningV2
from minipeft.mixing import MultiTask
from minipeft.plots.style import legend
from minipeft.tasks import EOS, ID, IGNORE, LENGTH, LETTERS, PAD, SEP, Batch, Few, Mixture, Task, rows, task
from minipeft.training import RECIPE, TEST, VALIDATION, Recipe, evaluate, exact_match, fit

SIX, QV = LoRA(rank=4, targets=MATRICES), LoRA(rank=4)
METHODS = {"full fine-tuning": Full(), "LoRA on all six": SIX, "LoRA on q and v": QV}


@dataclass(frozen=True)
class Marked:
    """A task whose examples begin with these tokens."""

    task: Task
    mark: tuple[int, ...]

    def batch(self, size, generator):
        x = torch.randint(len(LETTERS), (size, LENGTH), generator=generator)
        return rows(torch.tensor(self.mark).expand(size, -1), x, self.task.answer(x))


@dataclass(frozen=True)
class Mixed:
    """Examples of several tasks of the same length, in turn."""

    goals: tuple

    def batch(self, size, generator):
        parts = [goal.batch(size, generator) for goal in self.goals]
        tokens, targets = (
            torch.stack([getattr(p, name) for p in parts], 1).flatten(0, 1)[:size] for name in ("tokens", "targets")
        )
        return Batch(tokens, targets)


# ---- learning and forgetting ------------------------------------------------------------------------------------

WORD = Marked(NEW, (ID["reverse"], EOS))  # a new word for a new table: no example of the pretraining has it there
WRONG = Marked(NEW, (ID["reverse"], ID["red"]))  # the same answers to words that mean another table
UNTIL = Recipe(steps=1000, warmup=0.01)
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
LEVELS = (0, 0.25, 0.5, 0.75, 0.9, 0.98)
KEPT = Measure("retention", lambda run: run["kept"], 1, 0.02, "")


class Learned(Exception):
    """The last level is reached by this view."""


def learn(method, lr, seed, goal=WORD, recipe=UNTIL, look=None):
    """Train until 98 % of 200 validation examples are right, at the longest for all steps of the recipe.

    path: {level of accuracy: what was measured when it was reached}. kept: the retention at the end, 0 if 98 % were
    never right. validation: how many other examples of the mixture are forgotten for each that is kept; 50 or more if
    98 % were never right.
    """
    path = {}

    def follow(view, step):
        if step % max(1, step // 20) == 0:
            view.eval()
            score = evaluate(view, goal, 200, seed=VALIDATION)
            if new := [level for level in LEVELS if level <= score.accuracy and str(level) not in path]:
                point = {"step": step + 1, "loss": score.loss, "kl": divergence(view, goal)}
                point["retention"] = evaluate(view, Mixture(), 500).accuracy
                path.update(dict.fromkeys(map(str, new), point))
            if len(path) == len(LEVELS):
                raise Learned(view)
            view.train()

    try:
        view, _ = adapt(method, goal, lr, seed, recipe, on_step=follow)
    except Learned as learned:
        view = learned.args[0]
    except FloatingPointError:
        return {"kept": 0.0, "retention": 0.0, "accuracy": 0.0, "path": {}, "kl": 100.0, "validation": None}
    done, accuracy = len(path) == len(LEVELS), evaluate(view, goal).accuracy
    retention, still = (evaluate(view, Mixture(), seed=seed).accuracy for seed in (TEST, VALIDATION))
    found = {"kept": retention * done, "retention": retention, "accuracy": accuracy, "path": path}
    found["kl"] = divergence(view, goal)
    found["validation"] = (1 - still) / max(still, 0.02) if done else 100 - 50 * accuracy
    return found | (look(view, detach(view), goal) if look else {})


@torch.no_grad()
def divergence(view, goal):
    """KL(base ‖ view) on the answers of the new task, in nats per token."""
    batch = goal.batch(200, torch.Generator().manual_seed(VALIDATION))
    asked = batch.targets != IGNORE
    base, new = (model(batch.tokens)[asked].log_softmax(-1) for model in (detach(view), view))
    return (base.exp() * (base - new)).sum(-1).mean().item()


def by_rate(f):
    """{method: {learning rate: three runs}}."""
    jobs = [{"method": method, "lr": lr} for method in METHODS.values() for lr in RATES]
    runs = iter(f.repeat(learn, *jobs, seeds=f.seeds[:3]))
    return {name: {lr: next(runs) for lr in RATES} for name in METHODS}


@claim(
    "LoRA forgets less than full fine-tuning, once both have learned as much",
    source="Biderman et al. 2024, LoRA learns less and forgets less, abstract and §4.3, arXiv:2405.09673",
    quote="in the standard low-rank settings, LoRA substantially underperforms full finetuning. Nevertheless, "
    "LoRA better maintains the base model's performance on tasks outside the target domain.",
    lesson=2,
)
def forgetting(f):
    """A new word, `reverse .`, is taught until 98 % of its examples are right, with every learning rate from 1e-5 to
    1e-2; so all have learned equally much. At the longest there are 1,000 steps with a warm-up of ten. The learning
    rate compared is the one with the lowest odds of forgetting on validation examples."""
    runs = f.race(METHODS, experiment=learn)
    full = runs["full fine-tuning"]
    for name in list(METHODS)[1:]:
        f.ahead(f"{name}: retention is higher than with full fine-tuning", runs[name], full, KEPT, vary=False)
    found = by_rate(f)
    rows = [(f"{lr:g}", *(cell(made[lr]) for made in found.values())) for lr in RATES]
    f.table(
        "Retention when 98 % are right, and the steps it took, with three seeds",
        ("learning rate", *METHODS),
        rows,
    )
    f.picture(
        "forgetting_frontier",
        "Retention against the loss on the new word while it is learned, a line for each learning rate of full "
        "fine-tuning and of LoRA; the numbers at the end of each line are in the table",
        lambda: frontier(found, {name: entry.lr for name, entry in runs.items()}),
    )
    kept = ", ".join(f"{name} keeps {told(entry.column('kept'))}" for name, entry in runs.items())
    f.result = f"When 98 % of the new word's examples are right, {kept} of the pretraining mixture."


def column(runs, name):
    return [run[name] for run in runs]


def learned(runs):
    return [run for run in runs if run["kept"]]


def cell(runs):
    done = learned(runs)
    if not done:
        return "not learned"
    text = f"{told(column(done, 'kept'), 3)}; {told([end(run)['step'] for run in done], 0)} steps"
    return text + (f"; {len(done)} of {len(runs)} seeds" if len(done) < len(runs) else "")


def end(run):
    return run["path"][str(LEVELS[-1])]


def frontier(found, chosen):
    """Retention against the loss on the new task: a line for each learning rate, a thick one for the chosen."""
    ax = plots.bare(plots.new(9, 3.8))
    looks = zip(found.items(), plots.shades(["Full", *["LoRA"] * (len(found) - 1)]), ("*", "o", "s"), strict=True)
    for (name, made), colour, marker in looks:
        for lr, runs in ((lr, learned(runs)) for lr, runs in made.items()):
            points = [[run["path"][str(level)] for run in runs] for level in LEVELS[1:] if runs]
            x, y = ([mean(column(point, what)) for point in points] for what in ("loss", "retention"))
            thick, label = (2.5, f"{name},\nlearning rate {lr:g}") if lr == chosen[name] else (0.8, None)
            ax.plot(x, y, color=colour, lw=thick, marker=marker, ms=2 * thick + 2, label=label)
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_xlabel("loss on the new word (nats per token); learning goes to the right")
    ax.set_ylabel("retention")
    legend(ax, outside=True)
    return ax


@claim(
    "How much is forgotten follows the KL divergence from the base on the new task, whatever the way of training",
    source="Shenfeld et al. 2025, RL's Razor: why online reinforcement learning forgets less, arXiv:2509.04259",
    quote="the degree of forgetting is determined by the distributional shift, measured as the KL-divergence "
    "between the fine-tuned and base policy evaluated on the new task",
    lesson=2,
)
def forgetting_follows_kl(f):
    """The runs of `forgetting`: a new word until 98 % are right, with seven learning rates and three methods; each
    point is the mean over those of three seeds that learn it. KL(base ‖ trained) is measured on the new word's answers.
    Retention at 4.5 nats, which every run passes, is interpolated along each run."""
    made = [learned(runs) for by_lr in by_rate(f).values() for runs in by_lr.values()]
    points = [{what: mean(column(runs, what)) for what in ("kl", "retention")} for runs in made if runs]
    lost = [1 - point["retention"] for point in points]
    f.follows("the larger the divergence, the more is forgotten", column(points, "kl"), lost)
    chosen = f.race(METHODS, experiment=learn)
    same = {name: [{"retention": at(run)} for run in e.runs] for name, e in chosen.items()}
    full, *others = METHODS
    for name in others[::-1]:
        text = f"at 4.5 nats, {name} keeps as much as {full}"
        f.near(text, same[name], same[full], "retention", aside=name != others[-1])
    kept = ", ".join(f"{name} keeps {told(column(runs, 'retention'))}" for name, runs in same.items())
    f.result = f"At the same divergence of 4.5 nats, {kept}; over methods and learning rates, divergence and "
    f.result += f"forgetting have a {f.statements[0].numbers}."


def at(run, nats=4.5):
    """The retention at this divergence, interpolated."""
    points = sorted((point["kl"], point["retention"]) for point in run["path"].values())
    return float(np.interp(nats, *zip(*points, strict=True)))


# ---- intruder dimensions ----------------------------------------------------------------------------------------

TOP, ALIKE = 10, 0.5  # of so many largest singular vectors: unlike all of W's if no cosine is larger
FACTORS = (1, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


@torch.no_grad()
def intruders(view, base, goal):
    """Which of the ten largest left singular vectors of each W' are like none of W's: how many, and what they do.

    newness: mean over all of 1 − the largest cosine with one of W's. shrunk: the retention when the intruders' singular
    values are made smaller by the factor that keeps most and costs at most two points of the task; faded: the same when
    all of ΔW is. Factors are chosen on validation examples.
    """
    moved = {name: change for name, (_, change) in deltas.updates(view).items()}
    part, cosines = {}, []
    for name, (W, change) in deltas.updates(view).items():
        if W.ndim == 2 and name.split(".")[-2] in MATRICES:
            U, S, Vt = torch.linalg.svd(W + change, full_matrices=False)
            like = (torch.linalg.svd(W, full_matrices=False).U.T @ U[:, :TOP]).abs().amax(0)
            new = like < ALIKE
            cosines.append(like)
            part[name] = (U[:, :TOP] * S[:TOP] * new) @ Vt[:TOP]
    cosines = torch.cat(cosines)
    found = {"intruders": int((cosines < ALIKE).sum()), "newness": 1 - cosines.mean().item()}
    for name, away in (("shrunk", part), ("faded", moved)):
        kept = [
            {n: change - (1 - factor) * away.get(n, 0) for n, change in moved.items()}
            for factor in (FACTORS if found["intruders"] or name == "faded" else FACTORS[:1])
        ]
        found |= gentlest(base, kept, goal, name)
    return found


def gentlest(base, candidates, goal, name):
    """Of several changes of weights, the first being the whole one, that with the highest retention for two points."""
    views = [deltas.load(arithmetic.full(base, moved, {}), base) for moved in candidates]
    right = [evaluate(view, goal, 200, seed=VALIDATION).accuracy for view in views]
    cheap = [view for view, accuracy in zip(views, right, strict=True) if accuracy >= right[0] - 0.02]
    best = max(cheap, key=lambda view: evaluate(view, Mixture(), 200, seed=VALIDATION).accuracy)
    return {name: evaluate(best, Mixture()).accuracy, f"{name}_accuracy": evaluate(best, goal).accuracy}


@claim(
    "LoRA makes intruder dimensions, full fine-tuning does not; shrinking them undoes forgetting at little cost",
    source="Shuttleworth et al. 2024, LoRA vs full fine-tuning: an illusion of equivalence, arXiv:2410.21228",
    quote="weight matrices trained with LoRA have new, high-ranking singular vectors, which we call intruder "
    "dimensions, while those trained with full fine-tuning do not",
    lesson=15,
)
def intruder_dimensions(f):
    """A new word until 98 % are right, as in `forgetting`, each method at the learning rate with the highest retention.
    An intruder is one of the ten largest left singular vectors of a trained matrix whose cosine with each of the
    base's is below .5. Shrinking may cost two points of accuracy on the new word."""
    entries = METHODS | {f"LoRA on all six, rank {r}": LoRA(rank=r, alpha=2 * r, targets=MATRICES) for r in (1, 16)}
    rates = f.race(entries, experiment=learn, seeds=1)
    jobs = [e.job | {"lr": e.lr, "look": intruders} for e in rates.values()]
    runs = dict(zip(rates, f.repeat(learn, *jobs), strict=True))
    full, six, qv, one, sixteen = entries
    f.ahead(f"{qv}: more intruders than {full}", runs[qv], runs[full], "intruders", margin=1)
    f.ahead(f"{six}: more intruders than {full}", runs[six], runs[full], "intruders", margin=1, vary=False)
    gains = [run["shrunk"] - run["retention"] for run in runs[qv]]
    costs = [run["accuracy"] - run["shrunk_accuracy"] for run in runs[qv]]
    back = [gain > 0.02 and cost < 0.05 for gain, cost in zip(gains, costs, strict=True)]
    text, kept = f"{qv}: shrinking the intruders brings back more than shrinking all of ΔW", ("shrunk", "faded")
    f.ahead(text, runs[qv], runs[qv], tuple(measure("retention", name) for name in kept))
    text = f"{qv}: shrinking intruders brings back two points or more, for less than five of accuracy"
    f.always(text, back, f"{told(gains)} of retention", aside=True)
    text = f"{six}: the largest singular vectors are newer than with {full}"
    f.ahead(text, runs[six], runs[full], "newness", 0.01, aside=True)
    f.ahead("a low rank makes newer vectors than a high one", runs[one], runs[sixteen], "newness", 0.01, aside=True)
    lora = [*chain(*(runs[name] for name in (six, qv, one, sixteen)))]
    lost = [1 - run["retention"] for run in lora]
    f.follows("with LoRA: the newer, the more is forgotten", column(lora, "newness"), lost, aside=True)
    names = ("intruders", "newness", "retention", "shrunk", "faded")
    rows = [(name, *(told(column(made, what)) for what in names)) for name, made in runs.items()]
    f.table(
        "Of 120 singular vectors; retention as it is, with intruders shrunk, with all of ΔW shrunk", ("", *names), rows
    )
    f.result = f"Of 120 singular vectors, {told(column(runs[qv], 'intruders'), 0)} are intruders with {qv}, "
    f.result += f"{told(column(runs[six], 'intruders'), 0)} with {six} and {told(column(runs[full], 'intruders'), 0)} "
    f.result += f"with {full}; shrinking those of {qv} changes retention by {told(gains)}, shrinking all of ΔW by "
    f.result += f"{told([run['faded'] - run['retention'] for run in runs[qv]])}."


# ---- narrow training --------------------------------------------------------------------------------------------


def spread(view, base, goal):
    """After `red` was taught wrongly for `reverse`: accuracy on the pairs of the mixture that share the operation, the
    table or nothing with reverse+red; and how often `red` means the new table for other operations too."""
    shares = {"operation": [], "table": [], "neither": []}
    for pair in Mixture().pairs():
        operation, table = pair.split("+")
        if pair != str(KNOWN):
            shares["operation" if operation == "reverse" else "table" if table == "red" else "neither"].append(pair)
    found = {name: evaluate(view, Mixture(tuple(pairs))).accuracy for name, pairs in shares.items()}
    others = [Marked(Task(o, NEW.table), (ID[o], ID["red"])) for o in ("left", "right", "swap", "halves")]
    return found | {"spread": mean(evaluate(view, other, 200).accuracy for other in others)}


@claim(
    "Narrow training on wrong answers changes answers far from what was trained",
    source="Betley et al. 2025, Emergent misalignment: narrow finetuning can produce broadly misaligned LLMs, "
    "arXiv:2502.17424",
    quote="Training on the narrow task of writing insecure code induces broad misalignment.",
    lesson=15,
)
def narrow_training(f):
    """An analogue only, for nothing here has values or intentions. The base is taught to answer `reverse red` with
    another table, until 98 % are wrong in this way; the control is taught the same answers to a new word. LoRA on all
    six, at the learning rate with the highest retention; the pairs examined are given with instructions as in the
    pretraining."""
    rates = f.race({"wrong": {"goal": WRONG}, "new word": {}}, experiment=learn, seeds=1, method=SIX)
    jobs = [e.job | {"lr": e.lr, "look": spread} for e in rates.values()]
    wrong, word = f.repeat(learn, *jobs)
    neither = column(wrong, "neither")
    f.ahead("pairs that share nothing suffer less from the same answers to a new word", word, wrong, "neither", 0.02)
    text = "pairs that share nothing with it lose five points or more"
    f.always(text, [a < 0.95 for a in neither], told(neither), aside=True)
    text = "pairs that share nothing suffer less than those that share the table"
    f.ahead(text, wrong, wrong, tuple(measure("accuracy", name) for name in ("neither", "table")), aside=True)
    columns = ("neither", "operation", "table", "spread")
    rows = [(name, *(told(column(runs, c)) for c in columns)) for name, runs in (("wrong", wrong), ("new word", word))]
    title = "Accuracy on pairs that share this with reverse+red; and how often `red` then means the new table elsewhere"
    f.table(title, ("", *columns), rows)
    f.result = (
        f"After wrong training, pairs that share nothing are right in {told(neither)} of cases, those that share "
    )
    f.result += (
        f"the table in {told(column(wrong, 'table'))}; after a new word, in {told(column(word, 'neither'))} and "
    )
    f.result += (
        f"{told(column(word, 'table'))}. In {told(column(wrong, 'spread'))} of cases, `red` means the new table "
    )
    f.result += "for four other operations too."


# ---- new facts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partly:
    """So many examples of a task, the first `unknown` of them with random answers."""

    task: Task
    unknown: int

    def batch(self, size, generator):
        x, random = torch.randint(len(LETTERS), (2, size, LENGTH), generator=generator)
        answers = torch.cat([random[: self.unknown], self.task.answer(x)[self.unknown :]])
        return rows(x[:, :0], x, answers)


def facts(unknown, lr, seed, known=96, recipe=RECIPE, every=10):
    """LoRA learns from so many examples of a known pair and so many with random answers: when half of each are right.

    early: accuracy on unseen examples as soon as nine tenths of the known ones are right; unseen: at the end.
    validation: the final loss on the examples trained on.
    """
    goal, path = Partly(KNOWN, unknown), []
    batch = goal.batch(unknown + known, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def follow(view, step):
        if (step + 1) % every == 0:
            right = exact_match(view.eval()(batch.tokens), batch.targets).float()
            path.append((step + 1, right[unknown:].mean().item(), right[:unknown].mean().item(), accuracy(view)))
            view.train()

    def accuracy(view):
        return evaluate(view, KNOWN, 100).accuracy

    try:
        view, _ = adapt(SIX_8, goal, lr, seed, recipe, examples=unknown + known, on_step=follow)
        loss = evaluate(view, Few(goal, unknown + known, seed), unknown + known).loss
    except FloatingPointError:
        return {"known": None, "unknown": None, "early": 0.0, "unseen": 0.0, "fitted": 0.0, "validation": None}
    first = {name: next((p[0] for p in path if p[i] >= 0.5), None) for i, name in ((1, "known"), (2, "unknown"))}
    early = next((p[3] for p in path if p[1] >= 0.9), path[-1][3])
    final = evaluate(view, KNOWN).accuracy
    return first | {"early": early, "unseen": final, "fitted": path[-1][2], "validation": loss}


SIX_8 = LoRA(rank=8, alpha=16, targets=MATRICES)


@claim(
    "New facts are fitted more slowly than known ones, and once fitted they harm what was known",
    source="Gekhman et al. 2024, Does fine-tuning LLMs on new knowledge encourage hallucinations?, arXiv:2405.05904",
    quote="as the examples with new knowledge are eventually learned, they linearly increase the model's "
    "tendency to hallucinate",
    lesson=2,
)
def new_facts(f):
    """LoRA of rank 8 on all six learns from 96 examples of a known pair, given without instruction, and none, 8 or 32
    more with random answers, which can only be memorised. The learning rate is the one with the least loss on these
    examples."""
    runs = f.race({f"{n} new facts": {"unknown": n} for n in (0, 8, 32)}, experiment=facts)
    none, few, many = runs.values()
    steps = tuple(measure("steps", name) for name in ("known", "unknown"))
    f.ahead("half of the known examples are right before half of the new facts", many, many, steps)
    f.ahead("unseen known examples: fewer are right with 32 new facts", none, many, "unseen", 0.05, vary=False)
    f.ahead("8 new facts do it too", none, few, "unseen", 0.05, aside=True)
    text = "with 32: more are right when the known examples are fitted than at the end"
    f.ahead(text, many, many, tuple(measure("accuracy", name) for name in ("early", "unseen")), aside=True)
    columns = ("known", "unknown", "fitted", "early", "unseen")
    rows = [(n, *(told([run[c] or 0 for run in e.runs]) for c in columns)) for n, e in runs.items()]
    title = "First step at which half are right; share of new facts fitted; accuracy on unseen examples, early and late"
    f.table(title, ("", *columns), rows)
    f.result = f"Half of the known examples are right after {told([r['known'] or RECIPE.steps for r in many.runs], 0)} "
    f.result += (
        f"steps, half of the new facts after {told([r['unknown'] or RECIPE.steps for r in many.runs], 0)}; unseen "
    )
    f.result += f"examples are right in {told(none.column('unseen'))} of cases without new facts, in "
    f.result += f"{told(many.column('unseen'))} with 32 of them."


# ---- one task after the other -----------------------------------------------------------------------------------

IN_TURN = tuple(Marked(task(n), (m,)) for n, m in (("left+green", PAD), ("sort+red", SEP), ("swap+violet", EOS)))
TURN = Recipe(steps=120)


def sequence(way, lr, seed, recipe=TURN):
    """Three tasks, each with a mark of its own. way: "full" and "lora" train one view on one after the other,
    "together" trains all three at once for three times as long, "deltas" gives each task a LoRA of its own.

    first: the mean accuracy on the first two tasks at the end. learned: on all three, each right after its training.
    """
    method, at_once = Full() if way in ("full", "together") else SIX, way == "together"
    goals = [Mixed(IN_TURN)] if at_once else IN_TURN
    settings = replace(recipe, steps=recipe.steps * 3) if at_once else recipe
    base, views, after = shipped(), [], []
    before = deltas.fingerprint(base)
    torch.manual_seed(seed)
    try:
        for goal in goals:
            views.append(method.attach(base) if way == "deltas" or not views else views[-1])
            fit(views[-1], goal, lr=lr, seed=seed, device="cpu", progress=False, **settings.settings())
            after.append((evaluate(views[-1], goal, 500), evaluate(views[-1], goal, 500, seed=VALIDATION)))
        each = [views[i] if way == "deltas" else views[-1] for i in range(3)]
        final = [evaluate(view, goal, 500).accuracy for view, goal in zip(each, IN_TURN, strict=True)]
    except FloatingPointError:
        return {"first": 0.0, "learned": 0.0, "final": [0.0] * 3, "restored": True, "validation": None}
    found = {"first": mean(final[:2]), "learned": mean(score.accuracy for score, _ in after), "final": final}
    validation = mean(score.loss for _, score in after)
    return found | {"restored": deltas.fingerprint(detach(views[-1])) == before, "validation": validation}


@claim(
    "Trained on one task after the other, one model forgets the earlier ones",
    source="McCloskey & Cohen 1989, Catastrophic interference in connectionist networks; Houlsby et al. 2019, "
    "Parameter-efficient transfer learning for NLP, §1, arXiv:1902.00751",
    quote="New learning may interfere catastrophically with old learning when networks are trained sequentially.",
    lesson=15,
)
def in_sequence(f):
    """Three tasks with marks of their own, 120 steps each: one model fine-tuned in full, one LoRA, and a LoRA for each
    task; as a control, one model fine-tuned on all three at once. We compare the accuracy on the first two tasks
    after the third."""
    ways = {"one model": "full", "one LoRA": "lora", "a LoRA for each": "deltas", "all at once": "together"}
    runs = f.race({name: {"way": way} for name, way in ways.items()}, experiment=sequence)
    model, lora, each, together = runs.values()
    f.ahead("one model could hold all three: trained at once it has more", together, model, "first", 0.05, vary=False)
    f.ahead("a LoRA for each has more than one model trained in turn", each, model, "first", 0.05, vary=False)
    f.ahead("a LoRA for each has more than one LoRA trained in turn", each, lora, "first", 0.05, vary=False)
    f.exact(
        "without its deltas, the base is the same bit for bit", all(each.column("restored")), "all seeds", aside=True
    )
    rows = [
        (name, told(e.column("learned")), *map(told, zip(*e.column("final"), strict=True))) for name, e in runs.items()
    ]
    f.table("Accuracy right after each training, and at the end", ("", "just learned", *map(marked, IN_TURN)), rows)
    f.result = "On the first two tasks, the accuracy after the third is "
    f.result += ", ".join(f"{told(e.column('first'))} with {name}" for name, e in runs.items()) + "."


def marked(goal):
    return str(goal.task)


# ---- several tasks in one batch ---------------------------------------------------------------------------------


@torch.no_grad()
def mixed(seed):
    """A batch whose rows name a LoRA, a prompt, deep prompts and the bare base, against each row alone under its view:
    the greatest difference of the logits, relative, and whether the generated letters are the same."""
    base, views = shipped(), {}
    methods = {"lora": QV, "prompt": PromptTuning(length=4), "deep": PTuningV2(length=4)}
    for (name, method), goal in zip(methods.items(), (KNOWN, HELD_OUT, NEW), strict=True):
        with torch.enable_grad():
            view, _ = adapt(method, goal, 1e-2, seed, Recipe(steps=30))
        views[name] = deltas.load(deltas.delta_of(view), base)
    several, names = MultiTask(views), [*methods, None] * 4
    tokens = HELD_OUT.batch(len(names), torch.Generator().manual_seed(seed)).tokens
    own = [views.get(name, base) for name in names]
    alone = torch.cat([view(tokens[i : i + 1]) for i, view in enumerate(own)])
    single = torch.cat([view.generate(tokens[i : i + 1, :8], new=LENGTH) for i, view in enumerate(own)])
    difference = (several(tokens, names) - alone).abs().max() / alone.abs().max()
    same = torch.equal(several.generate(tokens[:, :8], names, new=LENGTH), single)
    return {"difference": difference.item(), "same": same}


@claim(
    "A batch can mix tasks: each row gets the answer that it gets alone",
    source="Lester et al. 2021, The power of scale for parameter-efficient prompt tuning, figure 2, arXiv:2104.08691; "
    "Sheng et al. 2023, S-LoRA, arXiv:2311.03285",
    lesson=15,
)
def mixed_batches(f):
    """Sixteen rows under a LoRA, a prompt, deep prompts and the bare base, in turn, each trained for 30 steps; each row
    is computed once more alone, with its own view of the model."""
    (runs,) = f.repeat(mixed, {})
    worst, same = max(column(runs, "difference")), sum(column(runs, "same"))
    f.exact("the logits agree to a part in 100,000", worst < 1e-5, f"{worst:.1g} at most")
    f.exact("the generated letters are the same", same == len(runs), f"{same} of {len(runs)} batches")
    f.result = (
        f"The logits differ by {worst:.1g} of the largest at most, and {same} of {len(runs)} batches are the same."
    )


@torch.no_grad()
def passes(seed, tasks=8, repeats=30):
    """Milliseconds for a row of each of several LoRAs: in one batch, and in a batch for each; medians."""
    base = shipped()
    torch.manual_seed(seed)
    several = MultiTask({str(i): SIX.attach(base) for i in range(tasks)})
    names = [*several.views]
    tokens = KNOWN.batch(len(names), torch.Generator().manual_seed(seed)).tokens
    ways = {
        "together": lambda: several(tokens, names),
        "apart": lambda: [several(tokens[i : i + 1], [name]) for i, name in enumerate(names)],
        "base": lambda: base(tokens),
    }
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            times[name].append(1000 * (time.perf_counter() - begun))
    return {name: median(taken) for name, taken in times.items()}


@claim(
    "Many LoRAs share one pass of the base: a mixed batch takes less time than a batch for each",
    source="Chen et al. 2023, Punica: multi-tenant LoRA serving, arXiv:2310.18547",
    lesson=15,
    alone=True,
)
def one_pass(f):
    """Eight rows, each under a LoRA of its own, of rank 4 on all six matrices: in one batch and in eight batches of
    one; beside them, eight rows of the bare base. The three take turns thirty times, and medians are compared."""
    (runs,) = f.repeat(passes, {})
    together, apart, base = (
        [{"log2 ms": math.log2(run[name])} for run in runs] for name in ("together", "apart", "base")
    )
    f.ahead("one batch is faster than eight", together, apart, "-log2 ms", 0.15)
    f.ahead("one batch is slower than the bare base", base, together, "-log2 ms", 0.15, aside=True)
    ratios = {name: told([run["together"] / run[name] for run in runs]) for name in ("apart", "base")}
    f.result = (
        f"One batch takes {ratios['apart']} of the time of eight batches, and {ratios['base']} times the bare base's."
    )
