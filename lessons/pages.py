"""Builds the lessons into static pages that need no network and no script: site/index.html and a page for each lesson.

    python run.py site

Formulas become MathML, figures are part of the page, code is coloured by its style sheet.
"""

import base64
import html
import io
import re
from pathlib import Path

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import TagRemovePreprocessor
from PIL import Image
from pygments.formatters import HtmlFormatter

HERE = Path(__file__).parent
OUT = HERE.parent / "site"
REPOSITORY_FILES = re.compile(r'href="(?!#|https?:|\w+\.html)([^"]+)"')  # links to files, not to other pages
PICTURES = re.compile(r'src="(\.\./[^"]+\.png)"')
PLAY = HERE.parent / "play" / "page.html"
SECTION = re.compile(r'<section id="(\w+)" data-lesson="(\w+)"[^>]*>\s*<h2[^>]*>(.*?)</h2>')

STYLE = """
:root { --ink: #222; --pale: #f5f5f3; --line: #d8d8d4; --link: #00548a }
body { font: 17px/1.6 system-ui, sans-serif; color: var(--ink); max-width: 54rem;
  margin: 0 auto; padding: 1.5rem 1rem 4rem }
main p, main li { max-width: 44rem }
h1, h2, h3 { line-height: 1.25; margin: 2.2rem 0 .8rem }
h1 { margin-top: .6rem }
a { color: var(--link) }
pre, code { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace }
p code, li code, td code { font-size: 15px; background: var(--pale); padding: .1em .25em; border-radius: 3px }
.highlight pre, pre { background: var(--pale); padding: .8rem 1rem; overflow-x: auto; border-radius: 5px }
.output pre { background: none; border-left: 3px solid var(--line); border-radius: 0 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left }
img { max-width: 100%; height: auto }
math[display=block] { margin: 1rem 0; font-size: 1.1em }
nav { display: flex; justify-content: space-between; gap: 1rem; border-bottom: 1px solid var(--line);
  padding-bottom: .6rem; font-size: 15px }
.card { display: grid; grid-template-columns: 13rem 1fr; gap: 1.4rem; align-items: center; padding: 1rem 0;
  border-bottom: 1px solid var(--line) }
.card img { border: 1px solid var(--line); border-radius: 4px; max-height: 8rem; margin: auto }
.section { border-top: 3px solid var(--line); padding-top: 1.2rem }
.card h2 { margin: 0 0 .2rem; font-size: 1.1rem }
.card p { margin: 0; font-size: 15px }
.prompt, .anchor-link { display: none }
details { border: 1px solid var(--line); border-radius: 5px; padding: .4rem .8rem; margin: .8rem 0 }
@media (max-width: 40rem) { .card { grid-template-columns: 1fr } nav { flex-wrap: wrap }
  main table, math[display=block] { display: block; overflow-x: auto } p code, li code { overflow-wrap: anywhere } }
@media print { nav { display: none } body { max-width: none } pre { white-space: pre-wrap } }
"""

