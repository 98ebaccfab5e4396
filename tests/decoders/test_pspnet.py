import pytest
import torch
from torch.nn import functional as F

from piclip.decoders.pspnet import PSPNet
from piclip.decoders.published import load_published
from piclip.errors import ModelError


@pytest.mark.parametrize(
    ("backbone", "file"),
    [
        ("resnet50", "pspnet_resnet50_97"),
        ("vgg16bn", "pspnet_vgg16bn_97"),
        ("vgg16bn", "pspnet_vgg16bn_105"),
    ],
)
def test_matches_the_published_base_learner(golden, reference, recorder, backbone, file):
    network = PSPNet(backbone=backbone, classes=15).eval()
    load_published(network, golden.weights(f"pspnet_{backbone}"))
    recorder.watch(network)
    expected = reference(file)
    with torch.no_grad():
        logits = network(expected.tensor("in_x"))
    expected.check("feat4", recorder.inputs["head"])
    for branch in range(4):
        expected.check(f"ppm_branch_{branch}", recorder.outputs[f"head.pooling.branches.{branch}"])
    expected.check("ppm_out", recorder.outputs["head.pooling"])
    expected.check("cls_bn", recorder.outputs["head.fuse.1"])
    expected.check("logits_low", recorder.outputs["head"], atol=1e-5)
    expected.check("logits", logits, atol=1e-5)
    expected.check("pred", logits.argmax(1))
    expected.check("main_loss", network.loss(logits, expected.tensor("in_y").long()))
    assert not expected.rest()


def tiny() -> PSPNet:
    return PSPNet(backbone="tiny", classes=3, backbone_options={"width": 4}, width=8)


def test_trains_backbone_and_head():
    network = tiny()
    logits = network(torch.randn(2, 3, 33, 41))
    assert logits.shape == (2, 4, 33, 41)
    target = torch.randint(0, 4, (2, 33, 41))
    network.loss(logits, target).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_loss_leaves_out_ignored_pixels():
    logits = torch.randn(2, 4, 5, 6)
    target = torch.randint(0, 4, (2, 5, 6))
    target[:, :2] = 255
    per_pixel = -F.log_softmax(logits, 1).gather(1, target.clamp(max=3)[:, None])[:, 0]
    torch.testing.assert_close(tiny().loss(logits, target), per_pixel[target != 255].mean())
    assert tiny().loss(logits, torch.full_like(target, 255)) == 0


def test_saves_and_loads(tmp_path):
    network = tiny().eval()
    network.save_pretrained(tmp_path)
    loaded = PSPNet.from_pretrained(tmp_path)
    images = torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), network(images))
    with pytest.raises(ModelError, match="do not fit this pspnet"):
        PSPNet.from_pretrained(tmp_path, classes=5)
