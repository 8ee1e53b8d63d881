"""Links in the README, the documentation and the lessons lead somewhere."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("lessons/*.ipynb")])
PAGES = [page for page in PAGES if not {".venv", "site", "build"} & set(page.parts)]
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"")


def text_of(page):
    """Markdown without code blocks."""
    if page.suffix == ".ipynb":
        cells = nbformat.read(page, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = page.read_text(encoding="utf-8")
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(text):
    """What can be linked to: headings, as GitHub names them, and what has an id."""
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings} | set(
        re.findall(r'id="([^"]+)"', text)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in (a or b for a, b in LINK.findall(text_of(page))):
        if target.startswith(("https://", "mailto:", "data:")):
            continue
        assert not target.startswith("http:"), target
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor and there.suffix in (".md", ".ipynb"):
            assert anchor in anchors(text_of(there)), f"{page.name} links to {target}"


def test_pictures_have_words_for_those_who_do_not_see_them():
    for page in PAGES:
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text_of(page)):
            assert len(words.split()) >= 5, f"{page.name}: {target}"
