"""The command reference: what every command says of itself with ``--help``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from piclip.cli import app

PAGE = "commands.md"
_WIDTH = 88


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:  # noqa: ANN401 - mkdocs' own
    """Fills the page."""
    return markdown + reference() if page.file.src_uri == PAGE else markdown


def reference() -> str:
    """A section for each command, in Markdown."""
    return "".join(f"\n## {name}\n\n```text\n{text}\n```\n" for name, text in helps())


def helps() -> Iterator[tuple[str, str]]:
    """Name and help of every command, groups before what is in them."""
    yield from _helps(typer.main.get_command(app), "piclip", None)


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=_WIDTH, max_content_width=_WIDTH
    )
    yield context.command_path, command.get_help(context).strip()
    for inner in getattr(command, "commands", {}).values():
        if not inner.hidden:
            yield from _helps(inner, inner.name, context)
