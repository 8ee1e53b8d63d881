"""Writes site/: reads everything, puts it into the templates, copies what they refer to."""

import re
import shutil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from lessons.pages import code, guide, ledger, lesson, progress, questions, repository, search
from lessons.pages.text import inline

HERE = Path(__file__).parent
LESSONS = HERE.parent
ROOT = LESSONS.parent
OUT = ROOT / "site"
PLAY = ROOT / "play" / "page.html"
PLAYED = re.compile(r'<section id="(\w+)" data-lesson="(\w+)"[^>]*>\s*<h2[^>]*>(.*?)</h2>')
PARTS = [
    {
        "first": "01",
        "title": "The methods, on words of six letters",
        "about": "One small decoder that you can retrain in seconds. Each lesson builds one method and measures "
        "it there.",
        "after": "write every major PEFT method from its equation, predict its parameters and memory before you run "
        "it, and choose a method for a task with reasons",
    },
    {
        "first": "17",
        "title": "The same methods in other worlds",
        "about": "Pictures, pictures with captions, an encoder-decoder, networks that are no Transformers, and several "
        "languages. The method files stay the same.",
        "after": "put a PEFT method on a model you did not write, and say which parts of it have to adapt",
    },
    {
        "first": "22",
        "title": "A real language model, and files for other programs",
        "about": "A published model with 135 million parameters that answers questions. You read it, adapt it, round "
        "it to four bits and export the result.",
        "after": "fine-tune a real model on a laptop, test a paper's claim on it, and hand your adapter to peft, "
        "transformers or llama.cpp",
    },
]


def environment(**shared):
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"e": escape, "inline": inline}
    made.globals |= shared
    return made


def escape(text):
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def parts(lessons):
    """The lessons of each part."""
    firsts = [part["first"] for part in PARTS] + ["99"]
    return [
        part | {"lessons": [one for one in lessons if begin <= one.number < end]}
        for part, begin, end in zip(PARTS, firsts, firsts[1:], strict=False)
    ]


def played(stem):
    """[(anchor, heading)] of the playground's sections that belong to a lesson."""
    found = PLAYED.findall(PLAY.read_text(encoding="utf-8"))
    return [(name, heading) for name, of, heading in found if of == stem]


def style():
    """The style sheet, with the colours of code for light and dark."""
    light, dark = code.colours("default"), code.colours("github-dark")
    rules = (HERE / "static" / "style.css").read_text(encoding="utf-8")
    return "\n".join([rules, *light, "@media screen and (prefers-color-scheme: dark) {", *dark, "}", ""])


def write_figures(lessons, book, folder):
    """Pictures as files: a page stays small, and a click shows one as large as it is."""
    folder.mkdir(exist_ok=True)
    for one in lessons:
        for figure in one.figures:
            (folder / f"{one.stem}-{figure.number}.png").write_bytes(figure.picture)
    for name in book.pictures:
        picture = Image.open(ROOT / "docs" / "claims" / f"{name}.png").convert("RGB")
        picture.save(folder / f"claim-{name}.webp", lossless=True)


class Site:
    """Everything that is read, and the folder that is written."""

    def __init__(self, out):
        self.out = Path(out)
        self.paths = sorted(LESSONS.glob("[0-9][0-9]_*.ipynb"))
        self.lessons = [lesson.Lesson(path) for path in self.paths]
        self.book = ledger.read((LESSONS / "claims.md").read_text(encoding="utf-8"))
        self.questions = questions.all_of(one.stem for one in self.lessons)
        self.guides = guide.all_of()
        self.found = search.entries(self.lessons, self.book, self.guides)
        self.templates = environment(
            repository=repository.known(), lessons={one.stem: one for one in self.lessons},
            guides={one.stem: one for one in self.guides}, interview=bool(self.questions),
            difficulties=lesson.DIFFICULTY,
        )  # fmt: skip

    def page(self, name, template, **more):
        made = self.templates.get_template(template).render(page=name, **more)
        (self.out / name).write_text(made, encoding="utf-8")

    def pages(self):
        for before, one, after in zip([None, *self.lessons], self.lessons, [*self.lessons[1:], None], strict=False):
            self.page(
                f"{one.stem}.html", "lesson.html", lesson=one, before=before, after=after,
                colab=repository.badge(one.stem), asks=one.stem in self.questions, played=played(one.stem),
                claims=[claim for claim in self.book.claims if claim.lesson == one.stem],
            )  # fmt: skip
        self.page("index.html", "index.html", parts=parts(self.lessons), book=self.book, done=progress.of_lessons())
        self.page("claims.html", "ledger.html", book=self.book)
        self.page("search.html", "search.html", groups=search.groups(self.lessons, self.guides, self.found))
        if self.questions:
            headings = [(one.stem, one.heading) for one in self.lessons if one.stem in self.questions]
            self.page("interview.html", "interview.html", asked=self.questions, headings=headings)
        for one in self.guides:
            self.page(f"{one.stem}.html", "guide.html", guide=one)

    def files(self):
        (self.out / "style.css").write_text(style(), encoding="utf-8")
        (self.out / "search-index.js").write_text(search.script(self.found), encoding="utf-8")
        shutil.copy(HERE / "static" / "site.js", self.out)
        write_figures(self.lessons, self.book, self.out / "figures")
        repository.write_notebooks(self.paths, self.out / "notebooks")


def build(out=OUT):
    site = Site(out)
    site.out.mkdir(exist_ok=True)
    site.pages()
    site.files()
    print(f"{len(site.lessons)} lessons, {len(site.book.claims)} claims: open {site.out / 'index.html'}")
