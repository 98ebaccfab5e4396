from pathlib import Path
from queue import Queue

import pytest

pytest.importorskip("accelerate")

from piclip.benchmarks import experiments
from piclip.benchmarks.experiments import Experiments, Plan, Report, Step
from piclip.evaluation.results import read_result

RECIPES = Path(__file__).parents[2] / "recipes" / "scenes"


def test_every_cell_of_the_paper_is_planned_once(tmp_path):
    job = Experiments(Plan(), RECIPES, tmp_path / "runs", tmp_path / "results")
    titles = [step.title for step in job.all_steps()]
    assert len(set(titles)) == len(titles)
    for fold in range(4):
        for decoder in ("pfenet", "bam", "hdmnet"):
            for prior in ("imagenet", "piclip"):
                for shots in (1, 5):
                    assert f"fold {fold}: {decoder}-{prior}, {shots}-shot" in titles
        rows = {f"fold {fold}: bam-{row}, 1-shot" for row in ("none", "vtp", "vtp+pir", "vvp")}
        assert rows < set(titles)
        # The main table comes first, on a base learner that all its decoders share.
        main = [step.title for step in job.steps(fold)]
        assert main[0] == f"fold {fold}: base learner"
        assert not rows & set(main)


def test_what_is_done_is_not_done_again():
    worked = []

    def steps(job: object, fold: int):
        def work(progress):
            progress(1, 2)
            worked.append("second")

        yield Step("first", lambda: True, lambda progress: worked.append("first"))
        yield Step("second", lambda: False, work)

    reports: Queue[Report] = Queue()
    experiments._run(None, steps, 3, reports)
    assert worked == ["second"]
    assert [(r.title, r.done, r.total, r.finished) for r in reports.queue] == [
        ("first", 0, 0, True),
        ("second", 0, 0, False),
        ("second", 1, 2, False),
        ("second", 0, 0, True),
    ]
    assert {r.fold for r in reports.queue} == {3}


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
            "dataset.options.train_images=60",
        ),
    )
    job = Experiments(plan, RECIPES, tmp_path / "runs", tmp_path / "results")
    finished: list[str] = []
    job.run(2, lambda report: finished.append(report.title) if report.finished else None)
    assert sorted(finished) == sorted(step.title for step in job.all_steps())
    files = job.result_files()
    assert len(files) == 2 * (2 + 5 + 1)
    assert all(read_result(file).complete for file in files)
    before = {file: file.stat().st_mtime_ns for file in files}
    job.run(1, lambda report: None)
    assert {file: file.stat().st_mtime_ns for file in job.result_files()} == before
