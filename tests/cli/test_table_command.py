"""``piclip table`` on files."""

import pytest

from piclip.evaluation.records import Evaluation, SeedResult, write_result

COMMAND = "table"


@pytest.fixture
def folder(tmp_path):
    for prior, hits in (("imagenet", 400), ("piclip", 500)):
        for fold in range(4):
            counts = {"cat": (800, hits, 1000, 1000)}
            result = Evaluation(
                method="pfenet",
                prior=prior,
                dataset="scenes",
                fold=fold,
                shots=1,
                candidates="target",
                episodes=10,
                folds=4,
                seeds=(0,),
                per_seed=(SeedResult(0, f"h{fold}", counts),),
                text="refined" if prior == "piclip" else None,
            )
            write_result(result, tmp_path / f"{prior}-{fold}.json")
    return tmp_path


def test_files_and_folders_make_the_same_table(run, folder):
    text = run(folder).out
    assert text == run(*sorted(folder.glob("*.json"))).out
    ours = next(line for line in text.splitlines() if "PI-CLIP" in line)
    assert [cell.strip() for cell in ours.split("|")][3:-1] == ["50.0"] * 5 + ["65.0"]


def test_styles_and_formats(run, folder):
    assert "+10.0" in run(folder, "--style", "priors", "--format", "csv").out
    assert r"\begin{tabular}" in run(folder, "--style", "ablation", "--format", "latex").out


def test_wrong_requests_are_one_sentence(run, folder, tmp_path):
    from piclip.errors import UsageError

    (tmp_path / "empty").mkdir()
    (tmp_path / "other.txt").write_text("{}")
    for arguments, sentence in (
        ([tmp_path / "empty"], "holds no result"),
        ([tmp_path / "other.txt"], "no result of an evaluation"),
        ([tmp_path / "none.json"], "cannot be read"),
        ([folder, "--format", "html"], "format is one of"),
        ([folder, "--style", "x"], "style is one of"),
    ):
        with pytest.raises(UsageError, match=sentence):
            run(*arguments)
