"""A scorer's models together: loading, saving, moving, telling one from another."""

import json

import numpy as np
import pytest

from piclip import FewShotSegmenter
from piclip.errors import ModelError, UsageError
from piclip.training_free.scorer import TrainingFreeScorer
from squares import picture, support

KINDS = ["clip", "published", "vit", "both"]


@pytest.fixture(params=KINDS)
def chosen(request, model, vit_folder):
    """What a segmenter of each kind is loaded from."""
    return {
        "clip": {"name_or_folder": model},
        "published": {"name_or_folder": model, "evidence": "published"},
        "vit": {"name_or_folder": vit_folder},
        "both": {"name_or_folder": model, "visual": vit_folder},
    }[request.param]


def fitted(chosen):
    segmenter = FewShotSegmenter.from_pretrained(**chosen, device="cpu")
    return segmenter.fit({"red": support(), "dot": [support(side=8), support((30, 30), side=8)]})


def test_saved_and_loaded_it_answers_the_same(chosen, tmp_path):
    model = fitted(chosen)
    folder = model.save(tmp_path / "saved")
    loaded = FewShotSegmenter.load(folder, device="cpu")
    assert loaded.classes == model.classes == ("red", "dot")
    assert loaded.scorer.identity() == model.scorer.identity()
    assert loaded.scorer.fingerprint() == model.scorer.fingerprint()
    assert [memory.shots for memory in loaded._memories.values()] == [1, 2]
    image, _ = picture((20, 36), seed=5)
    one, other = (m.predict(image)[0] for m in (model, loaded))
    np.testing.assert_array_equal(one.scores, other.scores)
    assert (one.presence is None) == (chosen.get("evidence") == "published")
    if one.presence is not None:
        np.testing.assert_array_equal(one.presence, other.presence)


def test_it_moves_with_what_it_learned(chosen):
    model = fitted(chosen)
    assert model.to("meta") is model and model.device.type == "meta"
    for memory in model._memories.values():
        assert {t.device.type for t in model.scorer.tensors(memory).values()} == {"meta"}


def test_what_one_evidence_has_learned_is_nothing_to_another(model, vit_folder, tmp_path):
    folder = fitted({"name_or_folder": model}).save(tmp_path / "saved")
    index = json.loads((folder / "segmenter.json").read_text())
    (folder / "segmenter.json").write_text(json.dumps(index | {"evidence": "published"}))
    changed = FewShotSegmenter.load(folder, device="cpu")
    assert changed.scorer.identity()["evidence"] == "published"
    (folder / "segmenter.json").write_text(json.dumps(index | {"visual": str(vit_folder)}))
    with pytest.raises(ModelError, match="for another model; fit it again"):  # other tokens
        FewShotSegmenter.load(folder, device="cpu")
    fingerprints = {
        TrainingFreeScorer.load(**kind, device="cpu").fingerprint()
        for kind in (
            {"name_or_folder": model},
            {"name_or_folder": model, "evidence": "published"},
            {"name_or_folder": model, "visual": vit_folder},
            {"name_or_folder": vit_folder},
        )
    }
    assert len(fingerprints) == 4


def test_a_tower_without_texts_reads_no_names(model, vit_folder):
    with pytest.raises(UsageError, match="reads no names; give a CLIP beside visual"):
        FewShotSegmenter.from_pretrained(vit_folder, visual=vit_folder, device="cpu")
    with pytest.raises(UsageError, match="reads no names; give a CLIP"):
        _ = FewShotSegmenter.from_pretrained(vit_folder, device="cpu").encoder
    with pytest.raises(ModelError):
        FewShotSegmenter.from_pretrained(model, visual=vit_folder.parent / "no", device="cpu")
