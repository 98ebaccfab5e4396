"""``piclip demo``, ``priors``, ``convert`` and ``benchmark``."""

import functools
import io
import json
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from PIL import Image

import piclip as library
from photographs import write_photographs
from piclip.cli import main
from piclip.cli.demo_steps import CLASS_NAME
from piclip.evaluation.benchmarks import photos, scenes, speed
from piclip.evaluation.benchmarks.quality import MAPS, MODES


def use_untrained(patch, model):
    """Let an untrained model stand in for the built-in one."""
    load = library.FewShotSegmenter.from_pretrained
    patch.setattr(
        library.FewShotSegmenter,
        "from_pretrained",
        lambda name, **options: load(str(model) if name == "builtin" else name, **options),
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory, model):
    """A folder that `piclip demo --json` has filled, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "filled"
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        use_untrained(patch, model)
        assert main(["demo", str(folder), "--json"]) == 0
    return folder, json.loads(out.getvalue()), err.getvalue()


def test_demo_writes_everything_and_reports_true_ious(demo):
    folder, data, err = demo
    assert len(data["images"]) == 4 and len(data["without"]) == 2
    for image in data["without"]:
        assert not np.asarray(Image.open(folder / "truth" / image["file"])).any()
        mask = np.asarray(Image.open(folder / "masks" / image["file"])) > 0
        assert image["marked"] == pytest.approx(100 * mask.mean(), abs=0.01)
        assert f"no cat; {mask.mean():.1%} marked" in err
    for image in data["images"]:
        name = image["file"]
        mask = np.asarray(Image.open(folder / "masks" / name)) > 0
        truth = np.asarray(Image.open(folder / "truth" / name)) > 0
        iou = 100 * (mask & truth).sum() / (mask | truth).sum()
        assert image["iou"] == pytest.approx(iou, abs=0.01)
        assert f"{iou:.1f} %" in err
        assert Image.open(folder / "overlays" / name).size == mask.shape[::-1]
    mean = np.mean([image["iou"] for image in data["images"]])
    assert data["mean_iou"] == pytest.approx(mean, abs=0.02)
    assert Image.open(folder / "demo.png").width > 800
    assert data["figure"] == str(folder / "demo.png")
    assert data["figure"] in err


def test_what_the_demo_wrote_can_be_segmented_as_files(piclip, demo, tmp_path, model):
    folder, _, _ = demo
    ran = piclip(
        *("segment", "--model", model, "--name", CLASS_NAME, "--device", "cpu"),
        *("--support", folder / "images/support.png", "--mask", folder / "truth/support.png"),
        *("--query", folder / "images", "--output", tmp_path / "out"),
    )
    assert ran.code == 0
    for query in (folder / "masks").glob("*.png"):
        assert query.read_bytes() == (tmp_path / "out" / query.name).read_bytes()


def test_demo_where_nothing_can_be_written(piclip, tmp_path):
    (tmp_path / "demo").write_text("a file")
    ran = piclip("demo", tmp_path / "demo")
    assert ran.code == 1
    assert "demo" in ran.sentence


def test_priors_draws_and_saves_what_predict_gives(piclip, world):
    ran = piclip("priors", *world.command("--json", query=world.photos / "photo1.png")[1:])
    assert ran.code == 0
    assert json.loads(ran.out) == {
        "figure": str(world.output / "photo1.priors.png"),
        "arrays": str(world.output / "photo1.priors.npz"),
    }
    segmenter = library.FewShotSegmenter.from_pretrained(
        str(world.model), device="cpu", dtype="float32"
    )
    segmenter.fit([library.Support(world.support, world.mask)], name="cat")
    (expected,) = segmenter.predict([world.photos / "photo1.png"])
    arrays = np.load(world.output / "photo1.priors.npz")
    assert set(arrays) == {*expected.priors.maps(), "score", "mask"}
    for name, values in expected.priors.maps().items():
        np.testing.assert_allclose(arrays[name], values, atol=1e-5)
    np.testing.assert_array_equal(arrays["mask"], expected.mask)
    assert Image.open(world.output / "photo1.priors.png").width > 800


def test_priors_of_a_file_that_is_no_image(piclip, world):
    (world.photos / "photo1.png").write_bytes(b"")
    ran = piclip("priors", *world.command(query=world.photos / "photo1.png")[1:])
    assert ran.code == 1
    assert "photo1.png" in ran.sentence


def test_convert_gives_a_folder_that_segment_takes(piclip, world, shared, tmp_path):
    ran = piclip(
        *("convert", shared / "golden" / "tiny_openai_clip.safetensors", tmp_path / "converted"),
        *("--tokenizer", world.model),
    )
    # The golden model's vocabulary is not the untrained one's: the tokenizer is refused.
    assert ran.code == 1
    assert "--tokenizer" in ran.sentence
    assert not (tmp_path / "converted").exists()


def test_convert_copies_a_folder(piclip, world, tmp_path):
    ran = piclip("convert", world.model, tmp_path / "copy")
    assert ran.code == 0
    assert str(tmp_path / "copy") in ran.err.replace("\n", "")
    assert piclip(*world.command("--model", tmp_path / "copy")).code == 0
    again = piclip("convert", world.model, tmp_path / "copy")
    assert again.code == 2
    assert "not empty" in again.sentence


@pytest.fixture
def few_calibration_episodes(monkeypatch):
    run = functools.partial(scenes.run_scene_benchmark, calibration_episodes=2)
    monkeypatch.setattr(scenes, "run_scene_benchmark", run)


@pytest.mark.slow
def test_benchmark_scenes_prints_its_rows(piclip, model, few_calibration_episodes):
    command = ("benchmark", "scenes", "--model", model, "--device", "cpu", "--episodes", 3)
    ran = piclip(*command, "--seeds", 2, "--workers", 1, "--json")
    assert ran.code == 0
    content = json.loads(ran.out)
    rows, modes = content["rows"], content["modes"]
    maps = ("VTP", "VTP+PIR", "VVP", "VVP+PIR", "contrast", "fused", "final")
    assert [(row["shot"], row["map"]) for row in rows] == [(k, m) for k in (1, 5) for m in maps]
    for row in rows:
        assert 0 <= row["miou"] <= 100
        assert row["ci95"] >= 0
        assert f"{row['miou']:.1f}" in ran.err
        assert f"± {row['ci95']:.1f}" in ran.err
    kinds = ("named", "nameless", "wrong-support", "absent")
    assert [(row["shot"], row["mode"]) for row in modes] == [(k, m) for k in (1, 5) for m in kinds]
    for row in modes:
        measured = [row["absent_masked"], row["present_lost"], row["presence_auc"]]
        assert all((value is not None) == (row["mode"] == "absent") for value in measured)


def test_benchmark_photos_prints_rows_and_modes(piclip, model, tmp_path, monkeypatch):
    run = functools.partial(photos.run_photo_benchmark, calibration_episodes=2)
    monkeypatch.setattr(photos, "run_photo_benchmark", run)
    folder = write_photographs(tmp_path / "photos", classes=2, images=5)
    command = ("benchmark", "photos", "--data", folder, "--model", model, "--device", "cpu")
    ran = piclip(*command, "--shots", 2, "--episodes", 3, "--workers", 1, "--json")
    assert ran.code == 0
    content = json.loads(ran.out)
    assert (content["images"], content["episodes"], content["seed"]) == (10, 3, 0)
    assert [row["map"] for row in content["rows"]] == list(MAPS)
    assert [row["mode"] for row in content["modes"]] == list(MODES)
    assert {row["shot"] for row in content["rows"] + content["modes"]} == {2}
    listed = tmp_path / "list.txt"
    listed.write_text("0_0\n0_9\n")
    assert "no image 0_9" in piclip(*command, "--list", listed).sentence
    (tmp_path / "none").mkdir()
    other = piclip(*command[:3], tmp_path / "none", *command[4:])
    assert "photographs that are known" in other.sentence


def test_benchmark_speed_prints_its_ratios(piclip, monkeypatch):
    small = speed.Workload(image_size=32, width=24, depth=2, heads=2, embed_dim=8, large=(60, 40))
    run = functools.partial(
        speed.run_speed_benchmark, workload=small, rounds=1, measure_memory=False
    )
    monkeypatch.setattr(speed, "run_speed_benchmark", run)
    ran = piclip("benchmark", "speed", "--json")
    assert ran.code == 0
    data = json.loads(ran.out)
    assert {"one_class", "extra_class", "twenty_classes", "bf16_over_fp32", "memory"} <= set(data)
    assert data["memory"] is None
    assert f"{data['one_class']:.3f}" in ran.err
    assert f"{data['twenty_classes']:.3f}" in ran.err
    assert "not measurable here" in ran.err
    assert all(stage in ran.err for stage in data["stages"])
