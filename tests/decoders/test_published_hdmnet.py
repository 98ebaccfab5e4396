import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from piclip.decoders.hdmnet import HDMNet
from piclip.decoders.published import (
    HDMNET,
    export_published,
    load_published,
    published_options,
    read_published,
)
from piclip.errors import ModelError


@pytest.fixture(scope="module")
def listed(shared: Path):
    content = json.loads((shared / "golden/upstream_state_dict_shapes.json").read_text())

    def state(name: str) -> dict[str, Tensor]:
        return {
            key: torch.zeros((), dtype=torch.long) if not shape else torch.empty(shape)
            for key, shape, _ in content[name]
        }

    return state


PRIORS = {"HDMNet_OneModel": "imagenet", "PI_CLIP_OneModel": "piclip"}
BACKBONES = {"resnet50": "resnet50", "vgg16": "vgg16bn"}
CLASSES = {"pascal": 15, "coco": 60}


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("dataset", CLASSES)
@pytest.mark.parametrize("model", PRIORS)
def test_names_and_shapes_are_the_published_ones_both_ways(
    listed, model: str, dataset: str, backbone: str, shots: int
) -> None:
    published = listed(f"{model}/{dataset}/{backbone}/shot{shots}")
    options = {
        "backbone": BACKBONES[backbone],
        "prior": PRIORS[model],
        "base_classes": CLASSES[dataset],
        "published_shots": shots,
    }
    assert published_options(published) == options
    with torch.device("meta"):  # shapes are compared; the values of one network are, below
        network = HDMNet(**options)
    own = HDMNET.to_own(published)
    assert {name: t.shape for name, t in own.items()} == shapes(network.state_dict())
    assert shapes(export_published(network)) == shapes(published)


def shapes(weights) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


@pytest.fixture(scope="module")
def published(listed) -> dict[str, Tensor]:
    weights = listed("PI_CLIP_OneModel/pascal/vgg16/shot5")
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor.uniform_(generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def test_a_checkpoint_file_is_read_strictly_and_written_back(published, tmp_path: Path) -> None:
    clip = {
        "clip_model.visual.positional_embedding_new": torch.zeros(901, 4),
        "clip_model.logit_scale": torch.zeros(()),
    }
    state = {f"module.{name}": tensor for name, tensor in {**published, **clip}.items()}
    path = tmp_path / "best.pth"
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, path)
    network = read_published(path)
    assert not network.training
    written = export_published(network)
    assert written.keys() == published.keys()
    assert all(torch.equal(written[name], published[name]) for name in published)


def test_a_network_built_with_its_options_takes_the_same_weights(published) -> None:
    one = read_published(published).state_dict()
    two = HDMNet(**published_options(published))
    load_published(two, published)
    assert all(torch.equal(two.state_dict()[name], one[name]) for name in one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("gram_merge.weight"), "1 tensors are missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "'extra' belongs to no layer"),
        (lambda state: state.update({"cls_merge.weight": torch.zeros(3)}), "another shape"),
        (lambda state: state.pop("query_merge.0.weight"), "not of a published HDMNet"),
        (
            lambda state: state.update({"query_merge.0.weight": torch.zeros(64, 520, 1, 1)}),
            "8 prior channels for 5 shots",
        ),
    ],
)
def test_a_changed_checkpoint_is_refused(published, change, message: str) -> None:
    state = dict(published)
    change(state)
    with pytest.raises(ModelError, match=message):
        read_published(state)


def test_our_own_form_is_not_exported() -> None:
    with torch.device("meta"):
        network = HDMNet(backbone="tiny", prior="piclip")
    with pytest.raises(ModelError, match="published_shots"):
        export_published(network)
