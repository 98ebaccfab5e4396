"""The paper's tables from records of evaluations, as Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from piclip.datasets.protocols import OURS
from piclip.errors import UsageError
from piclip.evaluation.metrics import confidence_interval
from piclip.evaluation.records import Evaluation

Style = Literal["main", "ablation", "priors"]

CHECK, MISSING = "✓", "-"
BASELINE = "imagenet"

TITLES = {
    "training-free": "Training-free",
    "threshold": "Threshold",
    "pfenet": "PFENet",
    "bam": "BAM",
    "hdmnet": "HDMNet",
    "imagenet": "previous",
    "piclip": "PI-CLIP",
    "none": "none",
}
"""What methods and priors are called in print."""

_PRIOR_ORDER = ("none", "imagenet", "vtp", "vvp", "vtp+pir", "vvp+pir", "vtp+vvp", "piclip")
_REFINED = {
    (False, False): "",
    (True, False): CHECK,
    (False, True): f"{CHECK} VVP",
    (True, True): f"{CHECK} both",
}
"""What is refined, the visual-text and the visual-visual prior; the paper refines the first."""

_ORACLE, _NOVEL, _RAW = "*", "+", "#"
_NOTES = {
    _ORACLE: "class names of the query's truth were given as prompts (candidates: oracle)",
    _NOVEL: "weights were selected on novel classes (select: novel-val)",
    _RAW: "the visual prior is raw cosines, not scaled (clip.visual: raw)",
}
"""Marks of methods and, the last, of priors."""

_LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", CHECK: r"$\checkmark$"}
)

_Place: TypeAlias = tuple[int, int]  # shots and fold of a result
_Row: TypeAlias = dict[_Place, Evaluation]  # the results of one method and prior


class Published(NamedTuple):
    """Mean mIoU over four folds, percent by shots, of a method with its own prior on ResNet-50."""

    method: str
    dataset: str
    miou: dict[int, float]
    source: str


PUBLISHED = (
    Published("pfenet", "pascal-5i", {1: 60.8, 5: 61.9}, "arXiv 2008.01449"),
    Published("bam", "pascal-5i", {1: 67.8, 5: 70.9}, "arXiv 2203.07615"),
    Published("hdmnet", "pascal-5i", {1: 69.4, 5: 71.8}, "arXiv 2303.14652"),
    # PFENet's own paper has no ResNet-50 on COCO-20i; later ones print this figure.
    Published("pfenet", "coco-20i", {1: 35.8, 5: 39.0}, "arXiv 2405.08458"),
    Published("bam", "coco-20i", {1: 46.2, 5: 51.2}, "arXiv 2203.07615"),
    Published("hdmnet", "coco-20i", {1: 50.0, 5: 56.0}, "arXiv 2303.14652"),
)
"""Figures that others have published, to stand beside ours."""


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    columns: tuple[str, ...]  # headings; "1-shot | mean" belongs to the group "1-shot"
    rows: tuple[tuple[str, ...], ...]
    labels: int  # how many columns on the left name the row
    notes: tuple[str, ...] = ()  # what the marks in the rows mean
    published: tuple[tuple[str, ...], ...] = ()  # further rows, of what others have published


def make_tables(results: Sequence[tuple[str, Evaluation]], style: Style = "main") -> list[Table]:
    """Sorts results into the cells of tables, one table for each dataset.

    - ``main``: decoder, prior and backbone; per number of shots the folds' mIoU, their mean and
      the FB-IoU.
    - ``ablation``: the same, with check marks for the previous prior, VTP, VVP and PIR (of VTP
      unless it says another) in place of the prior; a row without any had no prior.
    - ``priors``: the rows of ``main``; mean mIoU and its gain over the previous prior. Where some
      folds have no result in any row, the mean is over the others, and its heading names them.

    Results by different protocols are rows of their own. ``main`` and ``priors`` of PASCAL-5i and
    COCO-20i end with what others have published.

    Figures are in percent, with the 95 % interval over the seeds where there are two or more. A
    mean over folds needs all folds of its heading; what is missing is shown as "-". The names of
    the results are for messages.

    Raises:
        UsageError: An unknown style, no results, or two results for the same cell.
    """
    if style not in get_args(Style):
        raise UsageError(f"The style is one of {', '.join(get_args(Style))}, not {style!r}.")
    if not results:
        raise UsageError("A table needs at least one result.")
    empty = next((name for name, result in results if not result.per_seed), None)
    if empty is not None:
        raise UsageError(f"{empty} has no finished seed yet; let the evaluation finish.")
    datasets = dict.fromkeys(result.dataset for _, result in results)
    return [
        _table([pair for pair in results if pair[1].dataset == dataset], style)
        for dataset in datasets
    ]


def _table(named: Sequence[tuple[str, Evaluation]], style: Style) -> Table:
    rows, results = _rows(named), [result for _, result in named]
    published = [one for one in PUBLISHED if one.dataset == results[0].dataset]
    published = [] if style == "ablation" else published
    backbones = any(result.backbone for result in results)
    protocols = bool(published) or any(result.protocol != OURS.name for result in results)
    labels = [_labels(_first(r), style, backbones=backbones, protocols=protocols) for r in rows]
    cells = [label | _figures(row, rows, style) for label, row in zip(labels, rows, strict=True)]
    marks = {*"".join(map(_marks, results))}
    if any(result.visual == "raw" for result in results):
        marks.add(_RAW)
    notes = [f"{mark} {text}" for mark, text in _NOTES.items() if mark in marks]
    unfinished = [name for name, result in named if not result.complete]
    if unfinished:
        notes.append(f"(Seeds are still missing in {', '.join(unfinished)}.)")
    what = "Mean mIoU" if style == "priors" else "mIoU and FB-IoU"
    counts = " or ".join(map(str, sorted({result.episodes for result in results})))
    title = f"{what} in percent on {results[0].dataset}, {counts} episodes"
    columns = tuple(cells[0])
    return Table(
        title,
        columns,
        tuple(tuple(row.values()) for row in cells),
        len(labels[0]),
        tuple(notes),
        tuple(_published_row(one, columns) for one in published),
    )


def _published_row(one: Published, columns: Sequence[str]) -> tuple[str, ...]:
    cells = dict.fromkeys(("Method", "Decoder"), TITLES[one.method])
    cells |= {"Prior": TITLES[BASELINE], "Backbone": "resnet50"}
    cells["Protocol"] = f"published, {one.source}"
    cells |= {f"{shots}-shot | mean": f"{miou:.1f}" for shots, miou in one.miou.items()}
    return tuple(cells.get(column, MISSING) for column in columns)


def _rows(named: Sequence[tuple[str, Evaluation]]) -> list[_Row]:
    """Results by row, in the order of the paper: decoder by decoder, priors from weak to strong."""
    rows: dict[object, _Row] = {}
    names: dict[object, str] = {}
    for name, result in named:
        key = (_method(result), result.prior, result.text, result.visual)
        place = (result.shots, result.fold)
        if (key, place) in names:
            raise UsageError(
                f"{names[key, place]} and {name} fill the same cell of the table ({result.method}, "
                f"{result.prior}, fold {result.fold}, {result.shots}-shot); give one of them."
            )
        names[key, place] = name
        rows.setdefault(key, {})[place] = result
    methods = list(dict.fromkeys(result.method for _, result in named))

    def order(row: _Row) -> tuple[int, str, str, str, int]:
        method, backbone, marks, protocol = _method(_first(row))
        prior = _first(row).prior
        rank = _PRIOR_ORDER.index(prior) if prior in _PRIOR_ORDER else len(_PRIOR_ORDER)
        return methods.index(method), backbone or "", marks, protocol, rank

    return sorted(rows.values(), key=order)


def _first(row: _Row) -> Evaluation:
    """A result of the row, to name it by; all are of one method and prior."""
    return next(iter(row.values()))


def _method(result: Evaluation) -> tuple[str, str | None, str, str]:
    return result.method, result.backbone, _marks(result), result.protocol


def _marks(result: Evaluation) -> str:
    oracle = _ORACLE if result.candidates == "oracle" else ""
    return oracle + (_NOVEL if result.selected_on_novel else "")


def _labels(
    result: Evaluation, style: Style, *, backbones: bool, protocols: bool
) -> dict[str, str]:
    """What names a row, by heading."""
    method = "Decoder" if style == "priors" else "Method"
    labels = {method: TITLES.get(result.method, result.method) + _marks(result)}
    raw = _RAW if result.visual == "raw" else ""
    if style != "ablation":
        labels["Prior"] = TITLES.get(result.prior, result.prior.upper()) + raw
    if backbones:
        labels["Backbone"] = result.backbone or MISSING
    if protocols:
        labels["Protocol"] = result.protocol
    if style == "ablation":
        used = ("plain", "refined", "raw")
        labels[TITLES[BASELINE]] = CHECK if result.prior == BASELINE else ""
        labels["VTP"] = CHECK if result.text in used else ""
        labels["VVP"] = CHECK + raw if result.visual in used else ""
        labels["PIR"] = _REFINED[result.text == "refined", result.visual == "refined"]
    return labels


def _figures(row: _Row, rows: Sequence[_Row], style: Style) -> dict[str, str]:
    """The figures of a row, by heading; these depend on all rows of the table."""
    results = [result for one in rows for result in one.values()]
    folds = range(max(result.folds for result in results))
    asked = sorted({result.fold for result in results})
    heading = "mean" if len(asked) == len(folds) else f"fold {', '.join(map(str, asked))}"
    figures = {}
    for shots in sorted({result.shots for result in results}):
        group = f"{shots}-shot | "
        if style == "priors":
            places = [(shots, fold) for fold in asked]
            figures[group + heading] = _mean(row, places)
            figures[group + "gain"] = _gain(row, rows, places)
        else:
            places = [(shots, fold) for fold in folds]
            for shot, fold in places:
                figures[group + f"fold {fold}"] = _mean(row, [(shot, fold)])
            figures[group + "mean"] = _mean(row, places)
            figures[group + "FB-IoU"] = _mean(row, places, kind="fb_iou")
    return figures


def _mean(row: _Row, places: Sequence[_Place], kind: str = "miou") -> str:
    """Mean of "miou" or "fb_iou" over the places."""
    figures = _by_seed(row, places, kind)
    return shown(confidence_interval([*figures.values()])) if figures else MISSING


def _gain(row: _Row, rows: Sequence[_Row], places: Sequence[_Place]) -> str:
    """Gain over the same decoder with the previous prior.

    Its interval is that of the seeds' differences, if both saw the same episodes; else it has none.
    """
    if _first(row).prior == BASELINE:
        return ""
    same = [other for other in rows if _method(_first(other)) == _method(_first(row))]
    base = next((other for other in same if _first(other).prior == BASELINE), {})
    ours, theirs = _by_seed(row, places), _by_seed(base, places)
    if not ours or not theirs:
        return MISSING
    if _episodes(row, places) == _episodes(base, places):
        return shown(confidence_interval([ours[seed] - theirs[seed] for seed in ours]), "+.1f")
    return f"{np.mean([*ours.values()]) - np.mean([*theirs.values()]):+.1f}"


def _by_seed(row: _Row, places: Sequence[_Place], kind: str = "miou") -> dict[int, float]:
    """Mean over the places for each seed that all of them have; empty if a place is missing."""
    if any(place not in row for place in places):
        return {}
    parts = [{one.seed: getattr(one, kind) for one in row[place].per_seed} for place in places]
    common = sorted(set.intersection(*map(set, parts)))
    return {seed: float(np.mean([part[seed] for part in parts])) for seed in common}


def _episodes(row: _Row, places: Sequence[_Place]) -> set[tuple[_Place, int, str]]:
    return {(place, one.seed, one.episodes_hash) for place in places for one in row[place].per_seed}


def shown(figure: tuple[float, float], form: str = ".1f") -> str:
    """A mean with the half of its interval, unless that is NaN."""
    mean, half = figure
    return f"{mean:{form}}" if math.isnan(half) else f"{mean:{form}} ± {half:{form.lstrip('+')}}"


def render(table: Table, form: str) -> str:
    """A table as "markdown", "latex" (for booktabs and amssymb) or "csv"; else a UsageError."""
    forms = {"markdown": _markdown, "latex": _latex, "csv": _csv}
    if form not in forms:
        raise UsageError(f"The format is one of {', '.join(forms)}, not {form!r}.")
    return forms[form](table)


def _markdown(table: Table) -> str:
    cells = [[c.replace("|", r"\|") for c in row] for row in _lines(table)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    sides = ["<"] * table.labels + [">"] * (len(widths) - table.labels)
    ends = ["-"] * table.labels + [":"] * (len(widths) - table.labels)
    cells.insert(1, [end.rjust(width, "-") for end, width in zip(ends, widths, strict=True)])
    lines = [f"{table.title}:", ""]
    for row in cells:
        padded = [f"{c:{side}{width}}" for c, side, width in zip(row, sides, widths, strict=True)]
        lines.append(f"| {' | '.join(padded)} |")
    for note in table.notes:
        lines += ["", rf"\{note}"]  # else a line that starts with * or + would be a list
    return "\n".join(lines) + "\n"


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

    groups = []
    for group, run in groupby(column.rpartition(" | ")[0] for column in table.columns):
        size = len(list(run))
        span = rf"\multicolumn{{{size}}}{{c}}{{{group.translate(_LATEX)}}}"
        groups += [span] if group else [""] * size
    places = "l" * table.labels + "c" * (len(table.columns) - table.labels)
    lines = [
        rf"% {table.title}",
        rf"\begin{{tabular}}{{{places}}}",
        r"\toprule",
        " & ".join(groups) + r" \\",
        line([column.rpartition(" | ")[2] for column in table.columns]),
        r"\midrule",
        *map(line, table.rows),
        *([r"\midrule", *map(line, table.published)] if table.published else []),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {note}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_lines(table))
    return text.getvalue()


def _lines(table: Table) -> list[Sequence[str]]:
    """The headings and all rows."""
    headings = [column.replace(" | ", " ") for column in table.columns]
    return [headings, *table.rows, *table.published]
