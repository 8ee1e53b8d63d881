"""Whether the claims hold on a real language model: the runs of `lab.real`, three seeds each.

Runs are few, so most statements compare two methods on each of 24 test windows, whose losses are means over the seeds.
"""

import math
from statistics import mean

from claims.ledger import Asking, Entry, Measure, claim, told
from minipeft import plots
from minipeft.lab.real import CONFIGURATIONS, on_reference, spectrum, tried, tuned

ALL, QV, FULL, ADAPTER, PROMPT = "LoRA, r 8", "LoRA, r 42, q and v", "Full", "Pfeiffer", "PromptTuning"
MARGIN = 0.05  # nats


def race(f, *names, look=None):
    """{name: Entry}, each tuned alike. Of full fine-tuning and of LoRA on all matrices the spectrum is kept as well."""
    found = {}
    for name in names:
        tuning = tuned(Asking(f), name)
        seen = look or (spectrum if name in (ALL, FULL) else None)
        job = {"method": CONFIGURATIONS[name][0]} | ({"look": seen} if seen else {})
        entry = Entry(name, on_reference, job, tuning.lr, tuning)
        (entry.runs,) = f.repeat(on_reference, job | {"lr": tuning.lr}, seeds=f.seeds[:3])
        found[name] = entry
    f.entries += found.values()
    return found


def over_seeds(entry, where="windows"):
    """The mean over seeds of the loss on each test window, or on each of the texts that the base has `said`."""
    return [mean(column) for column in zip(*entry.column(where), strict=True)]


def lower(f, text, a, b, by=0.0, aside=False, where="windows"):
    """a has the lower loss on nearly every window, by so many nats. a, b: Entries, or a loss for each window."""
    x, y = (over_seeds(e, where) if isinstance(e, Entry) else e for e in (a, b))
    of = "windows" if where == "windows" else "texts"
    f.always(text, [one + by < other for one, other in zip(x, y, strict=True)],
             f"{mean(x):.3f} nats, against {mean(y):.3f}", aside, of)  # fmt: skip


def listed(entries, column="loss"):
    return ", ".join(f"{name} {told(entry.column(column), 3)}" for name, entry in entries.items())


@claim(
    "On a real model, LoRA learns as much as full fine-tuning",
    source="Hu et al. 2022, LoRA, §5, arXiv:2106.09685",
    lesson=23,
)
def real_matches_full(f):
    """LoRA of rank 8 on all matrices against full fine-tuning, each at its own learning rate. Equal is what differs by
    less than .05 nats on the test windows. An adapter stands beside them."""
    runs = race(f, ALL, FULL, ADAPTER)
    f.near("LoRA has the test loss of full fine-tuning", runs[ALL], runs[FULL], by="-loss", margin=MARGIN, vary=False)
    lower(f, "full is better than LoRA on nearly every window", runs[FULL], runs[ALL], aside=True)
    f.near(
        "an adapter has the test loss of LoRA",
        runs[ADAPTER],
        runs[ALL],
        by="-loss",
        margin=MARGIN,
        aside=True,
        vary=False,
    )
    f.result = f"Test loss, in nats: {listed(runs)}."


@claim(
    "On a real model, LoRA wants a learning rate ten times that of full fine-tuning",
    source="Schulman et al. 2025, LoRA Without Regret (Thinking Machines Lab)",
    lesson=23,
)
def real_learning_rate(f):
    """All learning rates that tuning has tried, with one seed: on each test window, which has the lowest loss?"""
    tunings = {name: tuned(Asking(f), name) for name in (ALL, FULL)}
    best = {name: best_on_each(f, name, list(tuning.scores)) for name, tuning in tunings.items()}
    ratios = [lora / full for lora, full in zip(best[ALL], best[FULL], strict=True)]
    f.always("LoRA's best learning rate is at least three times that of full", [r >= 3 for r in ratios], of="windows")
    f.always("it is ten times that of full", [9 < r < 11 for r in ratios], aside=True, of="windows")
    f.table(
        "Log of the validation loss", ("", "learning rate: log of the loss"),
        [(n, "  ".join(f"{lr:g}: {s:.3f}" for lr, s in t.scores.items())) for n, t in tunings.items()],
    )  # fmt: skip
    f.result = (
        f"The best learning rates by validation are {tunings[ALL].lr:g} for LoRA and {tunings[FULL].lr:g} for full."
    )


def best_on_each(f, name, rates):
    """The learning rate with the lowest loss on each test window."""
    runs = tried(Asking(f), CONFIGURATIONS[name][0], rates).values()
    found = [run["windows"] or [math.inf] * 24 for run in runs]
    return [rates[column.index(min(column))] for column in zip(*found, strict=True)]


@claim(
    "On a real model, the rank hardly matters",
    source="Hu et al. 2022, LoRA, §7.2, arXiv:2106.09685",
    lesson=23,
)
def real_rank(f):
    """Ranks 1, 8 and 32 on all matrices, each at its own learning rate; and rank 1 at that of rank 8."""
    runs = race(f, "LoRA, r 1", ALL, "LoRA, r 32")
    for name in ("LoRA, r 1", "LoRA, r 32"):
        f.near(f"{name} has the test loss of rank 8", runs[name], runs[ALL], by="-loss", margin=MARGIN, vary=False)
    job = {"method": CONFIGURATIONS["LoRA, r 1"][0], "lr": runs[ALL].lr}
    (shared,) = f.repeat(on_reference, job, seeds=f.seeds[:3])
    text = "at the learning rate of rank 8, rank 1 has the test loss of rank 8"
    f.near(text, shared, runs[ALL], by="-loss", margin=MARGIN, aside=True, vary=False)
    f.result = f"Test loss, in nats: {listed(runs)}; rank 1 at {runs[ALL].lr:g}, "
    f.result += f"{told([run['loss'] for run in shared], 3)}."


