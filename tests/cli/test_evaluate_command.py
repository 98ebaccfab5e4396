"""``piclip evaluate`` on scenes, with the built-in CLIP and a tiny decoder."""

import json
from pathlib import Path

import pytest
import torch

from piclip.decoders.networks import build_decoder
from piclip.errors import OutputError, UsageError
from piclip.evaluation.records import read_result

COMMAND = "evaluate"

DECODER_RECIPE = """
fold: 1
dataset: {name: scenes, root: null, options: {val_images: 60, train_images: 40}}
clip: {model: builtin, dtype: float32}
augmentation: {size: 49}
"""


@pytest.fixture(scope="module")
def decoder_run(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "run-1"
    decoder = build_decoder("pfenet", backbone="tiny", prior="piclip", width=16)
    decoder.save_pretrained(folder / "decoder")
    (folder / "recipe.yaml").write_text(DECODER_RECIPE)
    return folder


def test_a_decoder_is_evaluated_as_its_recipe_says_and_resumes(run, decoder_run, tmp_path):
    output = tmp_path / "result.json"
    asked = (decoder_run, "--seeds", 1, "--episodes", 3, "--output", output, "--device", "cpu")
    printed = json.loads(run(*asked, "--json").out)
    assert json.loads(output.read_text()) == printed
    result = read_result(output)
    assert (result.method, result.prior, result.fold, result.dataset) == (
        *("pfenet", "piclip", 1),
        "scenes",
    )
    assert result.recipe["augmentation"] == {"size": 49}
    more = run(decoder_run, "--seeds", 2, "--episodes", 3, "--output", output, "--device", "cpu")
    assert "6/6" in more.err
    again = read_result(output)
    assert again.per_seed[0] == result.per_seed[0]
    assert [seed.seed for seed in again.per_seed] == [0, 1]


def test_all_folds_have_a_file_each(run, tmp_path, monkeypatch):
    monkeypatch.setattr("piclip.evaluation.evaluate.evaluate", _nothing_but_output)
    out = run(
        *("training-free", "--dataset", "scenes", "--fold", "all", "--option", "val_images=40"),
        *("--output", tmp_path / "free.json", "--device", "cpu", "--json"),
    ).out
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"free-fold{fold}.json" for fold in range(4)]
    assert [record["fold"] for record in json.loads(out)] == [0, 1, 2, 3]


def test_the_fold_stands_in_the_folder_of_the_output_as_in_its_name(run, tmp_path, monkeypatch):
    monkeypatch.setattr("piclip.evaluation.evaluate.evaluate", _nothing_but_output)
    scenes = ("training-free", "--dataset", "scenes", "--option", "val_images=40")
    output = tmp_path / "fold{fold}" / "free-{fold}.json"
    run(*scenes, "--device", "cpu", "--fold", "1", "--output", output)
    assert [path.name for path in tmp_path.rglob("*")] == ["fold1", "free-1.json"]


def test_runs_of_all_folds_say_their_dataset_themselves(run, tmp_path, monkeypatch):
    monkeypatch.setattr("piclip.evaluation.evaluate.evaluate", _nothing_but_output)
    decoder = build_decoder("pfenet", backbone="tiny", prior="none", width=16)
    for fold in range(4):
        folder = tmp_path / f"run-{fold}"
        decoder.save_pretrained(folder / "decoder")
        recipe = DECODER_RECIPE.replace("fold: 1", f"fold: {fold}")
        (folder / "recipe.yaml").write_text(recipe)
    asked = (tmp_path / "run-{fold}", "--output", tmp_path / "result.json", "--device", "cpu")
    out = run(*asked, "--fold", "all", "--json").out
    assert [record["fold"] for record in json.loads(out)] == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="Say which fold"):
        run(*asked)


