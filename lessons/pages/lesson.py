"""A lesson: its notebook, as the blocks that its page is made of."""

import base64
import html
import re
from dataclasses import dataclass, field
from functools import cached_property

import nbformat
from nbconvert.filters import ansi2html

from lessons.pages import questions
from lessons.pages.code import coloured, mostly_imports, parsed
from lessons.pages.text import Renderer, contents, inline, markdown, sections

CAPTION = re.compile(r"\*Figure(?: \d+)?: (.+?)\*(?!\*)", re.DOTALL)
CARD = re.compile(r"^\|(.+)\|\n\|[-| :]+\|\n\|(.+)\|$", re.MULTILINE)
QUIZ = re.compile(r"^quiz\(\s*[\"'](\w+)[\"']", re.MULTILINE)
DIFFICULTY = {"●○○": "easy", "●●○": "medium", "●●●": "hard"}


@dataclass
class Block:
    """A piece of a page. kind: prose, code, imports, text, figure or quiz."""

    kind: str
    html: str = ""
    picture: bytes = b""
    number: int = 0
    size: tuple[int, int] = (0, 0)
    questions: list = field(default_factory=list)


class Lesson:
    def __init__(self, path):
        self.path, self.stem, self.number = path, path.stem, path.stem[:2]
        self.notebook = nbformat.read(path, as_version=4)
        self.first = self.notebook.cells[0].source.strip()

    @cached_property
    def heading(self):
        """Its number and its title, 10 · LoRA: the change is two thin matrices."""
        return f"{int(self.number)} · {self.title}"

    @property
    def title(self):
        return self.first.splitlines()[0].lstrip("# ").split(" · ", 1)[-1]

    @cached_property
    def card(self):
        """What the table in the first cell says: {"time": "60 minutes", ...}"""
        return card_of(self.first)

    @property
    def about(self):
        """The first cell without its title and its card."""
        body = "\n".join(self.first.splitlines()[1:])
        return CARD.sub("", body).strip()

    @property
    def promise(self):
        """What one will do: the paragraph that says so, else the first one."""
        paragraphs = self.about.split("\n\n")
        return inline(next((p for p in paragraphs if "you will" in p.lower()), paragraphs[0]))

    @cached_property
    def blocks(self):
        """The page's blocks, in order. The i-th caption belongs to the i-th picture, wherever it stands in the text."""
        cells = self.notebook.cells
        captions = [c for cell in cells if cell.cell_type == "markdown" for c in CAPTION.findall(cell.source)]
        maker = Maker(Renderer(), iter(captions))
        blocks = maker.prose(self.about)
        for cell in cells[1:]:
            blocks += maker.prose(cell.source) if cell.cell_type == "markdown" else maker.of_code(cell)
        return blocks

    @property
    def figures(self):
        return [block for block in self.blocks if block.kind == "figure"]

    @cached_property
    def prose(self):
        return "".join(block.html for block in self.blocks if block.kind == "prose")

    @cached_property
    def sections(self):
        """[(anchor, heading, words)]"""
        return sections(self.prose)

    @property
    def contents(self):
        return contents(self.prose)


def card_of(source):
    if found := CARD.search(source):
        names, values = ([cell.strip() for cell in row.split("|")] for row in found.groups())
        return dict(zip(names, values, strict=False))
    return {}


class Maker:
    """Makes blocks of cells, and counts figures while it does."""

    def __init__(self, renderer, captions):
        self.renderer, self.captions, self.figures, self.imported = renderer, captions, 0, False

    def prose(self, source):
        """Text without captions, which stand below their figures."""
        source = CAPTION.sub("", source).strip()
        return [Block("prose", markdown(source, self.renderer))] if source else []

    def of_code(self, cell):
        if quiz := QUIZ.search(cell.source):
            return [Block("quiz", questions=questions.of(quiz[1]))]
        hidden = "hide-input" in cell.metadata.get("tags", ())
        kind = "imports" if not self.imported and mostly_imports(cell.source) else "code"
        self.imported = self.imported or kind == "imports"
        shown = [] if hidden else [Block(kind, coloured(cell.source))]
        return shown + [self.output(output, prints_source="getsource(" in cell.source) for output in cell.outputs]

    def output(self, output, prints_source):
        if output.output_type == "stream":
            is_code = prints_source and parsed(output.text)
            return Block("text", coloured(output.text) if is_code else ansi2html(output.text.rstrip("\n")))
        if output.output_type == "error":
            return Block("text", ansi2html("\n".join(output.traceback)))
        if "image/png" in output.data:
            return self.figure(base64.b64decode(output.data["image/png"]))
        if "text/html" in output.data:
            return Block("prose", f'<div class="scroll">{output.data["text/html"]}</div>')
        return Block("text", html.escape(output.data.get("text/plain", "")))

    def figure(self, picture):
        self.figures += 1
        caption = inline(next(self.captions, ""))
        size = int.from_bytes(picture[16:20], "big"), int.from_bytes(picture[20:24], "big")  # the head of a PNG
        return Block("figure", caption[:1].upper() + caption[1:], picture, self.figures, size)
