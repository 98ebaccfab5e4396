from pathlib import Path
from queue import Queue

import pytest

pytest.importorskip("accelerate")

from piclip.evaluation.records import read_result
from world import experiments
from world.experiments import Experiments, Part, Plan, Report, Step

RECIPES = Path(__file__).parents[2] / "recipes" / "scenes"


def test_every_cell_of_the_paper_is_planned_once(tmp_path):
    job = Experiments(Plan(), RECIPES, tmp_path / "runs", tmp_path / "results")
    first, second = ([step.title for p in ps for step in job.steps(p)] for ps in job.phases())
    # All decoders of a fold are built on one base learner.
    assert first == [f"fold {fold}: base learner" for fold in range(4)]
    assert len(set(second)) == len(second)
    for fold in range(4):
        for prior in ("imagenet", "piclip"):
            for decoder in ("pfenet", "bam", "hdmnet"):
                for shots in (1, 5):
                    assert f"fold {fold}: {decoder}-{prior}, {shots}-shot" in second
        for row in ("none", "vtp", "vtp+pir", "vvp", "vtp+vvp"):
            assert f"fold {fold}: pfenet-{row}, 1-shot" in second


def test_what_is_done_is_not_done_again():
    worked = []

    class Two:
        def steps(self, part):
            def work(progress):
                progress(1, 2)
                worked.append("second")

            yield Step("first", lambda: True, lambda progress: worked.append("first"))
            yield Step("second", lambda: False, work)

    reports: Queue[Report] = Queue()
    experiments._run(Two(), Part(3), reports)
    assert worked == ["second"]
    assert [(r.title, r.done, r.total, r.finished) for r in reports.queue] == [
        ("first", 0, 0, True),
        ("second", 0, 0, False),
        ("second", 1, 2, False),
        ("second", 0, 0, True),
    ]
    assert {r.part for r in reports.queue} == {Part(3)}


@pytest.mark.slow
def test_two_folds_at_once_leave_every_result_and_a_second_run_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the features' cache lies in the folder where the command runs
    plan = Plan(
        folds=(0, 1),
        decoders=("pfenet",),
        ablated="pfenet",
        shots=(1,),
        seeds=(0,),
        episodes=4,
        overrides=(
            "workers=0",
            "base.steps=1",
            "episodic.steps=1",
            "dataset.options.train_images=120",
        ),
    )
    job = Experiments(plan, RECIPES, tmp_path / "runs", tmp_path / "results")
    finished: list[str] = []
    job.run(2, lambda report: finished.append(report.title) if report.finished else None)
    assert sorted(finished) == sorted(
        step.title for parts in job.phases() for part in parts for step in job.steps(part)
    )
    files = job.result_files()
    assert len(files) == 2 * (2 + 5 + 1)
    assert all(read_result(file).complete for file in files)
    before = {file: file.stat().st_mtime_ns for file in files}
    job.run(1, lambda report: None)
    assert {file: file.stat().st_mtime_ns for file in job.result_files()} == before
