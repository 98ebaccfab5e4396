"""The paper's tables from records of evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from piclip.errors import UsageError
from piclip.evaluation.records import Evaluation
from piclip.evaluation.table_cells import MISSING, gain, over_folds, shown

Style = Literal["main", "ablation", "priors"]

CHECK = "✓"
ORACLE, NOVEL, RAW = "*", "+", "#"
BASELINE = "imagenet"

TITLES = {
    "training-free": "Training-free",
    "threshold": "Threshold",
    "pfenet": "PFENet",
    "bam": "BAM",
    "hdmnet": "HDMNet",
    "imagenet": "ImageNet",
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

_NOTES = {
    ORACLE: "class names of the query's truth were given as prompts (candidates: oracle)",
    NOVEL: "weights were selected on novel classes (select: novel-val)",
    RAW: "the visual prior is raw cosines, not scaled (clip.visual: raw)",
}


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: What it shows.
        columns: Headings; ``"1-shot | mean"`` belongs to the group ``"1-shot"``.
        rows: One text per column.
        labels: How many columns on the left name the row.
        notes: What the marks in the rows mean.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int
    notes: tuple[str, ...] = ()


_Key: TypeAlias = tuple[str, str, str | None, str | None, str | None, str]


@dataclass(frozen=True)
class _Row:
    """The results of one method: by (shots, fold)."""

    method: str
    prior: str
    backbone: str | None
    text: str | None
    visual: str | None
    marks: str
    results: Mapping[tuple[int, int], Evaluation]


_Labels: TypeAlias = Mapping[str, Callable[[_Row], str]]
"""The columns that name a row: headings and what stands below them."""


def make_tables(results: Sequence[tuple[str, Evaluation]], style: Style = "main") -> list[Table]:
    """Sorts results into the cells of tables, one table for each dataset.

    - ``main``: decoder, prior and backbone; per number of shots the folds' mIoU, their mean and
      the FB-IoU.
    - ``ablation``: the same, with check marks for the ImageNet prior, VTP, VVP and PIR (of VTP
      unless it says another) in place of the prior; a row without any had no prior.
    - ``priors``: the rows of ``main``; mean mIoU and its gain over the ImageNet prior. Where some
      folds have no result in any row, the mean is over the others, and its heading names them.

    Figures are in percent, with the 95 % interval over the seeds where there are two or more. A
    mean over folds needs all folds of its heading; what is missing is shown as "-".

    Args:
        results: Names (for messages) and records.
        style: Which table.

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
        _table(dataset, [pair for pair in results if pair[1].dataset == dataset], style)
        for dataset in datasets
    ]


def _table(dataset: str, results: Sequence[tuple[str, Evaluation]], style: Style) -> Table:
    rows = _rows(results)
    folds = max(result.folds for _, result in results)
    shots = sorted({result.shots for _, result in results})
    build = {"main": _main, "ablation": _ablation, "priors": _priors}[style]
    columns, labels, body = build(rows, shots, folds)
    marks = "".join(row.marks + _raw(row) for row in rows)
    notes = tuple(f"{mark} {text}" for mark, text in _NOTES.items() if mark in marks)
    unfinished = [name for name, result in results if not result.complete]
    if unfinished:
        notes += (f"(Seeds are still missing in {', '.join(unfinished)}.)",)
    counts = sorted({result.episodes for _, result in results})
    title = f"mIoU and FB-IoU in percent on {dataset}, {' or '.join(map(str, counts))} episodes"
    if style == "priors":
        title = title.replace("mIoU and FB-IoU", "Mean mIoU")
    return Table(title, columns, body, labels, notes)


def _main(
    rows: Sequence[_Row], shots: Sequence[int], folds: int
) -> tuple[tuple[str, ...], int, tuple[tuple[str, ...], ...]]:
    labels = {"Method": _title, "Prior": _prior_title, **_backbone(rows)}
    return _with_folds(labels, rows, shots, folds)


def _ablation(
    rows: Sequence[_Row], shots: Sequence[int], folds: int
) -> tuple[tuple[str, ...], int, tuple[tuple[str, ...], ...]]:
    used = ("plain", "refined", "raw")
    labels: _Labels = {
        "Method": _title,
        **_backbone(rows),
        TITLES[BASELINE]: lambda row: CHECK if row.prior == BASELINE else "",
        "VTP": lambda row: CHECK if row.text in used else "",
        "VVP": lambda row: CHECK + _raw(row) if row.visual in used else "",
        "PIR": lambda row: _REFINED[row.text == "refined", row.visual == "refined"],
    }
    return _with_folds(labels, rows, shots, folds)


