"""The ledger, lessons/claims.md: what stands above its table, a list of claims, and what waits for its runs."""

import re
from dataclasses import dataclass

from lessons.pages.text import inline, markdown

SIGNS = {"supported": "✓", "contradicted": "✗", "undecided": "?", "holds by construction": "="}
ROW = re.compile(r"^\| \[(?P<says>.+)\]\(#(?P<name>\w+)\) \| (?P<rest>.+) \|$", re.MULTILINE)
SECTION = re.compile(r'\n<a id="(\w+)"></a>\n\n?## [^\n]+\n')
BETWEEN_CELLS = re.compile(r"(?<!\\) \| ")
VERDICT = re.compile(r"\*\*(.+?)\*\*")
STEM = re.compile(r"\((\w+)\.ipynb\)")
PICTURE = re.compile(r"\]\(\.\./docs/claims/([\w-]+)\.png\)")


@dataclass(frozen=True)
class Claim:
    name: str
    says: str
    source: str
    verdict: str
    found: str
    effect: str
    lesson: str  # the stem of its file
    details: str

    @property
    def sign(self):
        return SIGNS[self.verdict]


@dataclass(frozen=True)
class Ledger:
    beginning: str
    how: str
    claims: list[Claim]
    waiting: str
    pictures: list[str]

    def counts(self):
        """[(verdict, sign, how many)]"""
        made = [claim.verdict for claim in self.claims]
        return [(verdict, sign, made.count(verdict)) for verdict, sign in SIGNS.items()]


def read(text):
    head, *found = SECTION.split(text)
    details = dict(zip(found[::2], found[1::2], strict=True))
    rows = list(ROW.finditer(head))
    above, below = head[: rows[0].start()], head[rows[-1].end() :]
    beginning, _, how = above[: above.index("\n| claim")].partition("**How it was tested.**")
    return Ledger(
        markdown(beginning.partition("\n")[2]),
        markdown(f"**How it was tested.**{how}"),
        [claim(row, details[row["name"]]) for row in rows],
        markdown(below),
        PICTURE.findall(text),
    )


def claim(row, details):
    source, verdict, found, effect, lesson = (cell.replace("\\|", "|") for cell in BETWEEN_CELLS.split(row["rest"]))
    return Claim(
        row["name"],
        inline(row["says"]),
        inline(source),
        VERDICT.search(verdict)[1],
        inline(found),
        effect.strip(),
        STEM.search(lesson)[1],
        lazy(markdown(PICTURE.sub(r"](figures/claim-\1.webp)", without_repetition(details, found)))),
    )


def lazy(made):
    """Pictures are loaded when a claim is opened."""
    return made.replace("<img ", '<img loading="lazy" ')


def without_repetition(details, found):
    """The verdict's sentence and its source stand above the fold already."""
    details = re.sub(r"^\n?\*[^\n]+?\.\*(?: (“[^\n]+”))?\n", lambda m: f"{m[1] or ''}\n", details, count=1)
    return details.replace(f" {found}\n", "\n", 1) if found in details else details
