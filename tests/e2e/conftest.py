"""The page, served, and a browser that opens it."""

import pytest


@pytest.fixture(scope="module")
def browser():
    from browsing import CHROMIUM, playwright

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served():
    from piclip.app.server import Settings, serve
    from piclip.app.session import Limits

    with serve(Settings(limits=Limits(images=30), upload_megabytes=1)) as served:
        yield served


@pytest.fixture
def page(browser, served):
    from browsing import open_page

    page, _ = open_page(browser, served)
    yield page
    page.close()
