"""Claims, what they ask of the lab, and the rule that turns numbers into a verdict.

A claim is a function of one argument, a Finding:

    @claim("What the paper says", source="Hu et al. 2022, LoRA, §7.1, arXiv:2106.09685", quote="...", lesson=10)
    def where(f):
        runs = f.race({"q and v": LoRA(rank=4), "v": LoRA(rank=8, alpha=16, targets=("v",))}, goal=NEW)
        f.ahead("q and v are faster than v alone", runs["q and v"], runs["v"], by="steps")

`race` tunes every entry alike and makes ten runs of each; `ahead`, `not_behind`, `near`, `oftener`, `always` and
`follows` are the statements. The verdict follows from the statements, and from nothing else. It stands if ten other
seeds give the same one.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import mean

from claims import statistics
from claims.statistics import LEVEL, Effect
from minipeft.attach import Method
from minipeft.lab import NotStored, trial, tune
from minipeft.tasks import task
from minipeft.training import RECIPE

KNOWN, HELD_OUT, NEW = task("reverse+red"), task("reverse+blue"), task("reverse+violet")
SETS = {"first": tuple(range(10)), "second": tuple(range(10, 20))}  # tuning has seeds of its own, from 100 on
SUPPORTED, CONTRADICTED, UNDECIDED, CONSTRUCTION = "supported", "contradicted", "undecided", "holds by construction"
FIRM = (SUPPORTED, CONTRADICTED)  # what ten other seeds have to confirm
CLAIMS = []


@dataclass(frozen=True)
class Measure:
    """How a run becomes a number, and what a difference in it is worth.

    better: 1 if more is better, else -1. margin: a smaller difference means nothing. unit: for the page.
    """

    name: str
    of: object
    better: int
    margin: float
    unit: str

    def values(self, runs):
        return [self.of(run) for run in runs]


def log_loss(run):
    return math.log10(max(100.0 if run["loss"] is None else run["loss"], 1e-4))


def log_steps(run):
    """Of a run that does not arrive, no more is known than that it takes longer than it lasted."""
    return math.log2(run["reached"] or run.get("steps", RECIPE.steps) + 1)


MEASURES = {
    "accuracy": Measure("accuracy", lambda run: run["accuracy"], 1, 0.05, ""),
    "loss": Measure("log10 of the test loss", log_loss, -1, 0.1, "decades"),
    "steps": Measure("log2 of the steps to 90 %", log_steps, -1, 0.15, "doublings"),
    "area": Measure("mean loss while training", lambda run: run["area"] or 100.0, -1, 0.05, "nats"),
    "retention": Measure("retention", lambda run: run["retention"], 1, 0.05, ""),
}


def measure(by, number=""):
    """A Measure: one of MEASURES, the name of a number in the runs (more is better), or "-name" (less is better).

    number: the same Measure of MEASURES, taken of this number of a run instead of its own.
    """
    if isinstance(by, Measure):
        return by
    if number:
        of, own = MEASURES[by].of, {"steps": "reached"}.get(by, by)
        return replace(MEASURES[by], of=lambda run: of(run | {own: run[number]}))
    name = by.removeprefix("-")
    return MEASURES.get(by) or Measure(name, lambda run: run[name], -1 if by[0] == "-" else 1, 0.0, "")


@dataclass
class Entry:
    """What takes part in a race. job: all arguments but `lr` and `seed`. tuning: None if the learning rate was set."""

    name: str
    experiment: object
    job: dict
    lr: float
    tuning: object
    runs: list = field(default_factory=list)

    def column(self, name):
        return [run[name] for run in self.runs]


@dataclass
class Statement:
    """decision: True, False or None. effect: an Effect, None for what is exact. aside: has no part in the verdict."""

    text: str
    kind: str
    effect: Effect | None
    numbers: str
    aside: bool
    margin: float = 0.0
    unit: str = ""
    reason: str = ""
    exact: bool | None = None
    p: float = 1.0

    @property
    def decision(self):
        if self.exact is not None:
            return self.exact
        if self.reason:
            return None
        e = self.effect
        if self.kind == "near":
            inside = -self.margin <= e.low and e.high <= self.margin
            outside = e.low > self.margin or e.high < -self.margin
            return True if inside else False if outside else None
        if self.kind == "not behind":
            return True if e.low >= -self.margin else False if e.high < -self.margin else None
        if self.kind == "always":
            return None if self.p >= LEVEL else e.size > 0.5
        if self.p < LEVEL:
            agreed = e.wins is None or (e.wins > 0.5) == (e.size > 0)  # ranks and means point the same way
            return e.size > 0 if agreed else None
        return False if e.high < self.margin else None


class Finding:
    """What one claim asks of the lab, and what it finds.

    result: one sentence. variations: (what, {value: Effect}, unit). tables: (title, columns, rows).
    pictures: (name, alt text, a function that draws it). keys: of all the runs that were asked for.
    """

    def __init__(self, lab, seeds=SETS["first"]):
        self.lab, self.seeds, self.keys, self.result = lab, seeds, set(), ""
        self.statements, self.entries, self.variations = [], [], []
        self.tables, self.pictures, self.notes = [], [], []

    # -- asking --------------------------------------------------------------------------------------------------------

    def run(self, experiment, jobs):
        """The results of the jobs, in their order."""
        self.keys |= {self.lab.key(experiment, job) for job in jobs}
        return self.lab(experiment, jobs)

    def repeat(self, experiment, *jobs, seeds=None):
        """Each job with each seed: a list of results for each job."""
        seeds = self.seeds if seeds is None else seeds
        results = iter(self.run(experiment, [job | {"seed": seed} for job in jobs for seed in seeds]))
        return [[next(results) for _ in seeds] for _ in jobs]

    def race(self, entries, experiment=trial, lr=None, seeds=None, tuned_by="validation", **settings):
        """{name: Entry}: each entry tuned alike (see `lab.tuning`), then run with each seed.

        entries: {name: a method, or a dictionary of arguments}. settings: arguments that all share. lr: of all, instead
        of tuning. seeds: how many, by default the ten of this set; beyond ten, others that no other set has. tuned_by:
        what tuning makes small, such as `area`.
        """
        jobs = {n: settings | ({"method": e} if isinstance(e, Method) else e) for n, e in entries.items()}
        open_ = [name for name, job in jobs.items() if lr is None and "lr" not in job]
        found = tune(Asking(self), experiment, [jobs[n] for n in open_], by=tuned_by)
        tunings = dict(zip(open_, found, strict=True))
        made = {}
        for name, job in jobs.items():
            rate = tunings[name].lr if name in tunings else job.get("lr", lr)
            rest = {k: v for k, v in job.items() if k != "lr"}
            made[name] = Entry(name, experiment, rest, rate, tunings.get(name))
        chosen = (*self.seeds, *(seed + 200 for seed in self.seeds))[: seeds or len(self.seeds)]
        all_runs = self.repeat(experiment, *[e.job | {"lr": e.lr} for e in made.values()], seeds=chosen)
        for entry, runs in zip(made.values(), all_runs, strict=True):
            entry.runs = [run | {"steps": entry.job.get("recipe", RECIPE).steps} for run in runs]
        self.entries += made.values()
        return made

    # -- statements ----------------------------------------------------------------------------------------------------

    def ahead(self, text, a, b, by="accuracy", margin=None, aside=False, vary=None):
        """a is better than b. a, b: Entries, or lists of runs.

        by: a measure, or one for each side; margin and unit are those of the first.
        vary: also with other steps, warm-up and learning rates; by default the claim's first comparison.
        """
        measures = [measure(one) for one in (by if isinstance(by, tuple) else (by, by))]
        m = measures[0]
        x, y = (one.values(e.runs if isinstance(e, Entry) else e) for one, e in zip(measures, (a, b), strict=True))
        effect = signed(statistics.difference(x, y), m.better)
        reason = self.untold(a, b) or saturated(m.name, x, y)
        margin = m.margin if margin is None else margin
        numbers = f"{told(x)}, against {told(y)} ({m.name})"
        self.statements.append(Statement(text, "ahead", effect, numbers, aside, margin, m.unit, reason, p=effect.p))
        first = not aside and not self.variations and isinstance(a, Entry) and isinstance(b, Entry)
        if self.seeds == SETS["first"] and (first if vary is None else vary):  # other seeds have to decide, no more
            self.variations.append((text, {"the recipe itself": effect} | self.vary(a, b, measures), m.unit or m.name))

    def near(self, text, a, b, by="accuracy", margin=None, aside=False, vary=None):
        """a and b differ by less than the margin."""
        self.ahead(text, a, b, by, margin, aside, vary)
        self.statements[-1].kind = "near"

    def not_behind(self, text, a, b, by="accuracy", margin=None, aside=False, vary=None):
        """a is better than b, or worse by less than the margin."""
        self.ahead(text, a, b, by, margin, aside, vary)
        self.statements[-1].kind = "not behind"

    def oftener(self, text, a, b, success=lambda run: run["accuracy"] >= 0.9, aside=False):
        """a succeeds with more seeds than b."""
        x, y = ([success(run) for run in (e.runs if isinstance(e, Entry) else e)] for e in (a, b))
        effect, numbers = statistics.shares(x, y), f"{sum(x)} of {len(x)} seeds, against {sum(y)} of {len(y)}"
        self.statements.append(Statement(text, "oftener", effect, numbers, aside, 0.1, "share of seeds",
                                         self.untold(a, b), p=effect.p))  # fmt: skip

    def always(self, text, values, numbers="", aside=False, of="seeds"):
        """It comes out so with nearly every seed. values: a truth value for each. of: what they are, if not seeds."""
        values = [bool(v) for v in values]
        effect = statistics.one_share(values)
        numbers = f"{sum(values)} of {len(values)} {of}" + (f"; {numbers}" if numbers else "")
        self.statements.append(Statement(text, "always", effect, numbers, aside, unit=f"share of {of}", p=effect.p))

    def follows(self, text, x, y, sign=1, aside=False):
        """y rises with x (sign=-1: falls)."""
        effect = signed(statistics.correlation(x, y), sign)
        numbers = f"rank correlation {sign * effect.size:.2f} over {len(x)} points"
        self.statements.append(Statement(text, "follows", effect, numbers, aside, 0.2, "rank correlation",
                                         saturated("", x, x) or saturated("", y, y), p=effect.p))  # fmt: skip

    def exact(self, text, holds, numbers, aside=False):
        """It must be so, and is checked."""
        self.statements.append(Statement(text, "exact", None, numbers, aside, exact=bool(holds)))

    def untold(self, *entries):
        """Why a comparison says nothing: a learning rate that was not found."""
        for e in entries:
            if isinstance(e, Entry) and e.tuning and not e.tuning.interior:
                return f"the learning rate of {e.name}, {e.lr:g}, lies at the edge of those tried"
        return ""

    def vary(self, a, b, measures, seeds=4):
        """{"steps ½": Effect, ...}: the same difference under other recipes."""
        found = {}
        for name, change, factor in VARIATIONS:
            both = []
            for e, m in zip((a, b), measures, strict=True):
                recipe = change(e.job.get("recipe", RECIPE))
                job = e.job | {"recipe": recipe, "lr": float(f"{e.lr * factor:.1g}")}
                (runs,) = self.repeat(e.experiment, job, seeds=self.seeds[:seeds])
                both.append(m.values([run | {"steps": recipe.steps} for run in runs]))
            found[name] = signed(statistics.difference(*both), measures[0].better)
        return found

    # -- for the page --------------------------------------------------------------------------------------------------

    def table(self, title, columns, rows):
        self.tables.append((title, columns, [[str(cell) for cell in row] for row in rows]))

    def picture(self, name, alt, draw):
        self.pictures.append((name, alt, draw))

    def note(self, text):
        self.notes.append(text)

    @property
    def verdict(self):
        main = [s for s in self.statements if not s.aside]
        tested = [s for s in main if s.exact is None]
        apart = [s for s in tested if s.kind not in ("near", "not behind")]  # these rest on their intervals alone
        for s, p in zip(apart, statistics.holm([s.effect.p for s in apart]), strict=True):
            s.p = p
        decisions = [s.decision for s in main]
        if False in decisions:
            return CONTRADICTED
        if None in decisions:
            return UNDECIDED
        return SUPPORTED if tested else CONSTRUCTION


VARIATIONS = [
    ("half the steps", lambda r: replace(r, steps=r.steps // 2), 1),
    ("twice the steps", lambda r: replace(r, steps=r.steps * 2), 1),
    ("warm-up .1", lambda r: replace(r, warmup=0.1), 1),
    ("warm-up .5", lambda r: replace(r, warmup=0.5), 1),
    ("a third of the learning rate", lambda r: r, 1 / 3),
    ("three times the learning rate", lambda r: r, 3),
]


def settled(first, second):
    """The verdict of a claim: a firm one stands if the second set of seeds gives the same; else it is undecided.

    second: None if the first is not firm.
    """
    return first.verdict if second is None or first.verdict == second.verdict else UNDECIDED


class Asking:
    """The lab, as a finding asks it: every run is noted."""

    def __init__(self, finding):
        self.finding = finding

    def __call__(self, experiment, jobs):
        return self.finding.run(experiment, jobs)


def signed(effect, sign):
    if sign == 1:
        return effect
    wins = None if effect.wins is None else 1 - effect.wins
    return replace(effect, size=-effect.size, low=-effect.high, high=-effect.low, wins=wins)


def saturated(by, x, y):
    """Why two samples say nothing: all of both at the floor or at the ceiling."""
    if len({*x, *y}) == 1:
        return "all runs have the same value, so the test could not tell"
    if by in ("accuracy", "retention") and (min(x + y) > 0.98 or max(x + y) < 0.02):
        return "both lie at the same end of the scale, so the test could not tell"
    return ""


def told(values, digits=2):
    """Mean and range over seeds: "0.98 (0.95 to 1.00)", or the mean alone where all are the same."""
    low, middle, high = (f"{v:.{digits}f}" for v in (min(values), mean(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


@dataclass(frozen=True)
class Claim:
    """name: for the command line. says: the claim, in a sentence. quote: the paper's own words, if they are short.
    lesson: where it is told. alone: it takes times, so nothing else may run beside it."""

    name: str
    says: str
    source: str
    quote: str
    lesson: int
    function: object
    alone: bool


def claim(says, source, lesson, quote="", alone=False):
    """Enter the function below into the ledger: it is called with a Finding, and its docstring is the experiment."""

    def enter(function):
        CLAIMS.append(Claim(function.__name__, says, source, quote, lesson, function, alone))
        return function

    return enter


def twice(claims, lab):
    """{claim: (its Finding, that with the other seeds)}; None for the second where there is no firm verdict to confirm.

    Where a Lab runs nothing, a claim of which runs are missing is left out.
    """
    first = findings(claims, lab, SETS["first"])
    firm = [claim for claim, finding in first.items() if finding.verdict in FIRM]
    second = findings(firm, lab, SETS["second"])
    other = {c: finding for c, finding in second.items() if finding.keys - first[c].keys}  # not for what has no seeds
    return {c: (finding, other.get(c)) for c, finding in first.items() if c not in firm or c in second}


def findings(claims, lab, seeds):
    """{claim: Finding}. All claims ask at the same time, so that the workers are never idle; those alone come last."""

    def found(claim):
        finding = Finding(lab, seeds)
        try:
            claim.function(finding)
        except NotStored:
            return None
        return finding

    together = [c for c in claims if not c.alone]
    with ThreadPoolExecutor(max(1, len(together))) as threads:
        try:
            result = dict(zip(together, threads.map(found, together), strict=True))
        except BaseException:  # also Ctrl-C: then no thread may go on asking
            lab.close(now=True)
            raise
    result |= {c: found(c) for c in claims if c.alone}
    return {c: finding for c, finding in result.items() if finding}
