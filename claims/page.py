"""lessons/claims.md: one row for each claim, then a section for each with all its numbers."""

import math
from pathlib import Path

from claims.ledger import CONSTRUCTION, CONTRADICTED, FIRM, SUPPORTED, UNDECIDED, Entry, settled
from minipeft.training import RECIPE

LESSONS = Path(__file__).parents[1] / "lessons"
MARKS = {True: "✓", False: "✗", None: "·"}
LOSSES = {"validation": "validation", "area": "mean loss while training", "reached": "steps to 90 %"}
SIGNS = {SUPPORTED: "✓", CONTRADICTED: "✗", UNDECIDED: "·", CONSTRUCTION: "="}

BEGINNING = """# The ledger of claims

Statements of papers about parameter-efficient fine-tuning, put to the test on small models. `python run.py claims`
writes this page from the runs in [`claims/runs.jsonl`](../claims/runs.jsonl); nothing here is typed in by hand.

**What was tested on.** Transformers of 30,000 to 240,000 parameters and tasks on six letters; for lessons 17 to 20 also
a vision Transformer, a dual encoder, an encoder-decoder, a convolutional network and an LSTM, of 60,000 to 250,000. A
verdict says what is so *here*; it may not hold for large models. Each claim is charged to the paper that made it.
Claims that begin with "On a real model" were tested on SmolLM2, which has 135 million parameters.

**How it was tested.** Every run has the same recipe: {recipe}. A departure stands beside its number. Whatever is
compared was tuned alike: learning rates half a decade apart, from whole decades to the best one and its neighbours,
with three or four seeds that are not reported (about sixteen runs for each configuration). Of learning rates within a
tenth of the best score, the one that learns soonest is taken; the search goes on until a lower and a higher one have
been tried with as many seeds. Then ten seeds are run. A learning rate at the edge of what was tried gives no verdict.
On the real model a run takes a minute, so there tuning has one seed, and three seeds are run; what is counted is on how
many of 24 windows of test text, or of 16 matrices, their mean comes out so.

**How a verdict is reached.** Each claim has one or more statements. A statement is tested exactly and two-sided: ranks
(Mann and Whitney), shares (Fisher), or how often something comes out (sign test), at .05 after Holm's correction within
the claim. The effect is a difference of means, which a few failed seeds can move far; ranks tell whether one is mostly
better (*wins*: the share of pairs of seeds in which it is). Where ranks and means point opposite ways, nothing is
decided. A positive effect is in the claim's direction. Intervals are of 95 % (Welch for means, Newcombe or Wilson for
shares, Fisher's z for rank correlations) and not corrected. Asides have no part in the verdict or in the correction.

- **supported**: every statement is significant in the claim's direction. (A statement that two things are alike, or
  that one is not behind: the interval of the difference lies within the margin.)
- **contradicted**: for one statement the opposite is significant, or the interval lies below what matters (*matters
  from*): there is no such effect, or none worth the name.
- **undecided**: the test could not tell. *Would have seen* is the size of a true difference that the test sees in 80 %
  of cases (none: it misses the greatest possible difference more often than that).
- **holds by construction**: it follows from the equations; the check is that the code does so.

A claim that ten seeds support or contradict is tested again, with ten other seeds alone. The verdict stands if it comes
out the same; else the claim is undecided. Numbers are those of the first ten, unless it says otherwise.

The verdicts on {total} claims are {counts}. {again}

The whole ledger is {runs:,} runs and {hours:.1f} hours of one core. Made with PyTorch {torch} and Python {python}.
"""


def path_of(number):
    return next(path.name for path in sorted(LESSONS.glob(f"{number:02}_*.ipynb")))


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def counted(verdicts):
    return ", ".join(f"{verdicts.count(v)} times *{v}*" for v in SIGNS if v in verdicts)


def page(found, lab, waiting=()):
    """The text. found: {claim: (its Finding, that with ten other seeds)}. waiting: claims whose runs are missing."""
    found = dict(sorted(found.items(), key=lambda item: (item[0].lesson, item[0].name)))
    keys = set().union(*(finding.keys for both in found.values() for finding in both if finding))
    made = [lab.store.lines[key]["key"] for key in keys]
    versions = {name: ", ".join(sorted({line[name] for line in made})) for name in ("torch", "python")}
    text = BEGINNING.format(
        recipe=recipe(RECIPE), total=len(found), counts=counted([settled(*both) for both in found.values()]),
        again=repeated(found), runs=len(keys), hours=lab.store.seconds(keys) / 3600, **versions,
    )  # fmt: skip
    rows = [
        (f"[{c.says}](#{c.name})", c.source, f"{SIGNS[settled(f, other)]} **{settled(f, other)}**", f.result,
         main_effect(f), f"[{c.lesson:02}]({path_of(c.lesson)})")
        for c, (f, other) in found.items()
    ]  # fmt: skip
    text += "\n" + table(("claim", "source", "verdict", "what was found", "effect", "lesson"), rows) + "\n"
    if waiting:
        text += "\nThese claims have their experiment, and wait for their runs (`python run.py claims NAME`):\n\n"
        text += "".join(f'- <a id="{c.name}"></a>{c.says} (*{c.source}*; `{c.name}`)\n' for c in waiting)
    return text + "".join(section(c, *both, lab) for c, both in found.items())


