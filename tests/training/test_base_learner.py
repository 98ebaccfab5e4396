"""The base learner: its images, its labels, and that it learns."""

import pytest
import torch

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView, base_class_map
from piclip.decoders.pspnet import PSPNet
from piclip.training.base_learner import BaseImages, BaseObjective, base_phase
from piclip.training.train import train_base_learner


def base_view(recipe, images=36):
    dataset = open_dataset("scenes", train_images=images, val_images=4, size=32)
    return FewShotView(dataset, fold=0, split="train", classes="base", minimum_pixels=4)


def network():
    torch.manual_seed(0)
    return PSPNet(backbone="tiny", classes=15, backbone_options={"width": 2}, width=6)


def test_an_epoch_shows_every_image_once_and_numbers_are_independent(recipe):
    still = {"size": 32, "scale": [1, 1], "rotation": 0, "blur": 0, "flip": 0}
    view = base_view(recipe)
    images = BaseImages(view, recipe(augmentation=still))
    count = len(view.keys)
    epochs = [[images[i] for i in range(e * count, (e + 1) * count)] for e in (0, 1)]
    samples = [view.dataset.sample(key) for key in view.keys]
    expected = {base_class_map(view, sample.class_map).tobytes() for sample in samples}
    for epoch in epochs:
        assert {labels.numpy().tobytes() for _, labels in epoch} == expected
    orders = [[labels.numpy().tobytes() for _, labels in epoch] for epoch in epochs]
    assert orders[0] != orders[1]
    alone = BaseImages(view, recipe(augmentation=still))[count + 3]
    assert torch.equal(alone[0], epochs[1][3][0]) and torch.equal(alone[1], epochs[1][3][1])


def test_labels_know_no_novel_class(recipe):
    images = BaseImages(base_view(recipe), recipe())
    values = {int(v) for i in range(20) for v in images[i][1].unique()}
    assert values <= {*range(16), 255} and len(values) > 5


def test_backbone_and_head_learn_at_their_own_rates_and_a_frozen_backbone_stays(recipe):
    asked = recipe()
    learner = network()
    phase = base_phase(learner, base_view(recipe), asked, asked.base)
    assert [group.get("factor", 1) for group in phase.groups] == [10, 1]
    assert phase.steps == 3

    frozen = asked.base.model_copy(update={"train_backbone": False})
    phase = base_phase(learner, base_view(recipe), asked, frozen)
    assert len(phase.groups) == 1
    phase.network.train()
    assert learner.head.training and not any(m.training for m in learner.backbone.modules())
    before = {k: v.clone() for k, v in learner.backbone.state_dict().items()}
    inputs = phase.inputs(phase.collate([phase.dataset[0], phase.dataset[1]]), torch.device("cpu"))
    phase.objective(**inputs)["loss"].backward()
    assert all(p.grad is None for p in learner.backbone.parameters())
    assert all(torch.equal(v, before[k]) for k, v in learner.backbone.state_dict().items())


def test_the_loss_is_cross_entropy_of_the_pixels_that_count():
    learner = network().eval()
    images, target = torch.rand(2, 3, 33, 33), torch.randint(0, 16, (2, 33, 33)).byte()
    target[0, :20] = 255
    ours = BaseObjective(learner)(images, target)["loss"]
    from piclip.decoders.views import normalise

    logs = learner(normalise(images)).log_softmax(1)
    rows = [-logs[b, target[b, y, x].long(), y, x] for b, y, x in (target != 255).nonzero()]
    torch.testing.assert_close(ours, torch.stack(rows).mean())


@pytest.mark.slow
def test_it_learns(recipe, tmp_path):
    asked = recipe(
        base={
            "steps": 40,
            "batch": 4,
            "options": {"width": 6, "dropout": 0},
            "head_factor": 1,
            "optimizer": {"lr": 0.01},
        }
    )
    losses = []
    folder = train_base_learner(asked, tmp_path, lambda p: losses.append(p.losses["loss"]))
    assert len(losses) == 40
    assert sum(losses[-10:]) < 0.8 * sum(losses[:5]) * 2
    again = []
    assert train_base_learner(asked, tmp_path, again.append) == folder and not again
    assert PSPNet.from_pretrained(folder).head.classifier.out_channels == 16
