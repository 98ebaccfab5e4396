"""The comparison on drawn scenes: what is planned, what is repeated, that no process is left."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from piclip.decoders.backbones import build_backbone
from piclip.decoders.published import load_published
from piclip.errors import PiclipError
from piclip.evaluation.records import read_result
from sentences import one_sentence
from world import jobs, pretraining
from world.experiments import Scenes

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "scenes"


def test_every_cell_of_the_paper_is_planned_once(tmp_path):
    plan = Scenes(results=tmp_path / "results", runs=tmp_path / "runs", recipes=RECIPES)
    before, learners, parts, without = plan.phases()
    shown = [path.relative_to(tmp_path).as_posix() for part in before for path, _ in part]
    calibrated = [f"runs/fold{fold}/calibrated" for fold in range(4)]
    assert shown == ["runs/backbone.safetensors", *calibrated]
    shown = [path.relative_to(tmp_path).as_posix() for part in learners for path, _ in part]
    # All decoders of a fold are built on one base learner.
    assert shown == [f"runs/fold{fold}/base-learner/base" for fold in range(4)]
    shown = [path.relative_to(tmp_path).as_posix() for part in parts for path, _ in part]
    assert len(set(shown)) == len(shown) == 4 * (5 * 2 + 3 * 6 * 3)
    assert len(without) == 4 * 2
    for fold in range(4):
        recipe = plan.recipe(fold, "hdmnet")
        assert recipe.fold == fold and recipe.decoder.backbone_weights == plan.weights
        assert recipe.base is not None and not recipe.base.train_backbone


def test_what_is_done_is_not_done_again_and_a_failure_is_told(tmp_path):
    worked = []

    def fail():
        raise PiclipError("piclip three failed.")

    steps = [partial(worked.append, "one"), partial(worked.append, "two")]
    assert jobs.work(steps, tmp_path / "runs" / "log") is None
    assert worked == ["one", "two"]
    assert jobs.work([fail, steps[0]], tmp_path / "runs" / "log") == "piclip three failed."
    assert worked == ["one", "two"]
    assert "piclip three" in (tmp_path / "runs" / "log").read_text()


def test_a_process_that_is_killed_is_told_of_in_one_sentence(tmp_path):
    parts = [[(tmp_path / "never", partial(os._exit, 9))]]
    with pytest.raises(PiclipError, match="ended unexpectedly") as e:
        jobs.run([parts], 1, done=Path.exists, log=tmp_path / "log")
    assert "what is finished is kept" in one_sentence(e)


def test_average_precision_is_the_mean_precision_at_the_hits():
    scores, shown = np.array([0.9, 0.1, 0.5, 0.4], np.float32), np.array([1, 0, 0, 1], np.float32)
    assert pretraining._precision(scores, shown) == pytest.approx((1 + 2 / 3) / 2)


def test_the_backbone_that_image_labels_train_fits_the_decoders(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "HELD_OUT", 150)
    file, record = tmp_path / "backbone.safetensors", tmp_path / "backbone.json"
    pretraining.pretrain(file, record, 4, scenes=64, epochs=1)
    backbone = build_backbone("tiny", width=4)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    load_published(backbone, file)
    changed = [
        name
        for name, tensor in backbone.state_dict().items()
        if not torch.equal(tensor, before[name])
    ]
    assert len(changed) > len(before) / 2
    assert 0 < json.loads(record.read_text())["held_out_map"] < 1


SCRIPT = """
import time
from piclip.io.processes import worker_pool

if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(abs, -1).result(), flush=True)
        pool.submit(time.sleep, 300)
        time.sleep(300)
"""


@pytest.mark.slow
def test_no_process_outlives_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout.readline() == "1\n"
        parent.kill()
        # The parent's processes hold the other end of the pipe: it closes with the last of them.
        assert parent.communicate(timeout=60) == ("", None)


@pytest.mark.slow
def test_two_folds_at_once_leave_every_result_and_a_second_run_does_nothing(tmp_path):
    plan = Scenes(
        results=tmp_path / "results",
        runs=tmp_path / "runs",
        recipes=RECIPES,
        folds=(0, 1),
        decoders=("pfenet",),
        priors=("imagenet", "piclip", "none"),
        shots=(1,),
        seeds=1,
        episodes=4,
        threshold_episodes=4,
        overrides=(
            "base.steps=1",
            "episodic.steps=2",
            "validation={every: 1, episodes: 2}",
            "dataset.options={train_images: 120, val_images: 100}",
        ),
        pretraining=(64, 1),
        cases=2,
    )
    both = {"done": plan.is_done, "log": plan.runs / "log"}
    plan.results.mkdir()
    jobs.run(plan.phases(), 2, **both)
    files = sorted(plan.results.glob("*.json"))
    assert len(files) == 2 * (3 + 2 + 2)
    assert all(read_result(file).complete for file in files)
    before = {file: file.stat().st_mtime_ns for file in files}
    jobs.run(plan.phases(), 1, **both)
    assert {file: file.stat().st_mtime_ns for file in files} == before
