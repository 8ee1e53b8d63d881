"""The site in a browser: no page is wider than a phone, and what the script adds works; without it all can be read."""

import pytest

from lessons import pages
from play import build

SIZES = "(all) => all.map((image) => [image.clientWidth, Number(image.attributes.width.value)])"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pages.build(folder)
    build.main(folder / "play.html")
    return folder


@pytest.fixture
def phone(open_page, site):
    return lambda name: open_page((site / name).as_uri(), width=390, height=844)


def test_no_page_is_wider_than_a_phone(open_page, site):
    paths = sorted(site.glob("*.html"))
    page = open_page(paths[0].as_uri(), width=390, height=844)
    wide = {}
    for path in paths:
        page.goto(path.as_uri())
        page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
        wide[path.name] = page.evaluate("document.scrollingElement.scrollWidth")
    assert {name: width for name, width in wide.items() if width > 390} == {}


def test_figures_are_shown_as_large_as_they_are_on_a_desktop(open_page, site):
    """So type of 9 points has 9 pixels."""
    page = open_page((site / "index.html").as_uri(), width=1280)
    shrunk = []
    for path in sorted(site.glob("[0-9]*.html")):
        page.goto(path.as_uri())
        sizes = page.locator("figure img").evaluate_all(SIZES)
        shrunk += [(path.name, shown, own) for shown, own in sizes if shown < 0.98 * own]
    assert shrunk == []


def test_the_contents_are_folded_on_a_phone_and_beside_the_text_on_a_desktop(phone, open_page, site):
    small, large = phone("10_lora.html"), open_page((site / "10_lora.html").as_uri(), width=1280)
    assert [page.locator(".contents details").evaluate("(it) => it.open") for page in (small, large)] == [False, True]
    large.locator("#break-it").evaluate("(it) => it.scrollIntoView()")
    large.wait_for_function("document.querySelector('.contents [aria-current]')?.textContent === 'Break it'")
    assert large.locator(".contents").bounding_box()["y"] < 100


def test_the_ledger_is_filtered_by_verdict_lesson_and_words(phone):
    page = phone("claims.html")
    claims, shown = page.locator("#claims article"), page.locator("#claims article:visible")
    total = claims.count()
    page.locator("[name=verdict]").select_option("contradicted")
    assert 0 < shown.count() < total
    assert set(shown.locator(".verdict").all_text_contents()) == {"✗ contradicted"}
    page.locator("[name=words]").fill("forgets less once biderman")
    assert shown.count() == 1
    assert page.locator("#shown").text_content() == f"1 of {total} claims"
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("(total) => document.getElementById('shown').textContent.startsWith(total)", arg=str(total))
    page.locator("[name=lesson]").select_option("13_qlora")
    assert set(shown.evaluate_all("(all) => all.map((one) => one.dataset.lesson)")) == {"13_qlora"}


def test_a_claim_that_is_linked_to_shows_its_numbers(open_page, site):
    page = open_page((site / "claims.html").as_uri() + "#forgetting")
    assert page.locator("#forgetting details").evaluate("(it) => it.open")


def test_a_search_from_any_page_finds_headings_claims_and_words(phone):
    page = phone("03_bitfit.html")
    page.get_by_role("searchbox").fill("intruder")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results li")
    assert any(link.startswith("claims.html#") for link in page.locator("#results a").evaluate_all(
        "(all) => all.map((link) => link.getAttribute('href'))"
    ))  # fmt: skip
    page.locator("#words").fill("gradients by hand")
    assert page.locator("#results a").first.text_content() == "The gradients, by hand"
    page.locator("#words").fill("intruder zebra")
    assert page.locator("#hits").text_content() == "0 found"


def test_without_a_script_everything_is_there(browser, site):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((site / "claims.html").as_uri())
    assert page.locator("#filter").is_hidden()
    assert page.locator("#claims article:visible").count() == page.locator("#claims article").count()
    page.goto((site / "search.html").as_uri())
    assert page.locator("#everything a:visible").count() > 300
    page.goto((site / "10_lora.html").as_uri())
    assert page.locator(".contents a:visible").count() > 8
    page.close()
