"""The recipes of COCO-20i at full size, on the few real images that lie beside the checkout."""

import json
import math

import pytest

from piclip.cli import main
from piclip.datasets.prepare.coco_20i import prepare_coco
from piclip.evaluation.records import read_result

STEPS = 2
# Instead of what cannot be had here: ImageNet weights, CLIP for photographs, images of all classes.
CHANGES = (
    *("decoder.backbone_weights=null", "clip.model=builtin", "minimum_images=2"),
    *("episodic.epochs=null", f"episodic.steps={STEPS}", "episodic.batch=2", "workers=0"),
)


@pytest.fixture(scope="module")
def coco(shared, tmp_path_factory):
    images = shared / "data" / "coco-mini"
    annotations = sorted((images / "annotations").glob("instances_*.json"))
    folder = tmp_path_factory.mktemp("coco") / "prepared"
    prepare_coco(folder, images=images, annotations=annotations)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["pfenet", "bam", "hdmnet"])
def test_a_recipe_trains_and_its_result_is_evaluated(coco, tmp_path, decoder):
    recipe = f"recipes/coco/{decoder}_resnet50.yaml"
    base = () if decoder == "pfenet" else ("base.epochs=null", "base.steps=1", "base.batch=2")
    changes = (*CHANGES, *base, f"dataset.root={coco}")
    run, output = tmp_path / "run", tmp_path / "result.json"
    assert main(["train", "-c", recipe, *changes, "--output", str(run)]) == 0
    record = json.loads((run / "decoder" / "training.json").read_text())
    assert record["step"] == STEPS and record["recipe"]["augmentation"]["size"] == 473

    where = ("--dataset", "coco-20i", "--root", str(coco), "--fold", "0", "--minimum-images", "2")
    size = ("--shot", "1", "--seeds", "1", "--episodes", "2", "--output", str(output))
    assert main(["evaluate", str(run), *where, *size]) == 0
    result = read_result(output)
    assert result.complete
    mean, _ = result.miou
    assert math.isfinite(mean)
