"""The tutorial: a notebook, run when the site is built, and shown with what its cells give."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = "tutorial.md"
NOTEBOOK = Path(__file__).resolve().parents[1] / "tutorial.ipynb"


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook.

    Attributes:
        code: Whether it is code, or else Markdown.
        source: Its text.
        printed: What it printed.
        value: What its last line gives, as a notebook would show it; None where that is nothing.
    """

    code: bool
    source: str
    printed: str = ""
    value: object = None


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:  # noqa: ANN401 - mkdocs' own
    """Fills the page."""
    if page.file.src_uri != PAGE:
        return markdown
    with tempfile.TemporaryDirectory() as folder:
        return markdown + "\n".join(in_markdown(cell) for cell in run(NOTEBOOK, Path(folder)))


def run(notebook: Path, folder: Path) -> Iterator[Cell]:
    """Runs a notebook in one namespace, in a folder, and yields its cells as they are done.

    Code is Python alone, no commands of IPython. What a cell raises is raised.
    """
    names: dict[str, Any] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            yield Cell(False, source)
            continue
        before = Path.cwd()
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                value = _run(source, names)
        finally:
            os.chdir(before)
        yield Cell(True, source, printed.getvalue(), value)


def _run(source: str, names: dict[str, Any]) -> object:
    """Runs statements; gives the value of the last one if it is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "tutorial.ipynb", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "tutorial.ipynb", "eval"), names)


def in_markdown(cell: Cell) -> str:
    """A cell with what it gave: pictures as such, all else as text."""
    if not cell.code:
        return f"\n{cell.source}\n"
    parts = [f"\n```python\n{cell.source}\n```\n"]
    picture = getattr(cell.value, "_repr_png_", lambda: None)()
    text = "" if cell.value is None or picture else repr(cell.value)
    if said := (cell.printed + text).strip():
        parts.append(f"\n```text\n{said}\n```\n")
    if picture:
        encoded = base64.b64encode(picture).decode()
        source = f"data:image/png;base64,{encoded}"
        parts.append(f'\n<img class="output" alt="What the cell shows" src="{source}">\n')
    return "".join(parts)
