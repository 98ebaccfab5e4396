import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from piclip.errors import UsageError
from piclip.evaluation.metrics import confidence_interval
from piclip.evaluation.predictor import PRIORS
from piclip.evaluation.records import Evaluation, SeedResult
from piclip.evaluation.tables import CHECK, MISSING, make_tables, render


def _result(miou, *, fold=0, shots=1, prior="imagenet", method="pfenet", seeds=(0, 1), **more):
    """A record of one class whose IoU is ``miou`` percent plus the seed's number."""
    text, visual = PRIORS.get(prior, (None, None))
    per_seed = tuple(
        SeedResult(seed, f"{fold}{shots}{seed}", {"cat": (900, 10 * (miou + seed), 1000, 1000)})
        for seed in seeds
    )
    values = {"candidates": "target", "backbone": "resnet50", "text": text, "visual": visual}
    return Evaluation(
        method=method, prior=prior, dataset="pascal-5i", fold=fold, shots=shots, episodes=1000,
        folds=4, seeds=seeds, per_seed=per_seed, **{**values, **more},
    )  # fmt: skip


def _named(*results):
    return [(f"{number}.json", result) for number, result in enumerate(results)]


def _cells(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_the_main_table_has_folds_mean_and_fb_iou_of_each_shot():
    ours = [_result(60 + fold, fold=fold, prior="piclip") for fold in range(4)]
    base = [_result(50, fold=fold) for fold in (0, 2)]
    five = [_result(70, fold=1, shots=5)]
    (table,) = make_tables(_named(*ours, *base, *five))
    first, second = _cells(table)
    assert [first["Prior"], second["Prior"]] == ["previous", "PI-CLIP"]
    assert (second["Method"], second["Backbone"]) == ("PFENet", "resnet50")
    mean, half = confidence_interval([61, 62])
    assert second["1-shot | fold 1"] == f"{mean:.1f} ± {half:.1f}"
    mean, half = confidence_interval([61.5, 62.5])
    assert second["1-shot | mean"] == f"{mean:.1f} ± {half:.1f}"
    fb = [np.mean([0.9, (61.5 + seed) / 100]) * 100 for seed in (0, 1)]
    assert second["1-shot | FB-IoU"].startswith(f"{np.mean(fb):.1f} ±")
    assert first["1-shot | fold 1"] == first["1-shot | mean"] == MISSING
    assert first["5-shot | fold 1"].startswith("70.5")
    assert second["5-shot | fold 1"] == MISSING


def test_one_seed_has_no_interval():
    (table,) = make_tables(_named(_result(50, seeds=(3,))))
    assert _cells(table)[0]["1-shot | fold 0"] == "53.0"


def test_the_ablation_checks_what_was_used():
    results = [_result(50), _result(52, prior="vtp"), _result(55, prior="piclip")]
    (table,) = make_tables(_named(*results), "ablation")
    checks = [[row[name] for name in ("VTP", "VVP", "PIR")] for row in _cells(table)]
    assert checks == [["", "", ""], [CHECK, "", ""], [CHECK, CHECK, CHECK]]


def test_the_ablation_tells_no_prior_from_the_previous_one():
    results = [_result(50, prior="none"), _result(52), _result(55, prior="piclip")]
    (table,) = make_tables(_named(*results), "ablation")
    rows = _cells(table)
    assert [row["1-shot | fold 0"][:2] for row in rows] == ["50", "52", "55"]
    assert [row["previous"] for row in rows] == ["", CHECK, ""]
    for form in ("markdown", "latex", "csv"):
        assert "previous" in render(table, form)


@pytest.mark.parametrize("style", ["main", "ablation", "priors"])
def test_no_two_rows_are_called_the_same(style):
    kinds = [{"prior": prior} for prior in ("none", "imagenet", *PRIORS)]
    kinds += [{"prior": prior, "visual": "raw"} for prior in ("vvp", "vtp+vvp", "piclip")]
    results = [
        _result(50, backbone=backbone, **kind) for kind in kinds for backbone in ("vgg16bn", "tiny")
    ]
    (table,) = make_tables(_named(*results), style)
    assert len({row[: table.labels] for row in table.rows}) == len(results)


def test_raw_cosines_are_a_visual_prior_with_a_mark():
    results = [_result(50), _result(55, prior="piclip"), _result(56, prior="piclip", visual="raw")]
    (table,) = make_tables(_named(*results), "ablation")
    assert [row["VVP"] for row in _cells(table)] == ["", CHECK, f"{CHECK}#"]
    assert [note[0] for note in table.notes] == ["#"]
    (main,) = make_tables(_named(*results))
    assert [row["Prior"] for row in _cells(main)] == ["previous", "PI-CLIP", "PI-CLIP#"]
    folds = [_result(50 + gain, fold=fold, **more) for fold in range(4) for gain, more in (
        (0, {}), (8, {"prior": "piclip", "visual": "raw"}),
    )]  # fmt: skip
    (gains,) = make_tables(_named(*folds), "priors")
    assert _cells(gains)[1]["1-shot | gain"] == "+8.0 ± 0.0"


def test_the_gain_is_over_the_imagenet_prior_of_the_same_decoder():
    results = []
    for fold in range(4):
        results += [_result(50 + fold, fold=fold), _result(58 + fold, fold=fold, prior="piclip")]
        results.append(_result(40, fold=fold, method="bam", prior="piclip"))
    (table,) = make_tables(_named(*results), "priors")
    pfenet, ours, bam = _cells(table)
    assert pfenet["1-shot | gain"] == ""
    # Both saw the same episodes, so the seeds' differences count: they are all 8.
    assert ours["1-shot | gain"] == "+8.0 ± 0.0"
    assert (bam["Decoder"], bam["1-shot | gain"]) == ("BAM", MISSING)


def test_a_gain_over_some_folds_says_which():
    results = [_result(50, fold=fold) for fold in (0, 2)]
    results += [_result(58, fold=fold, prior="piclip") for fold in (0, 2)]
    results.append(_result(40, fold=2, method="bam"))
    (table,) = make_tables(_named(*results), "priors")
    base, ours, bam = _cells(table)
    assert base["1-shot | fold 0, 2"].startswith("50.5")
    assert ours["1-shot | gain"] == "+8.0 ± 0.0"
    assert bam["1-shot | fold 0, 2"] == MISSING


def test_a_gain_on_other_episodes_has_no_interval():
    results = []
    for fold in range(4):
        results += [_result(50, fold=fold, seeds=(0, 1))]
        results += [_result(58, fold=fold, prior="piclip", seeds=(1, 2))]
    (table,) = make_tables(_named(*results), "priors")
    assert _cells(table)[1]["1-shot | gain"] == "+9.0"


def test_oracles_and_selection_on_novel_classes_are_rows_of_their_own_with_a_note():
    results = [
        _result(50, prior="piclip"),
        _result(60, prior="piclip", candidates="oracle", recipe={"select": "novel-val"}),
    ]
    (table,) = make_tables(_named(*results))
    assert [row["Method"] for row in _cells(table)] == ["PFENet", "PFENet*+"]
    assert [note[0] for note in table.notes] == ["*", "+"]


def test_an_evaluation_that_was_stopped_has_a_note():
    stopped = Evaluation(**{**vars(_result(50)), "seeds": (0, 1, 2)})
    (table,) = make_tables([("stopped.json", stopped)])
    assert "stopped.json" in table.notes[0]
    assert r"\(Seeds are" in render(table, "markdown")


def test_datasets_have_tables_of_their_own():
    results = [_result(50), _result(40, fold=1)]
    other = Evaluation(**{**vars(results[1]), "dataset": "scenes"})
    assert [len(t.rows) for t in make_tables(_named(results[0], other))] == [1, 1]


def test_two_results_for_one_cell_and_none_at_all_are_refused():
    with pytest.raises(UsageError, match=r"0\.json and 1\.json fill the same cell"):
        make_tables(_named(_result(50), _result(51)))
    with pytest.raises(UsageError, match="at least one"):
        make_tables([])
    with pytest.raises(UsageError, match="main, ablation, priors"):
        make_tables(_named(_result(50)), "pretty")
    with pytest.raises(UsageError, match=r"0\.json has no finished seed"):
        make_tables(_named(_result(50, seeds=())))


def test_protocols_are_rows_of_their_own_and_gains_stay_within_one():
    results = []
    for fold in range(4):
        for protocol, gain in (("ours", 8), ("hsnet", 3)):
            results.append(_result(50, fold=fold, protocol=protocol))
            results.append(_result(50 + gain, fold=fold, prior="piclip", protocol=protocol))
    (table,) = make_tables(_named(*results), "priors")
    rows = _cells(table)
    assert [row["Protocol"] for row in rows] == ["hsnet", "hsnet", "ours", "ours"]
    assert [row["1-shot | gain"][:4] for row in rows] == ["", "+3.0", "", "+8.0"]
    (ablation,) = make_tables(_named(*results), "ablation")
    assert len({row[: ablation.labels] for row in ablation.rows}) == 4


def test_what_others_published_stands_below_with_its_source():
    results = [_result(60, fold=fold, shots=shots) for fold in range(4) for shots in (1, 5)]
    (table,) = make_tables(_named(*results))
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.published]
    assert [
        (row["Method"], row["Prior"], row["1-shot | mean"], row["5-shot | mean"]) for row in cells
    ] == [
        ("PFENet", "previous", "60.8", "61.9"),
        ("BAM", "previous", "67.8", "70.9"),
        ("HDMNet", "previous", "69.4", "71.8"),
    ]
    assert all(row["Protocol"].startswith("published, arXiv 2") for row in cells)
    assert {row["1-shot | fold 0"] for row in cells} == {row["5-shot | FB-IoU"] for row in cells}
    coco = [replace(result, dataset="coco-20i") for result in results]
    (other,) = make_tables(_named(*coco), "priors")
    means = [dict(zip(other.columns, row, strict=True)) for row in other.published]
    assert [row["1-shot | mean"] for row in means] == ["35.8", "46.2", "50.0"]
    assert [row["5-shot | mean"] for row in means] == ["39.0", "51.2", "56.0"]
    for form in ("markdown", "latex", "csv"):
        assert render(table, form).count("published, arXiv") == 3
    assert render(table, "latex").count("midrule") == 2
    scenes = [replace(result, dataset="scenes") for result in results]
    for style, named in (("main", scenes), ("ablation", results)):
        (table,) = make_tables(_named(*named), style)
        assert table.published == () and "Protocol" not in table.columns


