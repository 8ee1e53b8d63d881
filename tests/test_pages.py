"""The static pages: no network, no script; formulas are MathML, links lead somewhere, a browser shows them."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from play import build

LESSONS = Path(__file__).parents[1] / "lessons"
spec = importlib.util.spec_from_file_location("pages", LESSONS / "pages.py")
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pages.main(folder)
    build.main(folder / "play.html")
    return folder


def test_there_is_a_page_for_each_lesson_and_an_index_that_links_them(site):
    names = {path.stem for path in LESSONS.glob("[0-9]*.ipynb")}
    assert {path.stem for path in site.glob("*.html")} == names | {"index", "claims", "play"}
    index = (site / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'href="(\d\d_\w+)\.html"', index)) == names
    assert index.count('src="data:image/png') == len(names)


def test_pages_need_no_network_and_no_script(site):
    for path in sorted(site.glob("*.html")):
        page = path.read_text(encoding="utf-8")
        if path.stem == "play":  # tests/play looks at it
            continue
        assert "<script" not in page
        assert not re.findall(r'(?:src|srcset)="(?!data:)[^"]*"', page)
        assert "<link" not in page
        assert "url(http" not in page
        for target in re.findall(r'href="([^"#]+)', page):
            assert target.startswith("https://") or (site / target).exists(), target
        assert len(page) < 700_000


def test_the_playground_is_one_small_file_without_imports(site):
    page = (site / "play.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 850_000
    assert not re.findall(r"^(import|export) |https?://|/\* \w+(\.mjs)? \*/", page, re.MULTILINE)


def test_sections_of_the_playground_and_lessons_link_to_each_other(site):
    sections = pages.SECTION.findall((LESSONS.parent / "play" / "page.html").read_text(encoding="utf-8"))
    assert len(sections) == 8
    for name, lesson, heading in sections:
        page = (site / f"{lesson}.html").read_text(encoding="utf-8")
        assert f'<a href="play.html#{name}">{heading}</a>' in page


def test_formulas_are_mathml(site):
    page = (site / "10_lora.html").read_text(encoding="utf-8")
    assert page.count("<math") > 10
    prose = re.sub(r"<pre.*?</pre>|<code.*?</code>", "", page, flags=re.DOTALL)
    assert not re.findall(r"\$[^$<]+\$", prose)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("name", ["index", "10_lora", "claims"])
def test_a_browser_shows_them(site, name, tmp_path):
    picture = tmp_path / "page.png"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--window-size=900,1600", f"--screenshot={picture}", f"--user-data-dir={tmp_path / 'profile'}"]
    subprocess.run([*command, (site / f"{name}.html").as_uri()], check=True, capture_output=True, timeout=120)
    image = plt.imread(picture)[..., :3]
    ink = (image.min(-1) < 0.6).mean(1)  # share of dark pixels, row by row
    assert image.shape[:2] == (1600, 900)
    assert (ink > 0.01).sum() > (150 if name == "10_lora" else 40), "lines of text"
    assert ((image.max(-1) - image.min(-1)) > 0.3).any(), "something coloured: a figure, a link"
