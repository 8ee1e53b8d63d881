"""lessons/claims.md: one row for each claim, then a section for each with all its numbers."""

from pathlib import Path

from claims.ledger import HOLDS, INVISIBLE, NOT, PART

LESSONS = Path(__file__).parents[1] / "lessons"
MARKS = {True: "✓", False: "✗", None: "·"}
SIGNS = {HOLDS: "✓ holds", PART: "◐ in part", INVISIBLE: "· not visible", NOT: "✗ does not hold"}

BEGINNING = """# The ledger of claims

What papers and surveys say about parameter-efficient fine-tuning, put to the test in the toy world. Written by
`python run.py claims` from the runs in [`claims/runs.jsonl`](../claims/runs.jsonl); nothing here is typed in by hand.

A claim is taken apart into statements. Each is decided by a rule from the numbers: ✓ it is so, ✗ it is not, · the
spread over seeds hides the difference. The **verdict** follows: all ✓, *holds*; some, *holds in part*; none but some ·,
*not visible at this scale*; all ✗, *does not hold here*. Of {total} claims {counts}.

*Here* is meant so: models of 30,000 to 240,000 parameters and tasks on six letters say nothing certain of large ones.
Accuracy is exact-match accuracy on 1,000 unseen examples, mean (least–greatest) over three seeds or more; retention is
accuracy on the pretraining mixture, with the method attached. Learning rates are swept with the same effort for all
that are compared, on validation examples and a seed that are not reported; the sweeps are among the runs.

The whole ledger is {runs:,} runs, {minutes:.0f} minutes of one core, {half:.0f} on two. Made with torch {torch} and
Python {python}.
"""


def path_of(number):
    return next(path.name for path in sorted(LESSONS.glob(f"{number:02}_*.ipynb")))


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def counted(verdicts):
    names = {HOLDS: "hold", PART: "hold in part", INVISIBLE: "are not visible at this scale", NOT: "do not hold here"}
    return ", ".join(f"{verdicts.count(v)} {name}" for v, name in names.items() if v in verdicts)


def page(findings, lab):
    """The Markdown text, from {claim: Finding}."""
    findings = dict(sorted(findings.items(), key=lambda item: item[0].lesson))
    keys = set().union(*(f.keys for f in findings.values()))
    minutes = lab.seconds(keys) / 60
    verdicts = [f.verdict for f in findings.values()]
    made = [lab.stored[key] for key in sorted(keys)]
    versions = {name: ", ".join(sorted({line[name] for line in made})) for name in ("torch", "python")}
    text = BEGINNING.format(
        total=len(findings), counts=counted(verdicts), runs=len(keys), minutes=minutes, half=minutes / 2, **versions
    )
    rows = [
        (f"[{c.says}](#{c.name})", c.source, c.experiment, f.measured.rstrip(";,. "), f"**{SIGNS[f.verdict]}**",
         f"[{c.lesson:02}]({path_of(c.lesson)})")
        for c, f in findings.items()
    ]  # fmt: skip
    text += "\n" + table(("claim", "source", "experiment here", "measured", "verdict", "lesson"), rows) + "\n"
    return text + "".join(section(c, f, lab) for c, f in findings.items())


def section(claim, finding, lab):
    parts = [f'\n<a id="{claim.name}"></a>\n\n## {claim.says}: {finding.verdict}\n']
    parts.append(f"*{claim.source}.* {claim.experiment}.\n")
    parts.append("\n".join(f"- {MARKS[decision]} {text}: {numbers}" for text, decision, numbers in finding.statements))
    for title, columns, rows in finding.tables:
        parts.append(f"\n{title}:\n\n{table(columns, rows)}")
    for name, alt, _ in finding.pictures:
        parts.append(f"\n![{alt}](../docs/{name}.png)")
    parts += [f"\n{note}" for note in finding.notes]
    if edge := finding.at_the_edge:
        parts.append(
            f"\nOf {len(edge)} learning rates chosen here, {sum(edge.values())} are the lowest or highest offered."
        )
    keys = finding.keys
    parts.append(
        f"\n`python run.py claims {claim.name}`: {len(keys)} runs, {lab.seconds(keys) / 60:.1f} minutes of one core.\n"
    )
    return "\n".join(parts)
