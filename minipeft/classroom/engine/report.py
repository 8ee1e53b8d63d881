"""The report on a solution: which bodies are right, what is different, and which mistake that looks like."""

from dataclasses import dataclass, field

from minipeft.classroom.engine.bank import Mistake

LEVELS = ("", "warm-up", "medium", "hard")  # of an exercise, by its difficulty
MARKS = {"right": "✓", "wrong": "✗", "not written yet": "·", "unclear": "?"}


@dataclass
class Finding:
    """What is wrong in a body: the first observation that differs, and the mistake it looks like, if that is clear.

    explains: how many of the observations that differ. stub: the body, None where it lies in no single one. pair:
    expected and got of the first observation that can be drawn: both are numbers of one shape.
    """

    observation: str
    symptom: str
    mistake: Mistake | None = None
    explains: int = 0
    stub: str | None = None
    pair: tuple | None = None

    @property
    def line(self):
        return f"{self.stub}: {self.symptom}" if self.stub else self.symptom


@dataclass
class Report:
    """The result of a check.

    stubs: {name: "right", "wrong", "not written yet" or "unclear"}. right: names of the observations that agree.
    findings: one for each body that is wrong. problem: why nothing could be judged. notes: what else is to be said.
    """

    exercise: object
    stubs: dict[str, str]
    right: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    problem: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def finding(self):
        """The first finding, or None."""
        return self.findings[0] if self.findings else None

    @property
    def passed(self):
        return not self.findings and not self.problem and all(state == "right" for state in self.stubs.values())

    def groups(self):
        """{group: are all its observations right}"""
        found = dict.fromkeys(self.exercise.groups, True)
        for o in self.exercise.observations:
            found[o.group] &= o.name in self.right
        return found

    def text(self, hints=4):
        """The diagnosis. hints: 1 the symptom, 2 and a question, 3 and what it looks like, 4 and where to read."""
        x, groups = self.exercise, self.groups()
        if self.problem:
            return f"{x.name}: {self.problem}"
        whole = len(self.stubs) == len(x.stubs)
        points = f" ({sum(groups.values())} of {len(groups)} points)" if whole else ""
        if self.passed and whole:
            return "\n".join([f"{x.name}: right. All {len(x.observations)} observations agree.", *self.notes])
        if self.passed:
            return "\n".join([f"{x.name}: right ({', '.join(self.stubs)}).", *self.notes])
        empty = [name for name, state in self.stubs.items() if state == "not written yet"]
        if len(empty) == len(self.stubs):
            return "\n".join([f"{x.name}: not written yet ({', '.join(empty)})", *self.notes])
        lines = [f"{x.name}: {'not right yet' if self.findings else 'right so far, not written to the end'}{points}"]
        for name, state in self.stubs.items():
            lines.append(f"  {MARKS[state]} {name}" + ("  not written yet" if state == "not written yet" else ""))
        for finding in self.findings:
            lines += ladder(finding, x, hints) if finding is self.finding else [finding.line]
        return "\n".join([*lines, *self.notes])


def ladder(finding, exercise, hints):
    """The lines about the first finding, as many as there are hints."""
    lines, mistake = [finding.line], finding.mistake
    if mistake and hints > 1:
        lines.append(f"Ask yourself: {mistake.question}")
    if mistake and hints > 2:
        lines.append(f"This looks like: {mistake.what}. {mistake.hint}")
    if hints > 3:
        lines.append(f"To read: {exercise.read}")
    return lines