def recipe(r):
    return (
        f"{r.steps} steps of {r.batch_size} new examples, AdamW with betas {r.betas[0]:g} and {r.betas[1]:g}, no "
        f"weight decay, gradients clipped at {r.clip:g}, warm-up for {100 * r.warmup:.0f} % of the steps, then a cosine"
    )


def repeated(found):
    """Which firm verdicts the other seeds do not repeat."""
    firm = {claim: both for claim, both in found.items() if both[0].verdict in FIRM and both[1]}
    fallen = [claim for claim, both in firm.items() if settled(*both) == UNDECIDED]
    confirmed = len(firm) - len(fallen)
    said = f"Of {len(firm)} claims that ten seeds support or contradict, ten others confirm {confirmed}"
    return f"{said}." + (f" They do not confirm: {'; '.join(claim.says for claim in fallen)}." if fallen else "")


def shown(effect, unit=""):
    """A size with its interval."""
    if effect.low == effect.high:
        return f"{effect.size:+.2f} {unit}".strip()
    return f"{effect.size:+.2f} ({effect.low:+.2f} to {effect.high:+.2f}) {unit}".strip()


def main_effect(finding):
    """The effect of the statement that decides: the first that is contradicted, else undecided, else of all."""
    tested = [s for s in finding.statements if s.effect and not s.aside]
    first = next((s for decision in (False, None, True) for s in tested if s.decision is decision), None)
    return shown(first.effect, first.unit) if first else ""


def could_see(s):
    if s.kind in ("near", "not behind"):
        return f"margin {'±' if s.kind == 'near' else '-'}{s.margin:.2f}"
    seen = "none" if math.isnan(s.effect.seen) else f"{s.effect.seen:.2f}"
    return f"{seen}; matters from {s.margin:g}" if s.kind == "ahead" and s.margin else seen


def probability(p):
    return f"{p:.3f}" if p >= 0.001 else "< .001"


def section(claim, finding, other, lab):
    verdict, how = settled(finding, other), ""
    if other:
        how = " (with both sets of seeds)"
        if finding.verdict != other.verdict:
            how = f" ({finding.verdict} with the first seeds, {other.verdict} with the others)"
    parts = [f'\n<a id="{claim.name}"></a>\n\n## {claim.says}: {verdict}\n']
    parts.append(f"*{claim.source}.*" + (f" “{claim.quote}”" if claim.quote else "") + "\n")
    parts.append(" ".join(claim.function.__doc__.split()) + "\n")
    parts.append(f"**{verdict.capitalize()}**{how}. {finding.result}\n")
    rows = []
    for s, again in zip(finding.statements, (other or finding).statements, strict=True):
        text = s.text + (" (aside)" if s.aside else "")
        tail = ("exact", "", "", "")
        if s.effect:
            wins = "" if s.effect.wins is None else f"{100 * s.effect.wins:.0f} %"
            p = "" if s.kind in ("near", "not behind") else probability(s.p)
            tail = (shown(s.effect, s.unit), wins, p, could_see(s))
        repeat = f"{MARKS[again.decision]} {shown(again.effect) if again.effect else ''}" if other else ""
        rows.append((MARKS[s.decision], text, s.numbers + (f": {s.reason}" if s.reason else ""), *tail, repeat))
    columns = ("", "statement", "numbers", "effect, 95 % interval", "wins", "p", "would have seen", "other seeds")
    parts.append(table(columns, rows))
    for text, effects, unit in finding.variations:
        cells = [shown(e) for e in effects.values()]
        parts.append(f"\nOther recipes, with four seeds: {text}, effect in {unit}\n\n{table(tuple(effects), [cells])}")
    if finding.variations:
        parts.append(f"\n![The effect under other recipes, with intervals; the numbers are in the tables above]"
                     f"(../docs/claims/{claim.name}.png)")  # fmt: skip
    for title, columns, rows in finding.tables:
        parts.append(f"\n{title}:\n\n{table(columns, rows)}")
    for name, alt, _ in finding.pictures:
        parts.append(f"\n![{alt}](../docs/claims/{name}.png)")
    parts += [f"\n{note}" for note in finding.notes]
    if finding.entries:
        parts.append(entries(finding.entries))
    keys = finding.keys | (other.keys if other else set())
    parts.append(f"\n`python run.py claims {claim.name}`: {len(keys)} runs, {lab.store.seconds(keys) / 60:.0f} minutes "
                 "of one core.\n")  # fmt: skip
    return "\n".join(parts)


def entries(made: list[Entry]):
    rows = []
    for e in made:
        scores = e.tuning.scores if e.tuning else {}
        tried = ", ".join(f"{lr:g}: {score:.2f}" for lr, score in scores.items())
        by = LOSSES[e.tuning.by] if e.tuning else ""
        rows.append((e.name, f"{e.lr:g}", tried or "set", by, e.tuning.runs if e.tuning else ""))
    title = (
        "Learning rates, each with the mean log of what they were chosen by (validation: a loss, or what the text says)"
    )
    return f"\n{title}:\n\n" + table(("", "chosen", "tried", "by", "runs"), rows)
