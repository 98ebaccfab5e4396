"""Pages that lie elsewhere in the repository, and links between them and those of ``docs/``.

In the repository every link leads from file to file. On the site the pages of ``docs/`` are at the
top, and so are ``CONTRIBUTING.md``, ``benchmarks/`` and the like beside them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BESIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/photos5i/README.md",
    "benchmarks/photos5i/main.md",
    "benchmarks/photos5i/priors.md",
    "benchmarks/scenes5i/README.md",
    "benchmarks/scenes5i/fig1.jpg",
    "benchmarks/scenes5i/fig3.jpg",
    "benchmarks/scenes5i/fig4.jpg",
    "benchmarks/scenes5i/main.md",
    "benchmarks/scenes5i/priors.md",
    "src/piclip/clip/builtin/MODEL_CARD.md",
    "src/piclip/clip/builtin/training_log.md",
)
_TARGET = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Any, *, config: Any) -> Any:  # noqa: ANN401 - mkdocs' own
    """Adds the files beside ``docs/`` to the site."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - tests do without mkdocs

    for path in BESIDE:
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:  # noqa: ANN401
    """Turns links of the repository into those of the site."""
    return links_on_site(markdown, page.file.src_uri)


def links_on_site(markdown: str, page: str) -> str:
    """The text of a page whose place on the site is ``page``, with links for the site."""
    here = page if page in BESIDE else f"docs/{page}"

    def moved(target: re.Match[str]) -> str:
        there = posixpath.normpath(posixpath.join(posixpath.dirname(here), target[1]))
        return posixpath.relpath(there.removeprefix("docs/"), posixpath.dirname(page) or ".")

    return _TARGET.sub(moved, markdown)