@pytest.fixture
def table():
    results = [_result(50 + fold, fold=fold, prior="piclip") for fold in range(4)]
    oracle = _result(60, prior="piclip", candidates="oracle")
    return make_tables(_named(*results, oracle), "ablation")[0]


def test_markdown_lines_have_the_same_cells(table):
    lines = render(table, "markdown").splitlines()
    body = [line for line in lines if line.startswith("|")]
    assert len(body) == 2 + len(table.rows)
    assert {line.count("|") for line in body} == {len(table.columns) + 1}
    assert len({len(line) for line in body}) == 1
    assert lines[-1].startswith(r"\* class names")


def test_latex_rows_have_the_columns_of_the_tabular(table):
    text = render(table, "latex")
    lines = text.splitlines()
    assert lines[1] == r"\begin{tabular}{llllllcccccc}"
    assert r"\multicolumn{6}{c}{1-shot}" in lines[3]
    spans = lines[3].count("&") + 5  # the multicolumn stands for six
    rows = [line for line in lines if line.endswith(r"\\")][1:]
    assert spans == len(table.columns) - 1
    assert {row.count("&") for row in rows} == {len(table.columns) - 1}
    assert "±" not in text
    assert r"$\checkmark$" in text


def test_csv_is_read_back(table):
    rows = list(csv.reader(io.StringIO(render(table, "csv"))))
    assert rows[0][-1] == "1-shot FB-IoU"
    assert [tuple(row) for row in rows[1:]] == list(table.rows)
    with pytest.raises(UsageError, match="markdown, latex, csv"):
        render(table, "html")
