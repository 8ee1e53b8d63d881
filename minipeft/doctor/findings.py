"""What the doctor says: findings, and the check-up that holds them."""

from dataclasses import dataclass
from typing import Literal

SHOWN = 4  # so many names are written out, the others counted


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    severity: "error": training or loading cannot have the effect that was meant. "warning": it probably has not.
        "note": worth knowing.
    what: a sentence that says what was found, with counts. why: what follows from it, or where it comes from.
    cure: what to do. where: dotted names of parameters or modules.
    """

    severity: Literal["error", "warning", "note"]
    what: str
    why: str
    cure: str
    where: tuple[str, ...] = ()

    def lines(self):
        """[(heading, sentence)]: what follows the first sentence."""
        places = [("where", listed(self.where) + ".")] if self.where else []
        return [*places, ("why", self.why), ("cure", self.cure)]

    def __str__(self):
        more = [f"         {heading + ':':6} {sentence}" for heading, sentence in self.lines()]
        return "\n".join([f"{self.severity.upper():8} {self.what}", *more])


class Checkup(list):
    """The findings, errors first. about: what was examined, in a line. passed: the checks that found nothing.

    skipped: {what was not given: the checks that need it}.
    """

    def __init__(self, about):
        super().__init__()
        self.about, self.passed, self.skipped = about, [], {}

    def add(self, check, *arguments):
        """Run one check, a function that yields Findings; its docstring says in a sentence what a healthy model has."""
        found = list(check(*arguments))
        self += found
        self.sort(key=lambda finding: ("error", "warning", "note").index(finding.severity))
        if not found:
            self.passed.append(label(check))

    def skip(self, missing, checks):
        self.skipped.setdefault(missing, []).extend(label(check) for check in checks)

    def of(self, severity):
        return [finding for finding in self if finding.severity == severity]

    @property
    def healthy(self):
        """There is neither an error nor a warning."""
        return not self.of("error") and not self.of("warning")

    def verdict(self):
        """One line: `1 error, 0 warnings, 2 notes; 14 checks passed`."""
        kinds = ", ".join(counted(len(self.of(severity)), severity) for severity in ("error", "warning", "note"))
        return f"{kinds}; {counted(len(self.passed), 'check')} passed"

    def __str__(self):
        lines = [self.about, "", *map(str, self), *[f"ok       {sentence}" for sentence in self.passed]]
        for missing, sentences in self.skipped.items():
            lines.append(f"skipped  {counted(len(sentences), 'check')}: {missing}")
        return "\n".join([*lines, "", self.verdict()])


def label(check):
    return check.__doc__.partition("\n")[0]


def listed(names, most=SHOWN):
    """ "a, b, c, d and 12 more" """
    names = [str(name) for name in names]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number, noun):
    """ "1 tensor", "12 tensors" """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def count(things, one, many):
    """ "1 tensor holds", "12 tensors hold" """
    return f"1 {one}" if len(things) == 1 else f"{len(things):,} {many}"
