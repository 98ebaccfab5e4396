"""Formulas: LaTeX between dollar signs becomes MathML, which browsers draw without a script."""

from __future__ import annotations

import html
import re
from typing import Any

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def on_page_content(content: str, **_: Any) -> str:  # noqa: ANN401 - mkdocs' own
    """Converts the formulas of a page."""
    from latex2mathml.converter import convert  # noqa: PLC0415 - tests do without it

    def drawn(formula: re.Match[str]) -> str:
        display = "block" if formula[1] == "div" else "inline"
        tag = formula[1]
        return (
            f"<{tag} class='formula'>{convert(html.unescape(formula[2]), display=display)}</{tag}>"
        )

    return _FORMULA.sub(drawn, content)
