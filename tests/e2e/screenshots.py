"""Takes the pictures of docs/web-page.md: light and dark, desktop and phone.

python tests/e2e/screenshots.py [FOLDER]   (docs/images without one)
"""

import os
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from piclip.app.server import Served, Settings, serve

CHROMIUM = os.environ.get("PICLIP_CHROMIUM", "/usr/bin/chromium")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
LOADED = "() => [...document.images].every((image) => image.complete && image.naturalWidth)"
WIDEST, COLOURS = 960, 200  # keep each picture below 200 KB


def take(browser: Browser, served: Served, size: str, scheme: str, folder: Path) -> Path:
    """One picture of the whole page after the example with two classes."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == "phone"
    )
    page = context.new_page()
    page.set_default_timeout(180_000)
    page.goto(served.url)
    page.get_by_role("button", name="Flowers and horses").click()
    page.locator("#result img").wait_for(state="attached")
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": width, "height": height})  # pictures out of view do not load
    page.wait_for_function(LOADED)
    page.wait_for_timeout(2000)
    path = folder / f"app-{size}-{scheme}.png"
    page.screenshot(path=path, full_page=True)
    context.close()
    with Image.open(path) as taken:
        shown = taken.convert("RGB")
        shown.thumbnail((WIDEST, shown.height))
        small = shown.quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    return path


def main(folder: Path) -> None:
    """Takes all of them."""
    with serve(Settings()) as served, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for size in SIZES:
            for scheme in ("light", "dark"):
                path = take(browser, served, size, scheme, folder)
                print(f"{path}: {path.stat().st_size // 1024} KB")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/images"))
