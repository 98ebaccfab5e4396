"""Training from a recipe: what comes out, what is selected, and on how many processes."""

import json
import os
import socket

import pytest
import torch
from tiny_training import tiny_recipe
from torch import multiprocessing

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.decoders.networks import load_decoder
from piclip.decoders.pspnet import PSPNet
from piclip.errors import DatasetError, ModelError, UsageError
from piclip.training import train as training
from piclip.training.episodic import VALIDATION_SEED, TrainingEpisodes, validate
from piclip.training.loop import build_optimizer, set_rate
from piclip.training.recipe import OptimizerRecipe
from piclip.training.train import train


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_run_holds_a_decoder_that_loads_and_says_what_it_was_trained_on(recipe, tmp_path):
    steps = []
    asked = recipe()
    folder = train(asked, tmp_path, lambda p: steps.append((p.phase, p.step, p.steps)))
    assert steps == [("base", i, 3) for i in (1, 2, 3)] + [("episodic", i, 4) for i in (1, 2, 3, 4)]
    decoder = load_decoder(folder)
    learner = PSPNet.from_pretrained(tmp_path / "base")
    # The frozen parts, running statistics of their batch norm included, are the base learner's.
    assert same(decoder.backbone.state_dict(), learner.backbone.state_dict())
    assert same(decoder.base_learner.state_dict(), learner.head.state_dict())
    record = json.loads((folder / "training.json").read_text())
    assert record["method"] == "bam" and record["recipe"] == asked.to_json()
    assert record["step"] == 4 and not record["selected_on_novel_classes"]
    assert {f.name for f in (tmp_path / "log").iterdir()} == {"base", "episodic"}
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert train(asked, tmp_path, steps.append) == folder and len(steps) == 7
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_the_trained_parts_move_and_another_seed_moves_them_elsewhere(recipe, tmp_path):
    weights = {}
    for name, seed, steps in (("start", 0, 0), ("end", 0, 1), ("other", 1, 1)):
        asked = recipe(seed=seed, base=None, decoder=PFENET, episodic={"steps": steps, "batch": 2})
        weights[name] = load_decoder(train(asked, tmp_path / name)).state_dict()
    moved = [k for k in weights["start"] if not torch.equal(weights["start"][k], weights["end"][k])]
    assert moved and not any(key.startswith("backbone") for key in moved)
    assert not same(weights["end"], weights["other"])


def test_a_dataset_that_is_open_already_is_not_opened_again(recipe, tmp_path, monkeypatch):
    asked = recipe(base=None, decoder=PFENET, episodic={"steps": 1, "batch": 2})
    dataset = open_dataset(asked.dataset.name, asked.dataset.root, **asked.dataset.options)
    alone = load_decoder(train(asked, tmp_path / "alone"))
    monkeypatch.delattr(training, "open_dataset")
    given = load_decoder(train(asked, tmp_path / "given", dataset=dataset))
    assert same(alone.state_dict(), given.state_dict())


@pytest.mark.parametrize("kind", ["base", pytest.param("novel", marks=pytest.mark.slow)])
def test_validation_tells_the_decoder_which_base_class_is_asked_for(recipe, tmp_path, kind):
    asked = recipe()
    decoder = load_decoder(train(asked, tmp_path))
    data = open_dataset("scenes", None, **asked.dataset.options)
    view = FewShotView(data, fold=0, split="val", classes=kind, minimum_pixels=4)
    seen = []
    forward = decoder.forward

    def watched(*args, base_class=None):
        seen.append(base_class)
        return forward(*args, base_class=base_class)

    decoder.forward = watched
    validate(decoder, view, asked, None)
    classes = [
        TrainingEpisodes(view, asked, VALIDATION_SEED, augment=False)[number].source.class_index
        for number in range(3)
    ]
    if kind == "novel":
        assert seen == [None, None]
    else:
        assert torch.cat(seen).tolist() == [view.base_classes.index(index) for index in classes]


PFENET = {
    "name": "pfenet",
    "backbone": "tiny",
    "backbone_options": {"width": 2},
    "options": {"width": 4, "scales": [3, 2]},
}


