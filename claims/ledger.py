"""Claims, verdicts, and the page that tells them.

A claim is a function that asks the lab for results and takes the claim apart into statements, each decided by a rule
from the numbers. The verdict follows from the statements and from nothing else.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import mean

from claims.lab import SEEDS, TUNING, key_of

HOLDS, PART, INVISIBLE, NOT = "holds", "holds in part", "not visible at this scale", "does not hold here"
CLAIMS = []


class Finding:
    """What one claim asks of the lab, and what it finds.

    statements: (text, decision, numbers). A decision is True, False, or None where the difference lies within the
    spread over seeds. measured: the numbers in a phrase. tables: (title, columns, rows). pictures: (name, alt text, a
    function that draws it).
    keys: of all jobs that were asked for. at_the_edge: {key of a job: was its learning rate the lowest or highest
    offered}.
    """

    def __init__(self, lab):
        self.lab, self.keys, self.measured, self.at_the_edge = lab, set(), "", {}
        self.statements, self.tables, self.pictures, self.notes = [], [], [], []

    def run(self, experiment, jobs):
        """The results of the jobs, in their order."""
        self.keys |= {key_of(experiment, job) for job in jobs}
        return self.lab(experiment, jobs)

    def seeds(self, experiment, jobs, seeds=SEEDS):
        """Each job with each seed: a list of lists of results."""
        results = iter(self.run(experiment, [job | {"seed": seed} for job in jobs for seed in seeds]))
        return [[next(results) for _ in seeds] for _ in jobs]

    def tuned(self, experiment, jobs, learning_rates, seeds=SEEDS, tuning=TUNING):
        """Each job at the learning rate of least validation loss: a list of (lr, [result for each seed]).

        The experiment takes `lr` and `seed` and returns `validation`, a loss on examples that are not reported, None if
        it diverged. Every job is offered the same learning rates; the seeds that choose are none of those reported.
        """
        tried = self.seeds(experiment, [job | {"lr": lr} for job in jobs for lr in learning_rates], tuning)
        losses = iter([sum(inf(run["validation"]) for run in runs) for runs in tried])
        by_lr = [{lr: next(losses) for lr in learning_rates} for _ in jobs]
        best = [min(losses, key=losses.get) for losses in by_lr]
        for job, lr in zip(jobs, best, strict=True):
            self.at_the_edge[key_of(experiment, job)] = lr in (min(learning_rates), max(learning_rates))
        found = self.seeds(experiment, [job | {"lr": lr} for job, lr in zip(jobs, best, strict=True)], seeds)
        return list(zip(best, found, strict=True))

    def state(self, text, decision, numbers):
        self.statements.append((text, decision if decision is None else bool(decision), numbers))

    def table(self, title, columns, rows):
        self.tables.append((title, columns, [[str(cell) for cell in row] for row in rows]))

    def picture(self, name, alt, draw):
        self.pictures.append((name, alt, draw))

    def note(self, text):
        self.notes.append(text)

    @property
    def verdict(self):
        decisions = [decision for _, decision, _ in self.statements]
        if all(decisions):
            return HOLDS
        if any(decisions):
            return PART
        return INVISIBLE if None in decisions else NOT


def inf(loss):
    return float("inf") if loss is None else loss


@dataclass(frozen=True)
class Claim:
    """name: for the command line. says: the claim. experiment: what is done here. lesson: where it is told.
    alone: it takes times, so nothing else may run beside it."""

    name: str
    says: str
    source: str
    experiment: str
    lesson: int
    function: object
    alone: bool


def claim(says, source, experiment, lesson, alone=False):
    """Enter the function below into the ledger; it is called as `function(finding)`."""

    def enter(function):
        CLAIMS.append(Claim(function.__name__, says, source, experiment, lesson, function, alone))
        return function

    return enter


def findings(claims, lab):
    """{claim: Finding}. All claims ask at the same time, so that the workers are never idle; those alone come last."""

    def found(claim):
        finding = Finding(lab)
        claim.function(finding)
        return finding

    together = [c for c in claims if not c.alone]
    with ThreadPoolExecutor(max(1, len(together))) as threads:
        result = dict(zip(together, threads.map(found, together), strict=True))
    return result | {c: found(c) for c in claims if c.alone}


def several(values, digits=2):
    """Mean and range over seeds: "0.98 (0.95–1.00)", or the mean alone where all are the same."""
    low, middle, high = (f"{v:.{digits}f}" for v in (min(values), mean(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def beats(a, b):
    """Are all of a above all of b? False if all are below; None if the two overlap."""
    if min(a) > max(b):
        return True
    return False if max(a) < min(b) else None


def column(runs, name="accuracy"):
    return [run[name] for run in runs]