def _with_folds(
    labels: _Labels,
    rows: Sequence[_Row],
    shots: Sequence[int],
    folds: int,
) -> tuple[tuple[str, ...], int, tuple[tuple[str, ...], ...]]:
    columns = list(labels)
    for shot in shots:
        parts = [*(f"fold {fold}" for fold in range(folds)), "mean", "FB-IoU"]
        columns += [f"{shot}-shot | {part}" for part in parts]
    body = []
    for row in rows:
        cells = [label(row) for label in labels.values()]
        for shot in shots:
            found = [row.results.get((shot, fold)) for fold in range(folds)]
            cells += [MISSING if one is None else shown(one.miou) for one in found]
            cells += [shown(over_folds(found, kind)) for kind in ("miou", "fb_iou")]
        body.append(tuple(cells))
    return tuple(columns), len(labels), tuple(body)


def _priors(
    rows: Sequence[_Row], shots: Sequence[int], folds: int
) -> tuple[tuple[str, ...], int, tuple[tuple[str, ...], ...]]:
    labels = {"Decoder": _title, "Prior": _prior_title, **_backbone(rows)}
    columns = list(labels)
    asked = sorted({fold for row in rows for _, fold in row.results})
    mean = "mean" if len(asked) == folds else f"fold {', '.join(map(str, asked))}"
    for shot in shots:
        columns += [f"{shot}-shot | {mean}", f"{shot}-shot | gain"]
    body = []
    for row in rows:
        cells = [label(row) for label in labels.values()]
        base = _baseline(row, rows)
        for shot in shots:
            own = [row.results.get((shot, fold)) for fold in asked]
            cells.append(shown(over_folds(own, "miou")))
            if base is None or base is row:
                cells.append("" if base is row else MISSING)
                continue
            theirs = [base.results.get((shot, fold)) for fold in asked]
            cells.append(shown(gain(own, theirs), sign="+"))
        body.append(tuple(cells))
    return tuple(columns), len(labels), tuple(body)


def _rows(results: Sequence[tuple[str, Evaluation]]) -> list[_Row]:
    """Results by row, in the order of the paper: decoder by decoder, priors from weak to strong."""
    cells: dict[_Key, dict[tuple[int, int], tuple[str, Evaluation]]] = {}
    for name, result in results:
        marks = (ORACLE if result.candidates == "oracle" else "") + (
            NOVEL if result.selected_on_novel else ""
        )
        key = (result.method, result.prior, result.backbone, result.text, result.visual, marks)
        row = cells.setdefault(key, {})
        place = (result.shots, result.fold)
        if place in row:
            raise UsageError(
                f"{row[place][0]} and {name} fill the same cell of the table ({result.method}, "
                f"{result.prior}, fold {result.fold}, {result.shots}-shot); give one of them."
            )
        row[place] = (name, result)
    methods = list(dict.fromkeys(result.method for _, result in results))
    rows = [
        _Row(*key, {place: result for place, (_, result) in row.items()})
        for key, row in cells.items()
    ]
    return sorted(
        rows, key=lambda r: (methods.index(r.method), r.backbone or "", r.marks, _rank(r.prior))
    )


def _rank(prior: str) -> int:
    return _PRIOR_ORDER.index(prior) if prior in _PRIOR_ORDER else len(_PRIOR_ORDER)


def _backbone(rows: Sequence[_Row]) -> _Labels:
    """The column of backbones, where any row has one."""
    named = any(row.backbone for row in rows)
    return {"Backbone": lambda row: row.backbone or MISSING} if named else {}


def _title(row: _Row) -> str:
    return TITLES.get(row.method, row.method) + row.marks


def _prior_title(row: _Row) -> str:
    return TITLES.get(row.prior, row.prior.upper()) + _raw(row)


def _raw(row: _Row) -> str:
    return RAW if row.visual == "raw" else ""


def _baseline(row: _Row, rows: Sequence[_Row]) -> _Row | None:
    """The row with the same decoder and the ImageNet prior."""
    if row.prior == BASELINE:
        return row
    same = [r for r in rows if r.prior == BASELINE and r.method == row.method]
    return next((r for r in same if (r.backbone, r.marks) == (row.backbone, row.marks)), None)
