"""The experiments: what is planned, that nothing is repeated, that no process is left."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("accelerate")

from piclip.evaluation.records import read_result
from world import experiments
from world.experiments import Plan

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "scenes"


def test_every_cell_of_the_paper_is_planned_once(tmp_path):
    plan = Plan(tmp_path / "results", tmp_path / "runs")
    learners, parts = plan.phases()
    shown = [path.relative_to(tmp_path) for part in learners for path, _ in part]
    # All decoders of a fold are built on one base learner.
    assert shown == [Path(f"runs/fold{fold}/base-learner/base") for fold in range(4)]
    shown = [path.relative_to(tmp_path).as_posix() for part in parts for path, _ in part]
    assert len(set(shown)) == len(shown)
    results = {path.name for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert len(results) == 76
    assert {path.split("/")[1] for path in shown if path.startswith("results/")} == results
    for fold in range(4):
        for decoder in ("pfenet", "bam", "hdmnet"):
            assert f"runs/fold{fold}/{decoder}-piclip/decoder" in shown


def test_what_is_done_is_not_done_again_and_a_failure_is_told(tmp_path, monkeypatch):
    worked = []
    monkeypatch.setattr(experiments, "piclip", lambda command: worked.append(command) or 0)
    steps = [partial(experiments.cli, [word]) for word in ("one", "two", "three", "four")]
    assert experiments.work(steps[:2], tmp_path) is None
    assert worked == [["one"], ["two"]]
    monkeypatch.setattr(experiments, "piclip", lambda command: worked.append(command) or 1)
    assert experiments.work(steps[2:], tmp_path) == "`piclip three` failed."
    assert worked[2:] == [["three"]]
    assert "piclip three" in (tmp_path / "log").read_text()


SCRIPT = """
import time
from piclip.evaluation.evaluate import worker_pool

if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(abs, -1).result(), flush=True)
        pool.submit(time.sleep, 300)
        time.sleep(300)
"""


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
def test_two_folds_at_once_leave_every_result_and_a_second_run_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the features' cache lies in the folder where the command runs
    plan = Plan(
        tmp_path / "results",
        tmp_path / "runs",
        folds=(0, 1),
        decoders=("pfenet",),
        shots=(1,),
        seeds=1,
        episodes=4,
        overrides=(
            "workers=0",
            "base.steps=1",
            "episodic.steps=1",
            "dataset.options.train_images=120",
        ),
        recipes=RECIPES,
    )
    experiments.run(plan, 2)
    files = sorted(plan.results.glob("*.json"))
    assert len(files) == 2 * (2 + 5 + 1)
    assert all(read_result(file).complete for file in files)
    before = {file: file.stat().st_mtime_ns for file in files}
    experiments.run(plan, 1)
    assert {file: file.stat().st_mtime_ns for file in files} == before
