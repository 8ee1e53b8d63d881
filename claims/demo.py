"""The tables and the picture of the README: every method on two tasks, ten seeds, from the store like every claim."""

from claims.ledger import HELD_OUT, NEW, SETS
from claims.page import LESSONS, table
from minipeft import plots
from minipeft.lab import TUNED_METHODS, compare, trial, tune

README, PICTURE = LESSONS.parent / "README.md", LESSONS.parent / "docs" / "compare.png"
BEGIN, END = "<!-- made by `python run.py claims` -->\n", "<!-- end -->"
BEGIN_SIX, END_SIX = "<!-- six methods, made by `python run.py claims` -->\n", "<!-- end of six -->"
SIX = ("Full", "LoRA(rank=4)", "Houlsby(size=8)", "IA3(outputs=('k', 'v'))", "PrefixTuning(length=4)",
       "PromptTuning(length=4)")  # fmt: skip


def tunings(lab):
    """How the learning rates of TUNED_METHODS were found: a Tuning for each, for both tasks together."""
    jobs = [{"method": c.method, "sources": c.sources} for c in TUNED_METHODS]
    return tune(lab, trial, jobs, over=({"goal": HELD_OUT}, {"goal": NEW}))


def rows_of(lab):
    """{task: rows of `compare`}."""
    return {goal: compare(goal, seeds=len(SETS["first"]), lab=lab) for goal in (HELD_OUT, NEW)}


def percent(values):
    """Mean over seeds, and the range if there is one."""
    low, mean, high = 100 * min(values), 100 * sum(values) / len(values), 100 * max(values)
    return f"{mean:.1f}" + (f" ({low:.0f}–{high:.0f})" if round(low) < round(high) else "")


def text(found):
    """The table of all methods."""
    heads = ("", "trained", "% of base", f"`{HELD_OUT}`, accuracy, %", "retention, attached, %",
             f"`{NEW}`, accuracy, %", "checkpoint, bytes")  # fmt: skip
    lines = [
        (a["method"], f"{a['parameters']:,}", f"{a['percent']:.2f}", percent(a["accuracy"]), percent(a["retention"]),
         percent(b["accuracy"]), f"{a['bytes']:,}")
        for a, b in zip(*found.values(), strict=True)
    ]  # fmt: skip
    return to_the_right(table(heads, lines))


def six(found):
    """The table of a few methods, which a reader sees first."""
    heads = ("", "trained", "% of base", f"select: `{HELD_OUT}`", f"teach: `{NEW}`", "checkpoint, bytes")
    pairs = {a["method"]: (a, b) for a, b in zip(*found.values(), strict=True)}
    lines = [
        (name, f"{a['parameters']:,}", f"{a['percent']:.2f}", percent(a["accuracy"]), percent(b["accuracy"]),
         f"{a['bytes']:,}")
        for name, (a, b) in ((name, pairs[name]) for name in SIX)
    ]  # fmt: skip
    return to_the_right(table(heads, lines))


def to_the_right(lines):
    """All columns of a table but the first are numbers."""
    return lines.replace("---", "---:").replace("| ---:", "| ---", 1)


def put(page, begin, end, lines):
    before, _, rest = page.partition(begin)
    return before + begin + lines + "\n" + end + rest.partition(end)[2]


def write(lab):
    tunings(lab)
    found = rows_of(lab)
    page = put(README.read_text(encoding="utf-8"), BEGIN, END, text(found))
    README.write_text(put(page, BEGIN_SIX, END_SIX, six(found)), encoding="utf-8")
    rows = sorted(found[NEW], key=lambda row: row["parameters"])
    scores = {f"{row['method']}  {row['parameters']:,}": row["accuracy"] for row in rows}
    ax = plots.bars(scores, plots.new(8, 6.4), f"exact-match accuracy on {NEW}, mean and ten seeds")
    ax.figure.savefig(PICTURE, dpi=120)
