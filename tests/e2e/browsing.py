"""What a person does with the page in a real browser, and the settings of that browser.

Needs Playwright (``pip install playwright``) and a Chromium at /usr/bin/chromium or where
PICLIP_CHROMIUM says; modules of tests that import this are skipped without them.
"""

import os
from pathlib import Path

import pytest
from PIL import Image

from piclip.datasets.scenes import make_scene

CHROMIUM = Path(os.environ.get("PICLIP_CHROMIUM", "/usr/bin/chromium"))
PATIENCE = 180_000  # milliseconds; only a machine that is very busy needs so long

pytest.importorskip("gradio", reason="needs the extra [app]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
if not CHROMIUM.is_file():
    pytest.skip(f"there is no Chromium at {CHROMIUM}", allow_module_level=True)

playwright.expect.set_options(timeout=PATIENCE)


def open_page(browser, served, width=1280):
    """A page in a context of its own, and every request that it made."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(served.url)
    page.get_by_role("button", name="Cats").wait_for()
    return page, requests


def scene(tmp_path, index, size=512):
    drawn = make_scene(79, index, include="cat")
    image, mask = tmp_path / f"scene{index}.png", tmp_path / f"mask{index}.png"
    for array, path in ((drawn.image, image), (drawn.mask("cat"), mask)):
        Image.fromarray(array).resize((size, size), Image.Resampling.NEAREST).save(path)
    return image, mask


def wait_for_results(page, count):
    playwright.expect(page.locator("#status")).to_contain_text(
        f"{count} of {count} images segmented", timeout=PATIENCE
    )
    playwright.expect(page.locator("#results .thumbnail-item")).to_have_count(count)


def download(page, button):
    with page.expect_download(timeout=PATIENCE) as started:
        page.locator(button).click()
    return Path(started.value.path()), started.value.suggested_filename
