"""The comparison on photographs: the stand-in for CLIP, what is planned, and all of it in small."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub import constants

from photographs import write_photographs

pytest.importorskip("accelerate")

from piclip.clip.towers import VisualTower
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.decoders.clip_priors import PriorMaker
from piclip.decoders.scorer import DecoderScorer
from piclip.errors import ModelError, UsageError
from piclip.evaluation.records import read_result
from sentences import one_sentence
from world import comparison, photographs
from world.comparison import report
from world.photographs import MODEL, Photographs
from world.prior_alone import PriorAlone
from world.stand_in import IMAGENET, StandIn

ROOT = Path(__file__).parents[2]
SMALL = (
    "base.steps=1",
    "episodic.steps=2",
    "episodic.batch=2",
    "validation={every: 1, episodes: 2}",
    "augmentation.size=48",
    "minimum_pixels=1300",
)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A small ViT for 1000 classes, where the hub would have put the named one."""
    folder = tmp_path_factory.mktemp("hub") / f"models--{MODEL.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=32,
        image_size=48,
        patch_size=8,
        num_labels=1000,
    )
    model = transformers.ViTForImageClassification(config)
    with torch.no_grad():  # no scale, bias or position is as it begins
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(snapshot)
    return snapshot


@pytest.fixture
def hub(classifier, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(classifier.parents[2]))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_photographs(tmp_path_factory.mktemp("voc"), classes=20, images=6)
    keys = [(c, f"{c}_{n}") for c in range(20) for n in range(6)]
    for fold in range(4):
        own = folder / f"fold{fold}"
        own.mkdir()
        novel = {key for c, key in keys if c // 5 == fold}
        held = {key for _, key in keys if key.endswith(("_0", "_1"))} | novel
        (own / "train.txt").write_text("\n".join(key for _, key in keys if key not in held))
        (own / "val.txt").write_text("\n".join(sorted(held)))
    return folder


def test_the_stand_in_sees_what_the_classifier_sees_and_reads_its_rows(classifier):
    encoder, pixels = StandIn.of(str(classifier)), torch.randn(2, 3, 48, 48)
    plain = transformers.ViTForImageClassification.from_pretrained(classifier).eval()
    (tokens,) = VisualTower.from_pretrained(classifier, device="cpu").tokens(pixels, [4])
    torch.testing.assert_close(encoder.encode(pixels).last, tokens, atol=1e-5, rtol=1e-5)
    rows = plain.classifier.weight.detach()
    for name, wording in (("cat", "cat"), ("bird", "bird avian"), ("tvmonitor", "tvmonitor")):
        row = F.normalize((rows - rows.mean(0))[list(IMAGENET[name])].mean(0), dim=0)
        texts = [f"a photo of {wording}", f"a photo without {wording}"]
        torch.testing.assert_close(encoder.encode_text(texts), torch.stack([row, -row]))
    for text in ("a photo of unicorn", "a drawing of cat", "a photo of catfish"):
        with pytest.raises(UsageError, match="classes of VOC alone") as error:
            encoder.encode_text([text])
        assert one_sentence(error)


def test_the_stand_in_is_a_classifier_of_imagenet(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=1, image_size=32, num_labels=3
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="classifies ImageNet's 1000 classes") as error:
        StandIn.of(str(tmp_path))
    assert one_sentence(error)


def test_every_cell_is_planned_once_and_one_fold_after_the_other(tmp_path):
    plan = Photographs(data=tmp_path / "data", results=tmp_path / "results", runs=tmp_path / "runs")
    before, learners, parts, without = plan.phases()
    assert before == []
    assert [len(part) for part in learners] == [1] * 4
    assert len(without) == 4 * 2
    shown = [path.relative_to(tmp_path).as_posix() for part in parts for path, _ in part]
    assert len(set(shown)) == len(shown) == 4 * (5 * 2 + 3 * 6 * 3)
    for fold in range(4):
        for decoder in ("pfenet", "bam", "hdmnet"):
            for prior in ("none", "imagenet", "vtp", "vtp+pir", "vvp", "piclip"):
                assert f"runs/fold{fold}/{decoder}-{prior}/decoder" in shown
                for shots in (1, 5):
                    assert f"results/{decoder}-{prior}-fold{fold}-{shots}shot.json" in shown
    folds = [int(path.split("fold")[1][0]) for path in shown]
    assert folds == sorted(folds)


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
def test_all_of_it_in_small_from_a_name_on_the_hub(data, tmp_path):
    plan = Photographs(
        data=data,
        results=tmp_path / "photos" / "results",
        runs=tmp_path / "runs",
        folds=(2,),
        decoders=("pfenet", "hdmnet"),
        priors=("imagenet", "vtp+pir"),
        shots=(1, 3),
        threshold_episodes=4,
        seeds=2,
        episodes=3,
        overrides=SMALL,
        lists=data,
        recipes=ROOT / "recipes" / "photographs",
    )
    steps = [pair for parts in plan.phases() for part in parts for pair in part]
    for shown, step in steps:
        assert not plan.is_done(shown)
        step()
    assert all(plan.is_done(shown) for shown, _ in steps)
    results = {file.stem: read_result(file) for file in plan.results.glob("*.json")}
    assert len(results) == 2 * (2 * 2 + 2 + 2)
    hashes = {(r.shots, tuple(s.episodes_hash for s in r.per_seed)) for r in results.values()}
    assert len(hashes) == 2  # all methods answer the same episodes
    assert results["threshold-vtp+pir-fold2-1shot"].method == "threshold"
    assert 0 < results["threshold-imagenet-fold2-3shot"].settings["threshold"] < 1
    assert results["hdmnet-vtp+pir-fold2-1shot"].clip["name"] == f"stand-in: {MODEL}"
    assert results["pfenet-vtp+pir-fold2-1shot"].prior == "vtp+pir"
    assert results["segmenter-nameless-fold2-1shot"].prior == "none"
    readme = plan.results.parent / "README.md"
    readme.write_text("Before\n\n<!-- figures -->\nearlier\n<!-- end of figures -->\n\nAfter\n")
    report(plan)
    written = readme.read_text()
    assert (
        "earlier" not in written and written.startswith("Before\n") and written.endswith("After\n")
    )
    gains = [
        each.miou - base.miou
        for each, base in zip(
            results["hdmnet-vtp+pir-fold2-1shot"].per_seed,
            results["hdmnet-imagenet-fold2-1shot"].per_seed,
            strict=True,
        )
    ]
    assert f"| HDMNet, gain, 1 shot | - | +0.0 ± 0.0 | - | {np.mean(gains):+.1f} ± " in written
    report(plan)
    assert readme.read_text() == written
    readme.write_text("no place")
    with pytest.raises(UsageError, match="no place for figures") as error:
        report(plan)
    assert one_sentence(error)
    page = (plan.results.parent / "main.md").read_text()
    assert "HDMNet" in page and "VTP+PIR" in page and "Threshold" in page
    trainings = json.loads((plan.results.parent / "trainings.json").read_text())["trainings"]
    assert len(trainings) == 4 and all(set(t["scores"]) == {"1", "2"} for t in trainings)
    shutil.rmtree(plan.run_folder(2, "pfenet", "imagenet"))  # made on another computer
    readme.write_text(written)
    report(plan)
    assert readme.read_text() == written
    there = json.loads((plan.results.parent / "trainings.json").read_text())["trainings"]
    assert there == trainings


@pytest.mark.parametrize(
    ("words", "output", "runs", "folds"),
    [
        ([], "benchmarks/photos5i/results", "runs/photographs", 4),
        (["--quick"], "runs/photographs-quick/results", "runs/photographs-quick", 1),
        (
            ["--control", "longer"],
            "benchmarks/photos5i-longer/results",
            "runs/photographs-longer",
            1,
        ),
        (["--output", "out", "--runs", "own"], "out", "own", 4),
        (["--folds", "2", "3"], "benchmarks/photos5i/results", "runs/photographs", 4),
    ],
)
def test_what_is_asked_for_on_the_command_line(monkeypatch, tmp_path, words, output, runs, folds):
    asked = []
    monkeypatch.setattr(
        comparison,
        "run",
        lambda phases, workers, **rest: asked.append((len(phases[1]), workers, rest["log"])),
    )
    monkeypatch.setattr(comparison, "report", asked.append)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["photographs", "--data", "d", "--workers", "3", *words])
    assert photographs.main() == 0
    (trained, workers, log), plan = asked
    assert trained == (2 if "--folds" in words else folds)
    assert (
        workers == 3 and log == Path(runs) / "log" and (plan.data, plan.model) == (Path("d"), MODEL)
    )
    assert (plan.results, plan.runs, len(plan.folds)) == (Path(output), Path(runs), folds)


