"""The site: no network, links lead somewhere, formulas are MathML, figures carry their captions, a browser shows it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

from lessons import pages
from lessons.pages import ledger, lesson, progress, repository, search, site, text
from minipeft.classroom import desk
from minipeft.classroom import questions as bank
from minipeft.classroom.engine.exercise import exercises
from play import build

LESSONS = Path(__file__).parents[1] / "lessons"
NAMES = sorted(path.stem for path in LESSONS.glob("[0-9]*.ipynb"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ALWAYS = {"index", "claims", "search", "play"}
GUIDES = {path.stem for path in (LESSONS.parent / "docs").glob("*.md")}
SOMETIMES = {"interview"}  # if there are questions


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pages.build(folder)
    build.main(folder / "play.html")
    return folder


def read(path):
    return path.read_text(encoding="utf-8")


def test_there_is_a_page_for_each_lesson_and_an_index_that_links_them(made):
    assert {path.stem for path in made.glob("*.html")} - SOMETIMES == {*NAMES, *ALWAYS, *GUIDES}
    index = read(made / "index.html")
    assert re.findall(r'<h3><a href="(\d\d_\w+)\.html"', index) == NAMES
    assert len(re.findall(r'<div class="picture">\s*<(?:svg|img)', index)) == len(NAMES)


def test_pages_need_no_network(made):
    for path in sorted(made.glob("*.html")):
        page = read(path)
        if path.stem == "play":  # tests/play looks at it
            continue
        assert len(page) < 700_000
        assert not re.findall(r"url\(|@import|<iframe", page)
        for target in re.findall(r'\s(?:src|srcset)="([^"]+)"|<link[^>]+href="([^"]+)"', page):
            assert (made / "".join(target)).is_file(), (path.stem, target)
    assert "url(" not in read(made / "style.css")


def test_links_lead_to_a_page_and_to_a_place_on_it(made):
    ids = {path.name: set(re.findall(r'\sid="([^"]+)"', read(path))) for path in made.glob("*.html")}
    for path in sorted(made.glob("*.html")):
        for target in re.findall(r'href="([^"]+)"', read(path)):
            page, _, anchor = target.partition("#")
            if not page.startswith("https://"):
                assert (made / page).exists(), (path.name, target)
                assert not anchor or anchor in ids[page or path.name], (path.name, target)


def test_a_page_names_no_anchor_twice(made):
    for path in made.glob("*.html"):
        ids = re.findall(r'\sid="([^"]+)"', read(path))
        assert len(ids) == len(set(ids)), path.name


def test_the_playground_is_one_small_file_without_imports(made):
    page = read(made / "play.html")
    assert len(page.encode()) < 850_000
    assert not re.findall(r"^(import|export) |https?://|/\* \w+(\.mjs)? \*/", page, re.MULTILINE)


def test_sections_of_the_playground_and_lessons_link_to_each_other(made):
    sections = site.PLAYED.findall(read(LESSONS.parent / "play" / "page.html"))
    assert len(sections) == 8
    for name, of, heading in sections:
        assert f'<a href="play.html#{name}">{heading}</a>' in read(made / f"{of}.html")


def test_formulas_are_mathml(made):
    page = read(made / "10_lora.html")
    assert page.count("<math") > 10
    prose = re.sub(r"<pre.*?</pre>|<code.*?</code>", "", page, flags=re.DOTALL)
    assert not re.findall(r"\$[^$<]+\$", prose)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_its_number_and_its_caption(made, name):
    page = read(made / f"{name}.html")
    figures = re.findall(r"<figcaption><b>Figure (\d+)\.</b> (.+?)</figcaption>", page, re.DOTALL)
    assert [int(number) for number, _ in figures] == list(range(1, page.count("<img") + 1))
    assert "*Figure" not in page
    assert "<em>Figure" not in page


def test_a_lesson_has_contents_its_neighbours_and_folded_imports(made):
    page = read(made / "10_lora.html")
    headings = re.findall(r'<h2 id="([^"]+)"', page)
    listed = re.findall(r'<li><a href="#([^"]+)"', page)
    assert listed == [heading for heading in headings if heading in listed]
    assert len(listed) > 8
    assert page.count("<summary>imports</summary>") == 1
    for rel, at in (("prev", -1), ("next", 1)):
        other = lesson.Lesson(LESSONS / f"{NAMES[NAMES.index('10_lora') + at]}.ipynb")
        assert re.search(f'rel="{rel}" href="{other.stem}.html">.*{re.escape(other.title)}', page)


# -- a lesson, of a notebook -------------------------------------------------------------------------------------------

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAFElEQVR4nGP8//8/AwwwMSABFA4AhQcDATtRzmgAAAAASUVORK5CYII="
SHOWS = nbformat.v4.new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})


@pytest.fixture
def of_cells(tmp_path):
    """A lesson of cells: a text is Markdown, a pair is code with its outputs, a triple has tags."""

    def make(*cells):
        nb = nbformat.v4.new_notebook()
        for cell in cells:
            if isinstance(cell, str):
                nb.cells.append(nbformat.v4.new_markdown_cell(cell))
            else:
                source, outputs, *tags = cell
                nb.cells.append(nbformat.v4.new_code_cell(source, outputs=outputs, metadata={"tags": tags}))
        nbformat.write(nb, tmp_path / "10_one.ipynb")
        return lesson.Lesson(tmp_path / "10_one.ipynb")

    return make


HEAD = "# 10 · One\n\n| time | difficulty |\n|---|---|\n| 5 minutes | ●●○ |\n\nYou will see.\n\nMore."


def test_the_card_is_read_from_the_first_cell(of_cells):
    one = of_cells(HEAD)
    assert (one.title, one.card, one.promise) == ("One", {"time": "5 minutes", "difficulty": "●●○"}, "You will see.")
    assert [block.html for block in one.blocks] == ["<p>You will see.</p>\n<p>More.</p>\n"]


def test_captions_go_to_their_figures_before_or_after(of_cells):
    one = of_cells(
        HEAD, "Look. *Figure: the first,\n$a^2$.*", ("plot()", [SHOWS]), ("plot(2)", [SHOWS]),
        "*Figure: a `second`.*\n\nAnd then.",
    )  # fmt: skip
    first, second = one.figures
    assert first.html.startswith("The first,\n<math")
    assert (second.html, second.number, second.size) == ("A <code>second</code>.", 2, (3, 2))
    assert [block.kind for block in one.blocks] == ["prose", "prose", "code", "figure", "code", "figure", "prose"]
    assert one.blocks[-1].html == "<p>And then.</p>\n"


def test_the_cell_of_imports_is_folded_and_hidden_input_left_out(of_cells):
    prints = [nbformat.v4.new_output("stream", text="4 < 5\n")]
    one = of_cells(
        HEAD, ("import os\nimport sys\n\nFAST = 1", []), ("import re\nprint(4)", prints),
        ("assert 1", prints, "hide-input"),
    )  # fmt: skip
    assert [block.kind for block in one.blocks[1:]] == ["imports", "code", "text", "text"]
    assert one.blocks[3].html == "4 &lt; 5"


@pytest.fixture
def asked(monkeypatch):
    """The sample question, as the only one of lesson 10. Returns it."""
    monkeypatch.setattr(bank, "FOLDER", Path(__file__).parent / "questions")
    sample = bank.questions_of.__wrapped__("00_sample")
    monkeypatch.setattr(bank, "lessons", lambda: ["10_lora"])
    monkeypatch.setattr(bank, "questions_of", lambda name: sample)
    return sample[0]


def test_a_quiz_becomes_choices_that_say_what_is_right_and_why(of_cells, asked, tmp_path):
    one = of_cells(HEAD, ('quiz("10_lora", answers="")', [nbformat.v4.new_output("stream", text="1. LoRA ...")]))
    assert [block.kind for block in one.blocks[1:]] == ["quiz"]
    pages.build(tmp_path / "site")
    page = read(tmp_path / "site" / "interview.html")
    assert page.count('<details class="choice right">') == 1
    assert page.count('<details class="choice wrong">') == len(asked.wrong)
    for choice in asked.choices:
        assert choice.comment in page
    assert "What running it shows" in page
    assert asked.right in read(tmp_path / "site" / "10_lora.html"), "and in the lesson, where its quiz stands"


def test_headings_of_the_same_name_get_different_anchors(of_cells):
    one = of_cells(HEAD, "## Train it\n\nthis `way`", "## Train it\n\nthat way")
    assert one.sections == [("train-it", "Train it", "this way"), ("train-it-1", "Train it", "that way")]
    assert one.contents == [("train-it", "Train it"), ("train-it-1", "Train it")]


def test_links_among_lessons_lead_to_pages_and_files_nowhere_if_the_repository_is_not_known(monkeypatch):
    monkeypatch.setattr(repository, "known", lambda: None)
    assert text.inline("[a](10_lora.ipynb)") == '<a href="10_lora.html">a</a>'
    assert text.inline("[a](claims.md#rank)") == '<a href="claims.html#rank">a</a>'
    assert text.inline("[a](https://arxiv.org/abs/1)") == '<a href="https://arxiv.org/abs/1">a</a>'
    assert text.inline("[a](../docs/doctor.md#x)") == '<a href="doctor.html#x">a</a>'
    assert "<a" not in text.inline("[a](../README.md)")
    monkeypatch.setattr(repository, "known", lambda: "ann/peft")
    at = "https://github.com/ann/peft/blob/main/CONTRIBUTING.md#x"
    assert text.inline("[a](../CONTRIBUTING.md#x)") == f'<a href="{at}">a</a>'


# -- the ledger, the search --------------------------------------------------------------------------------------------


def test_every_claim_is_on_the_ledgers_page_with_its_verdict_and_its_numbers(made):
    source, page = read(LESSONS / "claims.md"), read(made / "claims.html")
    claims = ledger.read(source).claims
    assert [claim.name for claim in claims] == re.findall(r'^<a id="(\w+)"></a>$', source, re.MULTILINE)
    assert page.count("<summary>All numbers</summary>") == len(claims)
    for verdict, sign in ledger.SIGNS.items():
        said = int(re.search(rf"(\d+) times \*{verdict}\*", source)[1])
        assert page.count(f'data-verdict="{verdict}"') == said
        assert page.count(f'<b aria-hidden="true">{sign}</b> {verdict}</span>') == said
    cells = len(re.findall(r"(?<!\\) \| ", source[source.index("\n## ") :]))
    assert page.count("<td") > cells / 2, "tables of numbers are there"


def test_the_index_of_the_search_has_every_heading(made):
    script = read(made / "search-index.js")
    rows = json.loads(script.removeprefix("globalThis.minipeftIndex = ").rstrip(";\n").replace("<\\/", "</"))
    addresses = {address for _, _, address, _ in rows}
    assert {f"{name}.html" for name in NAMES} <= addresses
    assert "claims.html#forgetting" in addresses
    assert any(heading == "The gradients, by hand" for _, heading, _, _ in rows)
    assert max(len(words) for *_, words in rows) <= search.LONGEST
    assert len(script) < 400_000


# -- the repository, the progress --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("git@github.com:ann/peft.git\n", "ann/peft"),
        ("https://github.com/ann/mini.peft", "ann/mini.peft"),
        ("https://token@github.com/ann/peft.git", "ann/peft"),
        ("/work/main", None),
        ("https://example.org/ann/peft", None),
    ],
)
def test_the_repository_is_known_from_its_address(address, name):
    assert repository.of_address(address) == name


def test_the_environment_of_an_action_names_the_repository(monkeypatch):
    repository.known.cache_clear()
    monkeypatch.setenv("GITHUB_REPOSITORY", "ann/peft")
    assert repository.known() == "ann/peft"
    assert repository.badge("10_lora") == (
        "https://colab.research.google.com/github/ann/peft/blob/gh-pages/notebooks/10_lora.ipynb"
    )
    repository.known.cache_clear()


def test_a_notebook_for_colab_installs_the_package_first_and_is_valid(made):
    content = json.loads(read(LESSONS / "10_lora.ipynb"))
    for_colab = repository.notebook(content, "ann/peft")
    assert for_colab["cells"][1:] == content["cells"]
    assert '"minipeft @ git+https://github.com/ann/peft"' in for_colab["cells"][0]["source"]
    nbformat.validate(nbformat.from_dict(for_colab))
    assert repository.notebook(content, None) == content
    assert {path.stem for path in (made / "notebooks").glob("*.ipynb")} == set(NAMES)


def test_progress_is_counted_by_lesson(tmp_path):
    assert progress.of_lessons(tmp_path) == {}
    (tmp_path / ".progress.json").write_text("{}")
    assert progress.of_lessons(tmp_path) == {}


def test_progress_counts_questions_and_exercises(tmp_path, asked, monkeypatch):
    right = next(choice.letter for choice in asked.choices if choice.is_right)
    (tmp_path / ".progress.json").write_text(json.dumps({"questions": {"10_lora": right, "99_gone": "a"}}))
    assert progress.of_lessons(tmp_path) == {"10": ["1 of 1 questions"]}
    states = {name: desk.State("right" if name == "lora" else "") for name in exercises()}
    monkeypatch.setattr(desk, "progress", lambda folder: states)
    of_ten = [name for name, exercise in exercises().items() if exercise.lesson == "10"]
    assert progress.of_lessons(tmp_path) == {"10": [f"1 of {len(of_ten)} exercises", "1 of 1 questions"]}


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("name", ["index", "10_lora", "claims"])
def test_a_browser_shows_them(made, name, tmp_path):
    picture = tmp_path / "page.png"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--window-size=900,1600", f"--screenshot={picture}", f"--user-data-dir={tmp_path / 'profile'}"]
    subprocess.run([*command, (made / f"{name}.html").as_uri()], check=True, capture_output=True, timeout=120)
    image = plt.imread(picture)[..., :3]
    ink = (image.min(-1) < 0.6).mean(1)  # share of dark pixels, row by row
    assert image.shape[:2] == (1600, 900)
    assert (ink > 0.01).sum() > (150 if name == "10_lora" else 40), "lines of text"
    assert ((image.max(-1) - image.min(-1)) > 0.3).any(), "something coloured: a figure, a link"