@pytest.mark.parametrize("sees", ["plain", pytest.param("augmented", marks=pytest.mark.slow)])
def test_clip_priors_enter_and_a_cache_does_not_change_the_result(recipe, tmp_path, sees):
    def asked(augmentation=None, **clip):
        return recipe(
            augmentation=augmentation or {"size": 33},
            prior="piclip",
            base=None,
            decoder=PFENET,
            episodic={"steps": 2, "batch": 2},
            clip={"model": "builtin", "dtype": "float32", "sees": sees, **clip},
        )

    first = load_decoder(train(asked(), tmp_path / "a")).state_dict()
    without_text = load_decoder(train(asked(text="none"), tmp_path / "b")).state_dict()
    assert not same(first, without_text)
    cache = tmp_path / "cache"
    still = {"size": 33, "whole": True, "scale": [1, 1], "rotation": 0, "blur": 0}
    own = {} if sees == "plain" else {"augmentation": still}
    cold = load_decoder(train(asked(cache=cache, **own), tmp_path / "c")).state_dict()
    files = {*cache.rglob("*.safetensors")}
    warm = load_decoder(train(asked(cache=cache, **own), tmp_path / "d")).state_dict()
    assert same(cold, warm) and files and files == {*cache.rglob("*.safetensors")}


@pytest.mark.slow
def test_workers_do_not_change_the_result(recipe, tmp_path):
    results = [
        load_decoder(train(recipe(workers=n, shot=2), tmp_path / str(n))).state_dict()
        for n in (0, 2)
    ]
    assert same(*results)


@pytest.mark.parametrize(("select", "marked"), [("base-val", False), ("novel-val", True)])
def test_the_best_weights_are_selected_and_the_result_is_marked(
    recipe, tmp_path, monkeypatch, select, marked
):
    scores = iter([0.2, 0.6, 0.6, 0.1])
    seen = []

    def judge(decoder, view, *_):
        assert not decoder.training and view.split == "val"
        assert set(view.classes) <= set(view.novel_classes if marked else view.base_classes)
        seen.append({k: v.clone() for k, v in decoder.state_dict().items()})
        return next(scores)

    monkeypatch.setattr("piclip.training.episodic.validate", judge)
    folder = train(recipe(select=select), tmp_path)
    record = json.loads((folder / "training.json").read_text())
    assert (record["step"], record["score"]) == (2, 0.6)
    assert record["scores"] == {"1": 0.2, "2": 0.6, "3": 0.6, "4": 0.1}
    assert record["selected_on_novel_classes"] is marked
    assert record["selected_on"].startswith("novel" if marked else "base")
    assert same(load_decoder(folder).state_dict(), seen[1]) and len(seen) == 4


@pytest.mark.slow
def test_validation_is_a_share_and_the_same_twice(recipe, tmp_path):
    records = []
    for name in "ab":
        folder = train(recipe(select="base-val"), tmp_path / name)
        records.append(json.loads((folder / "training.json").read_text()))
    assert records[0] == records[1] and 0 <= records[0]["score"] <= 1


def test_the_schedule_is_polynomial():
    weight = torch.nn.Parameter(torch.zeros(1))
    groups = [{"params": [weight], "factor": 10.0}]
    for name in ("adamw", "sgd"):
        optimizer = build_optimizer(groups, OptimizerRecipe(name=name, lr=0.1))
        rates = []
        for step in range(4):
            set_rate(optimizer, 0.9, step, 4)
            rates.append(optimizer.param_groups[0]["lr"])
        assert rates == pytest.approx([(1 - t / 4) ** 0.9 for t in range(4)])


