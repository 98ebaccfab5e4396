"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from itertools import groupby

from piclip.errors import UsageError
from piclip.evaluation.tables import Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "✓": r"$\checkmark$",
}


def render(table: Table, form: str) -> str:
    """A table as text that ends with a line break.

    Args:
        table: The table.
        form: "markdown", "latex" (needs the packages booktabs and amssymb) or "csv".

    Raises:
        UsageError: Another format.
    """
    forms: dict[str, Callable[[Table], str]] = {"markdown": _markdown, "latex": _latex, "csv": _csv}
    if form not in forms:
        raise UsageError(f"The format is one of {', '.join(forms)}, not {form!r}.")
    return forms[form](table)


def _markdown(table: Table) -> str:
    heads = [_heading(column) for column in table.columns]
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (heads, *table.rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(heads))]
    lines = [_markdown_row(cells[0], widths, table.labels)]
    rules = [
        "-" * width if number < table.labels else "-" * (width - 1) + ":"
        for number, width in enumerate(widths)
    ]
    lines.append(f"| {' | '.join(rules)} |")
    lines += [_markdown_row(row, widths, table.labels) for row in cells[1:]]
    for note in table.notes:
        lines += ["", rf"\{note}"]  # else a line that starts with * or + would be a list
    return "\n".join([f"{table.title}:", "", *lines]) + "\n"


def _markdown_row(cells: Sequence[str], widths: Sequence[int], labels: int) -> str:
    padded = [
        cell.ljust(width) if number < labels else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _latex(table: Table) -> str:
    count = len(table.columns) - table.labels
    lines = [
        rf"% {table.title}",
        rf"\begin{{tabular}}{{{'l' * table.labels}{'c' * count}}}",
        r"\toprule",
    ]
    heads = []
    for group, run in groupby(table.columns, key=_group):
        size = len(list(run))
        span = rf"\multicolumn{{{size}}}{{c}}{{{_escaped(group)}}}"
        heads += [span] if group else [""] * size
    lines.append(" & ".join(heads) + r" \\")
    lines.append(" & ".join(_escaped(column.split(" | ")[-1]) for column in table.columns) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join(map(_escaped, row)) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}", *(f"% {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_heading(column) for column in table.columns])
    writer.writerows(table.rows)
    return text.getvalue()


def _group(column: str) -> str:
    return column.partition(" | ")[0] if " | " in column else ""


def _heading(column: str) -> str:
    return column.replace(" | ", " ")


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