CELL_END = re.compile(r"</t[dhr]>\s*")
SECTIONS = {  # the first lesson of each: its heading, and what it is about
    "01": ("The methods, on words of six letters", "One small decoder, every method, one lesson each."),
    "17": (
        "The same methods in other worlds",
        "Pictures, pictures with captions, an encoder-decoder, networks that are no Transformers, several languages: "
        "the method files are the same, and what the papers claim about these models is measured on each.",
    ),
    "22": (
        "A real language model, and files that leave the house",
        "The same method files on a model of 135 million parameters that answers questions: a style from two dozen "
        "examples, what the papers claim, four bits, and files for peft, transformers and llama.cpp.",
    ),
}

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><nav><span>{left}</span><a href="index.html">minipeft</a><span>{right}</span></nav>
<main>{body}</main></body></html>
"""
PLAYED = '<p>In the <a href="play.html">playground</a>: {sections}.</p>'


class Renderer(IPythonRenderer):
    """Markdown with formulas as MathML."""

    def inline_math(self, body):
        return convert(body.strip())

    def block_math(self, body):
        return convert(body.strip(), display="block")

    multiline_math = block_math


class Exporter(HTMLExporter):
    preprocessors = [TagRemovePreprocessor(remove_input_tags={"hide-input"}, enabled=True)]

    @pass_context
    def markdown2html(self, context, source):
        return markdown(source)


def markdown(source):
    return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source)


def heading(notebook):
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def promise(notebook):
    """The last paragraph of the first cell: what one will do."""
    return markdown(notebook.cells[0].source.strip().split("\n\n")[-1])


def thumbnail(notebook):
    """The largest figure, as a data URI."""
    figures = [
        o.data["image/png"] for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    return f"data:image/png;base64,{max(figures, key=len).strip()}" if figures else ""


def link(path, text):
    return f'<a href="{path.stem}.html">{html.escape(text)}</a>' if path else ""


def settled(body):
    """Links between pages, no others to files; pictures become part of the page."""
    body = body.replace(".ipynb", ".html").replace("claims.md", "claims.html")
    body = REPOSITORY_FILES.sub(lambda m: f'title="a file of the repository: {m[1]}"', body)
    return PICTURES.sub(lambda m: f'src="data:image/webp;base64,{encoded(HERE / m[1])}"', body)


def encoded(path):
    """A picture as text, without loss: WebP takes three quarters of PNG's bytes."""
    Image.open(path).convert("RGB").save(file := io.BytesIO(), "WEBP", lossless=True)
    return base64.b64encode(file.getvalue()).decode()


def played(lesson):
    """The sections of the playground that belong to a lesson, as a paragraph."""
    found = SECTION.findall(PLAY.read_text(encoding="utf-8"))
    links = [f'<a href="play.html#{name}">{heading}</a>' for name, of, heading in found if of == lesson]
    return PLAYED.format(sections=", ".join(links)) if links else ""


def page(path, before, after):
    notebook = nbformat.read(path, as_version=4)
    body, _ = Exporter(template_name="basic").from_notebook_node(notebook)
    return PAGE.format(
        title=html.escape(heading(notebook)),
        style=STYLE + HtmlFormatter(style="default").get_style_defs(".highlight"),
        left=link(before, "← before") if before else "",
        right=link(after, "next →") if after else "",
        body=settled(body) + played(path.stem),
    )


def ledger(source):
    """The page of claims. Its table is wide, so it may be as wide as the window.

    A cell ends where the next one begins: HTML needs no tags for that, and there are ten thousand cells.
    """
    body = settled(CELL_END.sub("", markdown(source)))
    style = STYLE + "body { max-width: 84rem } td { vertical-align: top; font-size: 14px }"
    return PAGE.format(title="minipeft: the ledger of claims", style=style, left="", right="", body=body)


def index(paths):
    cards = []
    for path in paths:
        if path.stem[:2] in SECTIONS:
            title, about = SECTIONS[path.stem[:2]]
            cards.append(f'<h2 class="section">{title}</h2><p>{about}</p>')
        notebook = nbformat.read(path, as_version=4)
        cards.append(
            f'<div class="card"><img src="{thumbnail(notebook)}" alt="a figure of this lesson">'
            f"<div><h2>{link(path, heading(notebook))}</h2>{promise(notebook)}</div></div>"
        )
    body = "<h1>Parameter-efficient fine-tuning, by building it</h1>"
    body += '<p><a href="play.html">The playground</a>: teach a frozen Transformer something, in this browser.</p>'
    body += "\n".join(cards)
    body += '<p><a href="claims.html">The ledger of claims</a>: what the papers say, put to the test.</p>'
    return PAGE.format(title="minipeft: the lessons", style=STYLE, left="", right="", body=body)


def main(out=OUT):
    out.mkdir(exist_ok=True)
    paths = sorted(HERE.glob("[0-9][0-9]_*.ipynb"))
    for i, path in enumerate(paths):
        before, after = paths[i - 1] if i else None, paths[i + 1] if i + 1 < len(paths) else None
        (out / f"{path.stem}.html").write_text(page(path, before, after), encoding="utf-8")
    (out / "index.html").write_text(index(paths), encoding="utf-8")
    claims = (HERE / "claims.md").read_text(encoding="utf-8")
    (out / "claims.html").write_text(ledger(claims), encoding="utf-8")
    print(f"{len(paths)} lessons and the ledger: open {out / 'index.html'}")


if __name__ == "__main__":
    main()