def test_what_does_not_fit_is_told_before_it_starts(recipe, tmp_path):
    nothing = {"episodic": {"steps": 0}, "base": {"steps": 0, "options": {"width": 6}}}
    train(recipe(**nothing), tmp_path / "run")
    with pytest.raises(UsageError, match=r"another recipe .fold is 0 there and 2 here"):
        train(recipe(**nothing, fold=2), tmp_path / "run")
    with pytest.raises(ModelError, match="do not fit the base learner"):
        train(recipe(base={"steps": 10**9}), tmp_path / "width")
    with pytest.raises(UsageError, match="bam needs a base learner"):
        train(recipe(base=None), tmp_path / "none")
    with pytest.raises(UsageError, match="there is no folder nowhere"):
        train(recipe(base={"steps": 0, "folder": "nowhere"}), tmp_path / "folder")
    other = {"steps": 0, "options": {"width": 6}, "folder": str(tmp_path / "run" / "base")}
    with pytest.raises(UsageError, match="trained on scenes, fold 0, and may have seen novel"):
        train(recipe(fold=2, base=other), tmp_path / "other")
    with pytest.raises(UsageError, match="no fold 7"):
        train(recipe(fold=7), tmp_path / "fold")
    with pytest.raises(UsageError, match="No pspnet can be built with the options of base"):
        train(recipe(base={"steps": 0, "options": {"width": "6"}}), tmp_path / "type")
    with pytest.raises(UsageError, match="no option 'depth'"):
        bad = {"name": "pfenet", "backbone": "tiny", "options": {"depth": 3}}
        train(recipe(base=None, decoder=bad), tmp_path / "option")


def test_a_loss_that_is_no_number_ends_the_training(recipe, tmp_path):
    rate = {"name": "sgd", "lr": 1e30}
    wild = recipe(
        base=None, decoder=PFENET, episodic={"steps": 4, "batch": 2, "optimizer": rate}, log_every=1
    )
    with pytest.raises(UsageError, match=r"no number after \d steps \(episodic\)"):
        train(wild, tmp_path)
    assert not (tmp_path / "decoder").exists()


def test_scarce_classes_can_be_left_out(recipe, tmp_path):
    few = {
        "name": "scenes",
        "options": {"train_images": 12, "val_images": 12, "size": 32},
        "keep": True,
    }
    with pytest.raises(DatasetError, match="leave such classes out with minimum_images=2"):
        train(recipe(dataset=few), tmp_path / "run")
    # In the same folder: it holds a recipe, but no training yet.
    train(recipe(dataset=few, minimum_images=2), tmp_path / "run")
    # The base learner has every base class all the same: those left out make no episodes.
    learner = PSPNet.from_pretrained(tmp_path / "run" / "base")
    assert learner.head.classifier.out_channels == 1 + 15


def _one_of_two(rank, port, folder):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    torch.nn.Dropout2d.forward = _unchanged
    losses = []
    train(_without_batch_norm(), folder, lambda p: losses.append(p.losses["loss"]))
    if rank == 0:
        (folder / "losses.json").write_text(json.dumps(losses))
    torch.distributed.destroy_process_group()


def _unchanged(_, maps):
    return maps  # in place of dropout, which every process draws for itself


def _without_batch_norm():
    # SGD: AdamW's first steps are the signs of gradients, that of a rounding error included.
    optimizer = {"name": "sgd", "lr": 0.1}
    return tiny_recipe(
        base=None, decoder=PFENET, episodic={"steps": 4, "batch": 4, "optimizer": optimizer}
    )


@pytest.mark.slow
def test_two_processes_train_as_one_on_the_same_global_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Dropout2d, "forward", _unchanged)
    losses = []
    alone = train(
        _without_batch_norm(), tmp_path / "one", lambda p: losses.append(p.losses["loss"])
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_one_of_two, (port, tmp_path / "two"), nprocs=2)
    assert json.loads((tmp_path / "two" / "losses.json").read_text()) == pytest.approx(
        losses, rel=1e-5
    )
    one, two = (load_decoder(f).state_dict() for f in (alone, tmp_path / "two" / "decoder"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-4)


def test_the_command_reads_a_recipe_and_changes_to_it(recipe, tmp_path):
    import typer
    from typer.testing import CliRunner

    from piclip.cli.train import train as command

    app = typer.Typer()
    app.command()(command)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe().to_yaml())
    run = tmp_path / "run"
    arguments = ["-c", str(file), "fold=1", "--output", str(run)]
    result = CliRunner().invoke(app, [*arguments, "--base-only"])
    assert result.exit_code == 0, result.output
    assert (run / "base").is_dir() and not (run / "decoder").exists()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert json.loads((run / "decoder" / "training.json").read_text())["recipe"]["fold"] == 1
    wrong = CliRunner().invoke(app, ["-c", str(file), "flod=1"])
    assert isinstance(wrong.exception, UsageError) and "did you mean 'fold'" in str(wrong.exception)