@claim(
    "On a real model, LoRA on all matrices beats LoRA of equal size on q and v",
    source="Dettmers et al. 2023, QLoRA, §4, arXiv:2305.14314; Schulman et al. 2025, LoRA Without Regret",
    lesson=23,
)
def real_layers(f):
    """Rank 8 on all seven matrices of a block against rank 42 on q and v, which has as many parameters."""
    runs = race(f, ALL, QV)
    lower(f, "all matrices are better on nearly every window", runs[ALL], runs[QV])
    sizes = ", ".join(f"{name}: {entry.runs[0]['parameters']:,} parameters" for name, entry in runs.items())
    f.result = f"Test loss, in nats: {listed(runs)} ({sizes})."


@claim(
    "On a real model, LoRA learns less than full fine-tuning and forgets less",
    source="Biderman et al. 2024, LoRA Learns Less and Forgets Less, arXiv:2405.09673",
    lesson=23,
)
def real_forgetting(f):
    """What is learned is the loss on the test windows; what is forgotten, the loss on a dozen answers that the base has
    sampled, whose loss is lowest for the base itself. Both at the best learning rates. The picture has every learning
    rate that was tried: a method that forgets less for what it learns has its curve further down."""
    runs = race(f, ALL, FULL)
    lower(f, "full learns more: it is better on nearly every test window", runs[FULL], runs[ALL])
    lower(f, "LoRA forgets less: it is better on nearly all that the base has said", runs[ALL], runs[FULL],
          where="said")  # fmt: skip
    curves = {name: frontier(f, entry) for name, entry in runs.items()}
    f.table("Test loss / loss on the base's own words, by learning rate", ("", "learning rate: losses"),
            [(name, "  ".join(f"{lr:g}: {test:.2f} / {own:.2f}" for lr, test, own in points))
             for name, points in curves.items()])  # fmt: skip
    f.picture(
        "frontier_of_forgetting",
        "Loss on the base's own words against loss on the test windows, a curve for LoRA and one for full fine-tuning "
        "over learning rates; the numbers are in the table above",
        lambda: plots.learned_and_forgotten(curves),
    )
    f.result = f"Test loss: {listed(runs)}; loss on the base's own words: {listed(runs, 'own')}."


def frontier(f, entry):
    """[(learning rate, test loss, loss on the base's own words)] of all that tuning tried and did not diverge."""
    found = tried(Asking(f), entry.job["method"], list(entry.tuning.scores))
    return [(lr, run["loss"], run["own"]) for lr, run in found.items() if run["loss"] is not None]


@claim(
    "On a real model, what full fine-tuning changes has a low rank",
    source="Hu et al. 2022, LoRA, §4.1 (as a hypothesis), arXiv:2106.09685; against it Biderman et al. 2024, "
    "LoRA Learns Less and Forgets Less, arXiv:2405.09673",
    lesson=23,
)
def real_rank_of_full(f):
    """The singular values of ΔW of full fine-tuning in 16 matrices of four layers, whose ranks are 576 and less. A low
    rank means here that 64 directions hold 90 % of its energy."""
    runs = race(f, FULL)
    shares = {k: [mean(column) for column in zip(*runs[FULL].column(k), strict=True)] for k in ("top 8", "top 64")}
    f.always("64 directions hold 90 % of the energy", [s >= 0.9 for s in shares["top 64"]], of="matrices")
    f.always("8 directions hold half of it", [s >= 0.5 for s in shares["top 8"]], aside=True, of="matrices")
    f.result = f"8 directions hold {told(shares['top 8'])} of the energy, 64 hold {told(shares['top 64'])}."


@claim(
    "On a real model, LoRA makes intruder dimensions and full fine-tuning does not",
    source="Shuttleworth et al. 2024, LoRA vs Full Fine-tuning: An Illusion of Equivalence, arXiv:2410.21228",
    lesson=23,
)
def real_intruders(f):
    """An intruder is one of the ten largest left singular vectors of a trained matrix whose cosine with each of the
    base's is below .5; they are counted in 16 matrices of four layers."""
    runs = race(f, ALL, FULL)
    total = Measure("intruders", lambda run: sum(run["intruders"]), 1, 1, "")
    f.ahead("LoRA has more intruders than full", runs[ALL], runs[FULL], by=total, vary=False)
    totals = {n: told([sum(run) for run in e.column("intruders")], 1) for n, e in runs.items()}
    f.result = f"Of 160 singular vectors, {totals[ALL]} are intruders with LoRA and {totals[FULL]} with full."


@claim(
    "On a model of this size, a soft prompt stays behind",
    source="Lester et al. 2021, The Power of Scale, figure 1, arXiv:2104.08691",
    lesson=23,
)
def real_prompt(f):
    """A prompt of 16 vectors, from words of the vocabulary, against full fine-tuning and LoRA."""
    runs = race(f, PROMPT, ALL, FULL)
    lower(f, "full is better by .05 nats on nearly every window", runs[FULL], runs[PROMPT], by=MARGIN)
    lower(f, "LoRA is better by .05 nats on nearly every window", runs[ALL], runs[PROMPT], by=MARGIN, aside=True)
    f.result = f"Test loss, in nats: {listed(runs)}."
