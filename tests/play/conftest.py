"""A Chromium that reaches no host, and the pages that the tests open in it."""

import shutil

import pytest

from play import build

playwright = pytest.importorskip("playwright.sync_api", reason="python run.py browser installs what these tests need")
# the second half keeps Chromium from looking for its maker; a host that is not there would be an error in the console
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND")  # fmt: skip


@pytest.fixture(scope="session")
def browser():
    if not (found := shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")):
        pytest.fail("there is no Chromium here: install one (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Opens a page at a width; at the end no error may stand in its console and nothing may have been asked for."""
    opened, wrong = [], []

    def opener(url, width=1000, height=900):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(("file:", "blob:")) else wrong.append(asked.url))
        page.goto(url)
        opened.append(page)
        return page

    yield opener
    for page in opened:
        page.close()
    assert wrong == []


@pytest.fixture(scope="session")
def play(tmp_path_factory):
    """The address of the built page."""
    return build.main(tmp_path_factory.mktemp("site") / "play.html").as_uri()
