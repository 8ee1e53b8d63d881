"""A page of docs/, such as the one for teachers, or the glossary."""

import re
from dataclasses import dataclass
from pathlib import Path

from lessons.pages.text import ROOT, contents, markdown, plain, sections

FOLDER = ROOT / "docs"


@dataclass(frozen=True)
class Guide:
    stem: str
    title: str
    about: str  # its first sentence
    html: str

    @property
    def sections(self):
        return sections(self.html)

    @property
    def contents(self):
        return contents(self.html)


def read(path):
    made = markdown(Path(path).read_text(encoding="utf-8"), folder=FOLDER)
    title, first = (re.search(rf"<{tag}\b[^>]*>(.*?)</{tag}>", made, re.DOTALL)[1] for tag in ("h1", "p"))
    sentence = plain(first).partition(". ")[0].removesuffix(".")
    return Guide(path.stem, plain(title), f"{sentence}.", made)


def all_of(folder=FOLDER):
    return [read(path) for path in sorted(folder.glob("*.md"))]
