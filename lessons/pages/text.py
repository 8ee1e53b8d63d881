"""Markdown to HTML: formulas become MathML, headings can be linked to, wide tables scroll in their own box."""

import html
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from lessons.pages import repository

LESSONS = Path(__file__).parents[1]
ROOT = LESSONS.parent
PAGES = (LESSONS, ROOT / "docs")  # what lies there has a page
LINK = re.compile(r'<a href="(?!#|https?:|mailto:)([^"#]+)([^"]*)">(.*?)</a>', re.DOTALL)
TAG = re.compile(r"<[^>]+>")
MATH = re.compile(r"<math.*?</math>", re.DOTALL)
SECTION = re.compile(r'<h[23] id="([^"]+)">(.*?)</h[23]>', re.DOTALL)
HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>', re.DOTALL)
CELL_END = re.compile(r"</t[dhr]>\s*")  # a cell ends where the next one begins; the ledger has ten thousand


@lru_cache
def formula(body, display):
    return convert(body.strip(), display=display)


class Renderer(IPythonRenderer):
    """Remembers its headings, so that two of the same name get different anchors."""

    def __init__(self):
        super().__init__(escape=False, exclude_anchor_links=True)
        self.seen = Counter()

    def inline_math(self, body):
        return formula(body, "inline")

    def block_math(self, body):
        return f'<div class="scroll">{formula(body, "block")}</div>'

    multiline_math = block_math

    def table(self, text):
        text = CELL_END.sub("", text.replace("<th></th>", "<td></td>"))
        return f'<div class="scroll"><table>\n{text}</table></div>\n'

    def heading(self, text, level, **attrs):
        name = slug(plain(text))
        self.seen[name] += 1
        name += f"-{self.seen[name] - 1}" if self.seen[name] > 1 else ""
        anchor = f'<a class="anchor" href="#{name}" aria-label="link to this section">#</a>' if level in (2, 3) else ""
        return f'<h{level} id="{name}">{text}{anchor}</h{level}>\n'


def markdown(source, renderer=None, folder=LESSONS):
    """folder: where the text stands, for its links."""
    return linked(MarkdownWithMath(renderer=renderer or Renderer()).render(source), folder)


def inline(source):
    """One paragraph, without its <p>."""
    made = markdown(source).strip()
    return made.removeprefix("<p>").removesuffix("</p>") if made.count("<p>") == 1 else made


def slug(text):
    """The anchor of a heading, as GitHub names it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def plain(made):
    """The words of a piece of HTML; formulas are left out."""
    without_anchors = re.sub(r'<a class="anchor".*?</a>', "", made)
    return " ".join(html.unescape(TAG.sub(" ", MATH.sub(" ", without_anchors))).split())


def linked(made, folder):
    """Links to lessons, guides and the ledger lead to their pages; others to the repository, if it is known."""
    return LINK.sub(lambda m: link(folder, *m.groups()), made)


def link(folder, path, anchor, text):
    there = (folder / path).resolve()
    if there.parent in PAGES and there.suffix in (".ipynb", ".md"):
        return f'<a href="{there.stem}.html{anchor}">{text}</a>'
    if there.is_relative_to(ROOT) and (found := repository.known()):
        return f'<a href="https://github.com/{found}/blob/main/{there.relative_to(ROOT).as_posix()}{anchor}">{text}</a>'
    return f'<span title="a file of the repository: {path}">{text}</span>'


def sections(made):
    """[(anchor, heading, the words below it)] of the second and third level."""
    parts = SECTION.split(made)
    return [(parts[i], plain(parts[i + 1]), plain(parts[i + 2])) for i in range(1, len(parts), 3)]


def contents(made):
    """[(anchor, heading)] of the second level."""
    return [(name, plain(text)) for name, text in HEADING.findall(made)]
