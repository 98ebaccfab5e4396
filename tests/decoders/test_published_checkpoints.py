"""State dicts with exactly the published names and shapes load strictly, and are written again."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from piclip.clip.weight_files import read_state_dict
from piclip.decoders.backbones import build_backbone
from piclip.decoders.bam import BAM
from piclip.decoders.pfenet import PFENet
from piclip.decoders.pspnet import PSPNet
from piclip.decoders.published import (
    SEMSEG_RESNET,
    TORCHVISION_RESNET,
    TORCHVISION_VGG,
    KeyMap,
    export_published,
    key_map_of,
    load_published,
)
from piclip.errors import ModelError

BLOCKS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3)}


def batch_norm(name, channels):
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def resnet_names(depth, stem):
    """Names and shapes of an ImageNet ResNet: ``stem`` is (inputs, outputs, kernel) per layer."""
    for index, (inputs, outputs, kernel) in enumerate(stem, 1):
        yield f"conv{index}.weight", (outputs, inputs, kernel, kernel)
        yield from batch_norm(f"bn{index}", outputs)
    inputs = stem[-1][1]
    for stage, count in enumerate(BLOCKS[depth], 1):
        width = 32 * 2**stage
        for block in range(count):
            at = f"layer{stage}.{block}"
            shapes = ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for index, shape in enumerate(shapes, 1):
                yield f"{at}.conv{index}.weight", shape
                yield from batch_norm(f"{at}.bn{index}", shape[0])
            if block == 0:
                yield f"{at}.downsample.0.weight", (4 * width, inputs, 1, 1)
                yield from batch_norm(f"{at}.downsample.1", 4 * width)
            inputs = 4 * width
    yield "fc.weight", (1000, 2048)
    yield "fc.bias", (1000,)


def vgg16_names():
    layer, inputs = 0, 3
    for outputs in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", *(512, 512, 512, "M") * 2):
        if outputs == "M":
            layer += 1
            continue
        yield f"features.{layer}.weight", (outputs, inputs, 3, 3)
        yield f"features.{layer}.bias", (outputs,)
        yield from batch_norm(f"features.{layer + 1}", outputs)
        layer, inputs = layer + 3, outputs
    for index, shape in ((0, (4096, 25088)), (3, (4096, 4096)), (6, (1000, 4096))):
        yield f"classifier.{index}.weight", shape
        yield f"classifier.{index}.bias", shape[:1]


def tell_apart(names):
    """A state dict whose tensors take no memory, each with a value of its own."""
    return {
        name: torch.tensor(float(value)).expand(tuple(shape))
        for value, (name, shape) in enumerate(names, 1)
    }


def shapes_of(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def values_of(tensors):
    return {name: float(tensor.flatten()[0]) for name, tensor in tensors.items()}


DEEP_STEM = ((3, 64, 3), (64, 64, 3), (64, 128, 3))
PLAIN_STEM = ((3, 64, 7),)


@pytest.mark.parametrize(
    ("backbone", "key_map", "names", "left_out", "placed"),
    [
        (
            f"resnet{depth}{suffix}",
            key_map,
            tuple(resnet_names(depth, stem)),
            ("fc.",),
            {f"conv{n}.weight": f"stages.0.{3 * n - 3}.weight" for n in range(1, len(stem) + 1)}
            | {"bn1.running_var": "stages.0.1.running_var"}
            | {"layer3.5.bn2.bias": "stages.3.5.bn2.bias"},
        )
        for depth in BLOCKS
        for suffix, key_map, stem in (
            ("", SEMSEG_RESNET, DEEP_STEM),
            ("-plain", TORCHVISION_RESNET, PLAIN_STEM),
        )
    ]
    + [
        (
            "vgg16bn",
            TORCHVISION_VGG,
            tuple(vgg16_names()),
            ("classifier.",),
            {
                "features.3.weight": "stages.0.3.weight",
                "features.7.weight": "stages.1.0.weight",
                "features.41.running_mean": "stages.4.7.running_mean",
            },
        )
    ],
    ids=["semseg-50", "torchvision-50", "semseg-101", "torchvision-101", "vgg16bn"],
)
def test_imagenet_weights_load_and_are_written_again(backbone, key_map, names, left_out, placed):
    published = tell_apart(names)
    kept = {k: v for k, v in published.items() if not k.startswith(left_out)}
    with torch.device("meta"):
        network = build_backbone(backbone)
    load_published(network, published)
    assert shapes_of(export_published(network)) == shapes_of(kept)
    own = key_map.to_own(published)
    assert values_of(key_map.to_published(own)) == values_of(kept)
    for theirs, ours in placed.items():
        assert own[ours] is published[theirs]


def test_imagenet_weights_of_old_files_have_no_batch_counters():
    backbone = build_backbone("tiny", width=2)
    published = export_published(build_backbone("tiny", width=2))
    load_published(backbone, {k: v for k, v in published.items() if "num_batches_tracked" not in k})
    assert torch.equal(backbone.state_dict()["stages.0.3.weight"], published["conv2.weight"])


def published_networks():
    classes = {"pascal": 15, "coco": 60}
    for ours, theirs in (("resnet50", "resnet50"), ("vgg16bn", "vgg16")):
        for shots in (1, 5):
            yield f"PFENet/{theirs}/shot{shots}", PFENet, {"backbone": ours}
        for data, count in classes.items():
            learner = {"backbone": ours, "classes": count}
            yield f"PSPNet_base_learner/{data}/{theirs}", PSPNet, learner
            for shots in (1, 5):
                options = {"backbone": ours, "base_classes": count, "published_shots": shots}
                yield f"BAM_OneModel/{data}/{theirs}/shot{shots}", BAM, options


@pytest.fixture(scope="module")
def listed(shared):
    return json.loads((shared / "golden" / "upstream_state_dict_shapes.json").read_text())


@pytest.mark.parametrize(("key", "kind", "options"), list(published_networks()))
def test_published_networks_load_and_are_written_again(listed, key, kind, options):
    published = tell_apart((name, shape) for name, shape, _ in listed[key])
    for name in published:
        if name.startswith("encoder."):
            published[name] = published[name.replace("encoder.", "layer", 1)]
    with torch.device("meta"):
        network = kind(**options)
    load_published(network, {f"module.{name}": tensor for name, tensor in published.items()})
    assert shapes_of(export_published(network)) == shapes_of(published)
    key_map = key_map_of(network)
    assert values_of(key_map.to_published(key_map.to_own(published))) == values_of(published)


def test_the_variant_without_hidden_layer_loads(shared):
    file = shared / "golden" / "decoders" / "bam_resnet50_5shot_ktd0.json"
    tensors = json.loads(file.read_text())["tensors"]
    published = tell_apart((name, entry["shape"]) for name, entry in tensors.items())
    with torch.device("meta"):
        network = BAM(published_shots=5, published_hidden=0)
    load_published(network, published)
    assert shapes_of(export_published(network)) == shapes_of(published)


SMALL = {"backbone": "tiny", "backbone_options": {"width": 2}, "width": 4}


@pytest.mark.parametrize("wrapped", [False, True])
def test_checkpoint_files_are_read(tmp_path, wrapped):
    source, target = PFENet(**SMALL), PFENet(**SMALL)
    tensors = {f"module.{k}": v for k, v in export_published(source).items()}
    content = {"epoch": 3, "state_dict": tensors, "optimizer": {}} if wrapped else tensors
    torch.save(content, tmp_path / "best.pth")
    load_published(target, tmp_path / "best.pth")
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


class Malicious:
    def __reduce__(self):
        return print, ("this must not run",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Malicious()}))
    torch.save({"state_dict": Malicious()}, tmp_path / "evil.pt")
    for name in ("evil.pth", "evil.pt", "absent.pth", "absent.safetensors"):
        with pytest.raises(ModelError, match="cannot be read as a checkpoint"):
            read_state_dict(tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(ModelError, match="holds no state dict"):
        read_state_dict(tmp_path / "epoch.pth")
    assert "must not run" not in capsys.readouterr().out


def test_checkpoints_of_another_kind_are_refused():
    bam = BAM(**SMALL, base_classes=2, base_width=4, published_shots=1)
    with pytest.raises(ModelError, match="belongs to no layer"):
        load_published(PFENet(**SMALL), export_published(bam))
    five = BAM(**SMALL, base_classes=2, base_width=4, published_shots=5)
    with pytest.raises(ModelError, match=r"4 tensors are missing \(shot_weights"):
        load_published(five, export_published(bam))
    with pytest.raises(ModelError, match="published_shots"):
        export_published(BAM(**SMALL, base_classes=2, base_width=4))


def test_the_longest_beginning_counts_and_ends_at_a_dot():
    key_map = KeyMap(pairs=(("a", "x"), ("a.b", "y"), ("ab", "z")), dropped=("fc",))
    one = torch.ones(())
    own = key_map.to_own({"a.c.w": one, "a.b.w": one, "ab.w": one, "fc.w": one})
    assert set(own) == {"x.c.w", "y.w", "z.w"}
    assert set(key_map.to_published(own)) == {"a.c.w", "a.b.w", "ab.w"}
