"""The diagnosis, in two steps: which bodies are suspect, and which mistake explains what is seen of them.

What a grader's child process sends is plain numbers; all the comparing and judging is done here, in the parent.
"""

import re

from minipeft.classroom.engine.compare import differing, same
from minipeft.classroom.engine.observe import Stopped
from minipeft.classroom.engine.recognise import expected, explain
from minipeft.classroom.engine.report import Report


def judge(work, subject):
    """The report on a work. subject: who is asked for observations: `subject.observe(take, fill, only)`."""
    right = expected(work.exercise, work.seed)
    states = {name: "right" if name in work.written else "not written yet" for name in work.asked}
    report = Report(work.exercise, states, notes=list(work.notes))
    if not work.written:
        return report
    all_written, all_asked = len(work.written) == len(work.asked), len(work.asked) == len(work.exercise.stubs)
    earned = subject.observe(work.written, fill=all_written and not all_asked)
    report.right = [name for name in right if same(right[name], earned.get(name))]
    try:  # from here on with the project's own bodies for what is missing: that earns nothing
        got = earned if all_written else subject.observe(work.written, fill=True)
        if differing(right, got):
            alone = suspects(work, subject, got)
            report.findings = findings(work, got, alone)
            for finding in report.findings:
                finding.symptom += of_import(finding.symptom, work)
            for name in alone or work.changed or work.written:
                states[name] = "wrong" if alone else "unclear"
    except Stopped as problem:
        states.update(dict.fromkeys(work.changed or work.written, "unclear"))
        report.notes.append(f"(with the project's own bodies beside yours: {problem})")
    return report


def suspects(work, subject, got):
    """{body: (the bodies that were looked at, what is observed)} of those that are wrong by themselves.

    Each is looked at alone, among the project's own.
    """
    right, names = expected(work.exercise, work.seed), work.changed or work.written
    if len(names) == 1:
        return {names[0]: (names, got)}
    wrong = differing(right, got)
    rest = [name for name in right if name not in wrong]  # another body may have hidden what is wrong there
    found = {}
    for name in names:
        taken, seen = alone(work, subject, name, wrong)
        if differing({n: right[n] for n in wrong}, seen):
            more_taken, more = alone(work, subject, name, rest)
            found[name] = max(taken, more_taken, key=len), seen | more
    return found


def alone(work, subject, name, only):
    """([body], what is observed of it); or of its whole class, where that has attributes of other names."""
    seen = subject.observe([name], fill=True, only=only)
    if any(isinstance(v, dict) and str(v.get("error")).startswith("AttributeError") for v in seen.values()):
        owner = name.rpartition(".")[0]
        taken = [n for n in work.written if n.rpartition(".")[0] == owner]
        return taken, subject.observe(taken, fill=True, only=only)
    return [name], seen


def findings(work, got, alone):
    """A finding for each body that is wrong by itself; one alone where a mistake that lies in several explains all."""
    x, seed, wrong = work.exercise, work.seed, differing(expected(work.exercise, work.seed), got)
    if len(alone) != 1:
        together = explain(x, got, seed, stubs=[*alone])
        if not alone or (together.mistake and together.explains == len(wrong)):
            return [together]
    return [explain(x, seen, seed, name, taken, got) for name, (taken, seen) in alone.items()]


def of_import(symptom, work):
    """A sentence more, where a name is missing because its import was left out."""
    found = re.search(r"NameError: name '(\w+)' is not defined", symptom)
    if not found or found[1] not in work.imports:
        return ""
    return f" Your import of {work.imports[found[1]]} is left out: do without it."