def test_a_report_of_nothing_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["photographs", "--report", "--output", str(tmp_path)])
    assert photographs.main() == 1
    assert "at least one result" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prior", "text", "visual"),
    [("imagenet", "none", "plain"), ("piclip", "none", "plain"), ("piclip", "refined", "plain")],
)
def test_a_prior_alone_is_the_mean_of_its_maps(classifier, data, prior, text, visual):
    dataset = open_dataset("voc-photos", data, lists=data / "fold0")
    view = FewShotView(dataset, fold=0, split="val", classes="novel")
    episode = view.load(view.episode(0, 0, 2))
    decoder = PriorAlone(
        backbone="vit", backbone_options={"model": str(classifier)}, prior=prior
    ).eval()
    maker = PriorMaker(StandIn.of(str(classifier)), text=text, visual=visual)
    scorer = DecoderScorer(decoder, maker, size=64)
    queries = scorer.encode_queries([episode.query.image])
    supports = scorer.fit(
        episode.name, [(s.image, s.mask(episode.class_index)) for s in episode.supports]
    )
    logits = scorer.logits(queries, supports)
    scores = (logits[0, 1] - logits[0, 0]).sigmoid()
    if prior == "imagenet":
        maps = decoder.imagenet_priors(queries[0].maps, supports.maps, supports.masks[None])
    else:
        own = maker.maps(queries[0].clip, supports.objects, maker.texts(episode.name))
        maps = own[None, text == "none" :]
    expected = F.interpolate(
        maps.mean(1, keepdim=True), (64, 64), mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(scores, expected[0, 0], atol=1e-5, rtol=1e-4)
