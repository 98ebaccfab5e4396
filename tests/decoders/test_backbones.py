import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from piclip.decoders.backbones import Bottleneck, ResNet, build_backbone, resize
from piclip.errors import UsageError


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet50", "backbone_resnet50_97"),
        ("vgg16bn", "backbone_vgg16bn_97"),
        ("vgg16bn", "backbone_vgg16bn_105"),
    ],
)
def test_matches_the_published_backbone(golden, reference, name, file):
    ours = build_backbone(name).eval()
    published = golden.weights(f"backbone_{name}")
    ours.load_state_dict({k.replace("layer", "stages.", 1): v for k, v in published.items()})
    expected = reference(file)
    with torch.no_grad():
        maps = ours(expected.tensor("in_x"))
    for stage, values in enumerate(maps):
        expected.check(f"layer{stage}", values)
    assert not expected.rest()


@pytest.mark.parametrize(("stride", "side"), [(4, 17), (8, 9), (16, 5), (32, 3)])
def test_output_stride_is_reached_by_stride_and_kept_by_dilation(stride, side):
    backbone = ResNet(blocks=(1, 1, 1, 1), width=2, output_stride=stride).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 65, 49))
    assert maps[4].shape == (1, 64, side, (48 // stride) + 1)
    assert backbone.channels == tuple(values.shape[1] for values in maps[2:])
    dilations = [
        block.conv2.dilation[0]
        for stage in backbone.stages[2:]
        for block in stage.modules()
        if isinstance(block, Bottleneck)
    ]
    assert dilations == {4: [2, 4, 8], 8: [1, 2, 4], 16: [1, 1, 2], 32: [1, 1, 1]}[stride]


def test_weights_do_not_depend_on_the_output_stride():
    fine = ResNet(blocks=(1, 2, 1, 1), width=2, output_stride=4)
    coarse = ResNet(blocks=(1, 2, 1, 1), width=2, output_stride=32)
    coarse.load_state_dict(fine.state_dict())
    assert coarse.state_dict().keys() == fine.state_dict().keys()


def test_depths_of_the_named_resnets():
    with torch.device("meta"):
        depths = {
            name: sum(isinstance(m, Bottleneck) for m in build_backbone(name).modules())
            for name in ("resnet50", "resnet101", "resnet50-plain", "resnet101-plain", "tiny")
        }
    assert depths == {
        "resnet50": 16,
        "resnet101": 33,
        "resnet50-plain": 16,
        "resnet101-plain": 33,
        "tiny": 4,
    }


def test_what_is_read_are_the_stages_with_stage_2_at_the_size_of_stage_3():
    backbone = build_backbone("vgg16bn").eval()
    images = torch.randn(1, 3, 40, 33)
    with torch.no_grad():
        maps = backbone(images)
        low, middle, high = backbone.read(images)
        masked = backbone.read(images, masks := torch.rand(1, 1, 40, 33))[2]
        unread = backbone.read(images, high=False)[2]
    assert maps[2].shape[-2:] != maps[3].shape[-2:]
    torch.testing.assert_close(low, resize(maps[2], maps[3].shape[-2:]))
    torch.testing.assert_close(middle, maps[3])
    torch.testing.assert_close(high, maps[4])
    seen = maps[3] * resize(masks, maps[3].shape[-2:])
    torch.testing.assert_close(masked, backbone.stages[4](seen))
    assert len(unread) == 0


def test_resize_interpolates_linearly_between_aligned_corners():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((4, 3))
    rows, columns = np.linspace(0, 3, 7), np.linspace(0, 2, 6)
    across = np.stack([np.interp(columns, np.arange(3), row) for row in maps])
    expected = np.stack([np.interp(rows, np.arange(4), column) for column in across.T], axis=1)
    actual = resize(torch.from_numpy(maps)[None, None], (7, 6))
    np.testing.assert_allclose(actual[0, 0].numpy(), expected, atol=1e-12)
    assert resize(torch.zeros(2, 0, 4, 3), (7, 6)).shape == (2, 0, 7, 6)


def test_a_block_adds_its_input():
    block = Bottleneck(8, 2).eval()
    assert isinstance(block.downsample, nn.Identity)
    nn.init.zeros_(block.conv3.weight)
    maps = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(block(maps), F.relu(maps))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "choose one of resnet50, resnet101"),
        ("vgg16bn", {"width": 8}, "VGG none"),
        ("tiny", {"depth": 3}, "blocks, width, output_stride and deep_stem"),
        ("tiny", {"blocks": [1, 1]}, "four positive numbers"),
        ("tiny", {"output_stride": 6}, "4, 8, 16 or 32"),
    ],
)
def test_impossible_backbones_say_what_is_possible(name, options, message):
    with pytest.raises(UsageError, match=message):
        build_backbone(name, **options)