def test_a_protocol_has_its_own_seeds_and_counts_and_a_file_its_protocol(
    run, piclip, tmp_path, monkeypatch
):
    asked = []

    def remember(predictor, view, protocol, **more):
        asked.append(protocol)
        return _nothing_but_output(predictor, view, protocol, **more)

    monkeypatch.setattr("piclip.evaluation.evaluate.evaluate", remember)
    scenes = ("--dataset", "scenes", "--fold", 0, "--option", "val_images=40", "--device", "cpu")
    scenes = ("training-free", *scenes, "--output", tmp_path / "r.json")
    run(*scenes)
    run(*scenes, "--protocol", "pfenet")
    run(*scenes, "--protocol", "pfenet", "--seeds", 2, "--episodes", 7)
    assert [(p.rules.name, len(p.seeds), p.episodes) for p in asked] == [
        ("ours", 5, 1000), ("pfenet", 10, 1000), ("pfenet", 2, 7),
    ]  # fmt: skip
    assert asked[2].seeds == (510, 365)
    file = tmp_path / "e.json"
    drawn = piclip(
        *("data", "episodes", "scenes", "--option", "val_images=40", "--protocol", "pfenet"),
        *("--episodes", 7, "--out", file, "--json"),
    )
    assert (drawn.code, json.loads(drawn.out)["seed"]) == (0, 510)
    run(*scenes, "--episodes-file", file)
    assert (asked[3].rules.name, asked[3].seeds, asked[3].episodes) == ("pfenet", (510,), 7)
    with pytest.raises(UsageError, match="drawn by the protocol pfenet, not hsnet"):
        run(*scenes, "--episodes-file", file, "--protocol", "hsnet")
    for option in ("--shot", "--seeds", "--episodes"):
        with pytest.raises(UsageError, match=f"drawn already, so that {option} has no effect"):
            run(*scenes, "--episodes-file", file, option, 1)


def test_a_threshold_is_chosen_with_as_many_supports_as_the_file_of_episodes_has(
    run, piclip, tmp_path, monkeypatch
):
    monkeypatch.setattr("piclip.evaluation.evaluate.evaluate", _nothing_but_output)
    monkeypatch.setattr(
        "piclip.cli.evaluation_runs.choose_threshold",
        lambda predictor, view, *, shots: chosen.append(shots) or 0.5,
    )
    images = ("--option", "val_images=100", "--option", "train_images=100")
    scenes, file, chosen = ("scenes", *images), tmp_path / "e.json", []
    drawn = piclip("data", "episodes", *scenes, "--shot", 2, "--episodes", 3, "--out", file)
    assert drawn.code == 0
    run(
        *("training-free", "--dataset", *scenes, "--fold", 0, "--device", "cpu", "--prior", "vtp"),
        *("--episodes-file", file, "--output", tmp_path / "r.json"),
    )
    assert chosen == [2]


def test_an_output_that_cannot_be_written_is_told_before_a_threshold_is_chosen(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr("piclip.cli.evaluation_runs.choose_threshold", None)
    images = ("--option", "val_images=40", "--option", "train_images=40")
    asked = ("training-free", "--dataset", "scenes", *images, "--fold", 0, "--prior", "vtp")
    with pytest.raises(OutputError, match="a folder is where the file should be"):
        run(*asked, "--output", tmp_path)


def test_ctrl_c_says_whether_the_same_command_goes_on(piclip, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    recipe = Path(__file__).parents[2] / "recipes" / "scenes" / "pfenet.yaml"
    monkeypatch.setattr("piclip.cli.evaluation_runs.EvaluateRequest.folds", interrupted)
    monkeypatch.setattr("piclip.training.train.train", interrupted)
    for command, words in (
        (("evaluate", "training-free"), "to start over."),
        (("evaluate", "training-free", "--output", tmp_path / "r.json"), "to go on: "),
        (("train", "-c", recipe, "--output", tmp_path / "run"), "to go on: what "),
    ):
        ended = piclip(*command)
        assert ended.code == 1 and words in ended.sentence


def _nothing_but_output(predictor, view, protocol, *, output, **_):
    from piclip.evaluation.records import Evaluation, SeedResult, write_result

    result = Evaluation(
        method="training-free",
        prior="piclip",
        dataset="scenes",
        fold=view.fold,
        shots=1,
        candidates="target",
        episodes=2,
        per_seed=(SeedResult(0, "h", {"cat": (1, 1, 2, 2)}),),
    )
    write_result(result, output)
    return result


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--fold", "0"), "has seen the novel classes of fold 0"),
        (("--fold", "x"), "a number or 'all'"),
        (("--prior", "vtp"), "leave out --prior"),
        (("--candidates", "x"), "target, oracle"),
    ],
)
def test_wrong_requests_for_a_decoder(run, decoder_run, arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        run(decoder_run, "--device", "cpu", *arguments)


def test_wrong_requests_without_training(run):
    with pytest.raises(UsageError, match="Say which fold"):
        run("training-free", "--dataset", "scenes")
    with pytest.raises(UsageError, match="--dataset scenes"):
        run("training-free", "--fold", "0")
    with pytest.raises(UsageError, match="KEY=VALUE"):
        run("training-free", "--fold", "0", "--dataset", "scenes", "--option", "x")
    with pytest.raises(UsageError, match="no dataset 'x'"):
        run("training-free", "--fold", "0", "--dataset", "x")
