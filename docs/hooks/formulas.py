"""Formulas: what is between dollar signs, drawn by matplotlib as shapes that need no font."""

from __future__ import annotations

import html
import re
from typing import Any

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
_SIZE = 20  # units of a picture to one em of its formula
_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}


def on_page_content(content: str, **_: Any) -> str:  # noqa: ANN401 - mkdocs' own
    """Draws the formulas of a page."""
    return _FORMULA.sub(_drawn, content)


def _drawn(found: re.Match[str]) -> str:
    tag, latex = found[1], html.unescape(found[2])
    return f'<{tag} class="formula">{svg(latex)}</{tag}>'


def svg(latex: str) -> str:
    """A formula as SVG in the colour of the text around it, on its baseline.

    Args:
        latex: What matplotlib's mathtext reads.

    Raises:
        ValueError: It is no formula.
    """
    said = " ".join(latex.split())
    shape = TextPath((0, 0), f"${said}$", _SIZE, prop=FontProperties(math_fontfamily="cm"))
    box = shape.get_extents().padded(_SIZE / 20)
    lines = []
    for points, code in shape.iter_segments(simplify=False):
        if code == Path.CLOSEPOLY:
            lines.append("Z")
        else:
            pairs = zip(points[::2], -points[1::2], strict=True)
            lines.append(_LETTERS[code] + " ".join(f"{x:.2f},{y:.2f}" for x, y in pairs))
    view = f"{box.x0:.2f} {-box.y1:.2f} {box.width:.2f} {box.height:.2f}"
    place = f"height: {box.height / _SIZE:.3f}em; vertical-align: {box.y0 / _SIZE:.3f}em"
    return (
        f'<svg role="img" aria-label="{html.escape(said)}" viewBox="{view}" style="{place}">'
        f'<path d="{"".join(lines)}"/></svg>'
    )
