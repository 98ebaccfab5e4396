import json

import numpy as np
import pytest

from piclip.errors import UsageError
from piclip.evaluation.metrics import FewShotIoU, confidence_interval
from piclip.evaluation.records import (
    Evaluation,
    SeedResult,
    library_versions,
    read_result,
    write_result,
)


def _meter(seed, classes=("cat", "star")):
    rng, meter = np.random.default_rng(seed), FewShotIoU(classes)
    for _ in range(4):
        for name in classes:
            meter.add(name, rng.random((5, 5)) < 0.5, (rng.random((5, 5)) < 0.5).astype(np.uint8))
    return meter


def _evaluation(**fields):
    least = {"method": "training-free", "prior": "piclip", "dataset": "scenes", "fold": 0}
    least |= {"shots": 1, "candidates": "target", "episodes": 1}
    return Evaluation(**(least | fields))


@pytest.fixture
def result():
    evaluation = _evaluation(
        method="pfenet",
        fold=2,
        shots=5,
        episodes=8,
        folds=4,
        seeds=(0, 1, 2),
        backbone="tiny",
        text="refined",
        visual="plain",
        settings={"size": 129},
        recipe={"fold": 2, "select": "last"},
        clip={"name": "builtin", "sha256": "ab"},
        weights_sha256="cd",
        versions=library_versions(),
        command="piclip evaluate run",
    )
    for seed in (2, 0, 1):
        evaluation = evaluation.with_seed(SeedResult.of(seed, f"hash{seed}", _meter(seed)))
    return evaluation


def test_a_record_comes_back_from_its_file(result, tmp_path):
    path = write_result(result, tmp_path / "result.json")
    assert read_result(path) == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_figures_are_those_of_the_meters(result):
    data = result.to_json()
    meters = [_meter(seed) for seed in range(3)]
    mean, half = confidence_interval([100 * meter.miou() for meter in meters])
    assert data["miou"] == [round(mean, 4), round(half, 4)]
    assert data["fb_iou"][0] == pytest.approx(np.mean([100 * m.fb_iou() for m in meters]), abs=1e-4)
    assert [item["seed"] for item in data["per_seed"]] == [0, 1, 2]
    assert data["per_seed"][1]["miou"] == round(100 * meters[1].miou(), 4)
    cat = np.mean([100 * meter.per_class()[0] for meter in meters])
    assert data["per_class"]["cat"] == pytest.approx(cat, abs=1e-4)
    assert np.array_equal(result.per_seed[0].meter().union, meters[0].union)
    assert np.array_equal(result.per_seed[0].meter().intersection, meters[0].intersection)


def test_one_seed_has_no_interval_and_an_unseen_class_no_figure(result, tmp_path):
    meter = FewShotIoU(("cat", "star"))
    meter.add("cat", np.ones((2, 2), bool), np.ones((2, 2), np.uint8))
    single = _evaluation(seeds=(0, 1)).with_seed(SeedResult.of(0, "h", meter))
    data = json.loads(write_result(single, tmp_path / "r.json").read_text())
    assert data["miou"] == [100.0, None]
    assert data["per_class"] == {"cat": 100.0, "star": None}
    assert data["complete"] is False
    assert result.to_json()["complete"] is True


def test_a_class_without_episodes_counts_as_its_protocol_says(tmp_path):
    meter = FewShotIoU(("cat", "star"))
    meter.add("cat", np.ones((2, 2), bool), np.ones((2, 2), np.uint8))
    for protocol, zero, miou in (("ours", False, 100), ("pfenet", True, 50)):
        result = _evaluation(
            method="pfenet", prior="none", seeds=(0,), protocol=protocol
        ).with_seed(SeedResult.of(0, "h", meter, zero))
        assert result.miou[0] == miou
        assert read_result(write_result(result, tmp_path / f"{protocol}.json")) == result


def test_files_of_old_versions_are_of_our_protocol(result, tmp_path):
    path = write_result(result, tmp_path / "result.json")
    data = json.loads(path.read_text())
    assert data.pop("protocol") == "ours"
    path.write_text(json.dumps(data))
    assert read_result(path) == result
    path.write_text(json.dumps(data | {"protocol": "panet"}))
    with pytest.raises(UsageError, match="no protocol 'panet'"):
        read_result(path)
    other = Evaluation(**{**vars(result), "protocol": "hsnet"})
    assert other.difference(result) == 'protocol "ours" instead of "hsnet"'


def test_what_differs_is_said_but_seeds_may(result):
    other = Evaluation(**{**vars(result), "fold": 1})
    assert other.difference(result) == "fold 2 instead of 1"
    longer = Evaluation(**{**vars(result), "recipe": {"text": "x" * 100}})
    assert longer.difference(result) == "another recipe"
    fewer = Evaluation(**{**vars(result), "seeds": (0,), "per_seed": (), "command": "other"})
    assert fewer.difference(result) is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        ("not json", "not a JSON file"),
        ("[1, 2]", "no result of an evaluation"),
        ('{"kind": "evaluation", "format": 99}', "format 99"),
        ('{"kind": "evaluation", "format": 1}', "incomplete or damaged"),
        (
            '{"kind": "evaluation", "format": 1, "seeds": [0], "per_seed": '
            '[{"seed": 0, "episodes_hash": "x", "counts": {"cat": [1, 2]}}]}',
            "2 counts of the class 'cat'",
        ),
    ],
)
def test_a_file_that_is_no_record_is_refused(tmp_path, content, sentence):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=sentence):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fold": "x"}, "fold = 'x' is no int"),
        ({"shots": True}, "shots = True is no int"),
        ({"backbone": 3}, r"backbone = 3 is no str \| None"),
        ({"method": None}, "method = None is no str"),
        ({"recipe": ["select"]}, "recipe = "),
        ({"seeds": [1e400]}, "infinity"),
        ({"per_seed": [{"seed": 0, "episodes_hash": "x", "counts": {"a": [1, 1, -1, 1]}}]}, "'a'"),
        (
            {"per_seed": [{"seed": 0, "episodes_hash": "x", "counts": {"a": [1, 1, 1 << 63, 1]}}]},
            "'a'",
        ),
    ],
)
def test_a_record_with_values_of_another_type_is_refused(result, tmp_path, change, sentence):
    path = write_result(result, tmp_path / "result.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=f"incomplete or damaged result .*{sentence}"):
        read_result(path)


def test_nothing_done_has_no_figures():
    empty = _evaluation(seeds=(0,))
    assert "miou" not in empty.to_json()
    with pytest.raises(UsageError, match="No seed"):
        _ = empty.miou
