"""What the ML backend learns from a project's labels, and when it learns anew."""

import logging
import sys
import threading
from pathlib import Path

import pytest
from fake_label_studio import brush_result, results_of, version_of

from piclip import FewShotSegmenter, Support
from piclip.annotation.sinks import certainty_of
from piclip.clip.cache import MemoryCache
from piclip.clip.encoder import Encoder
from piclip.label_studio.projects import UNLEARNED
from piclip.label_studio.protocol import LEARNING

sys.path.append(str(Path(__file__).resolve().parents[1] / "decoders"))
from decoder_runs import load, saved


def test_a_new_annotation_is_learned_and_known_images_are_not_encoded_again(
    backend, label_studio, scenes, segmenter, monkeypatch
):
    monkeypatch.setattr(segmenter.scorer.vision, "cache", MemoryCache())
    version_of(label_studio.setup(backend))
    counts = {"encode": 0, "tokens": 0}
    for method in counts:
        original = getattr(Encoder, method)

        def count(self, *given, method=method, original=original):
            counts[method] += 1
            return original(self, *given)

        monkeypatch.setattr(Encoder, method, count)

    drawn = label_studio.annotate(3, brush_result("cat", scenes[3].mask("cat")))
    label_studio.send_event(backend, "ANNOTATION_CREATED", drawn)
    version_of(label_studio.setup(backend))
    # The new image, whole and its object closely; the other two are recalled.
    assert counts == {"encode": 1, "tokens": 1}


def test_a_new_annotation_is_learned_and_other_classes_are_not_fitted_again(
    backend, label_studio, scenes, monkeypatch
):
    first = version_of(label_studio.setup(backend))
    fit, fitted = FewShotSegmenter.fit, []

    def record(self, supports, **options):
        fitted.append({name: len(examples) for name, examples in supports.items()})
        return fit(self, supports, **options)

    monkeypatch.setattr(FewShotSegmenter, "fit", record)

    drawn = label_studio.annotate(3, brush_result("cat", scenes[3].mask("cat")))
    answer = label_studio.send_event(backend, "ANNOTATION_CREATED", drawn)
    assert (answer.status_code, answer.json()) == (201, {"status": "ok"})
    second = version_of(label_studio.setup(backend))
    assert second != first
    assert fitted == [{"cat": 3}]

    drawn = label_studio.annotate(4, brush_result("star", scenes[4].mask("star")))
    label_studio.send_event(backend, "ANNOTATION_CREATED", drawn)
    assert version_of(label_studio.setup(backend)) not in {first, second}
    assert fitted[1:] == [{"star": 1}]
    label_studio.tasks[4]["annotations"] = []
    label_studio.send_event(backend, "ANNOTATIONS_DELETED")
    assert version_of(label_studio.setup(backend)) == second

    drawn = label_studio.annotate(3, brush_result("star", scenes[3].mask("cat")))
    label_studio.send_event(backend, "ANNOTATION_UPDATED", drawn)
    third = version_of(label_studio.setup(backend))
    label_studio.annotate(3, brush_result("cat", scenes[3].mask("cat")))
    label_studio.send_event(backend, "ANNOTATIONS_DELETED")
    assert third not in {first, second}
    assert version_of(label_studio.setup(backend)) == second


@pytest.mark.parametrize(
    "action",
    [
        *("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED"),
        *("TASKS_CREATED", "TASKS_DELETED"),  # tasks are imported with their annotations
    ],
)
def test_every_event_by_which_labels_change_is_heard(backend, label_studio, scenes, action):
    first = version_of(label_studio.setup(backend))
    label_studio.annotate(3, brush_result("cat", scenes[3].mask("cat")))
    label_studio.send_event(backend, action)
    assert version_of(label_studio.setup(backend)) != first


def test_a_task_whose_image_is_replaced_is_learned_anew(backend, label_studio, scenes):
    first = version_of(label_studio.setup(backend))
    address = "/data/upload/1/other.png"
    label_studio.files[address] = label_studio.files[label_studio.tasks[3]["data"]["picture"]]
    label_studio.tasks[2]["data"] = {"picture": address}
    label_studio.annotate(2, brush_result("cat", scenes[3].mask("cat")))
    label_studio.send_event(backend, "ANNOTATION_UPDATED")
    assert version_of(label_studio.setup(backend)) != first
    assert label_studio.asked[-1][0] == address


def test_the_version_is_the_same_after_a_restart(label_studio, serving):
    versions = set()
    for _ in range(2):
        with serving(label_studio) as served:
            versions.add(version_of(label_studio.setup(served.url)))
    assert len(versions) == 1


def test_setup_reads_the_labels_again_when_that_was_long_ago(label_studio, serving, scenes):
    with serving(label_studio, recheck_seconds=0.0) as served:
        first = version_of(label_studio.setup(served.url))
        assert version_of(label_studio.setup(served.url)) == first
        label_studio.annotate(3, brush_result("cat", scenes[3].mask("cat")))
        assert version_of(label_studio.setup(served.url)) != first
    with serving(label_studio) as served:
        first = version_of(label_studio.setup(served.url))
        label_studio.tasks[3]["annotations"] = []
        assert version_of(label_studio.setup(served.url)) == first


def test_setup_does_not_wait_for_long_learning(label_studio, serving, monkeypatch):
    go_on = threading.Event()
    with serving(label_studio, setup_seconds=0.05) as served:
        answer = label_studio.answer
        monkeypatch.setattr(
            label_studio, "answer", lambda *asked: go_on.wait(10) and answer(*asked)
        )
        assert version_of(label_studio.setup(served.url)) == LEARNING
        go_on.set()
        [prediction] = results_of(label_studio.predict(served.url, 3))
        assert prediction["model_version"] not in {LEARNING, UNLEARNED}
        assert version_of(label_studio.setup(served.url)) == prediction["model_version"]


def test_without_labels_label_studio_has_no_predictions_to_keep(backend, label_studio, scenes):
    for task in label_studio.tasks.values():
        task["annotations"] = []
    assert version_of(label_studio.setup(backend)) == UNLEARNED
    label_studio.retrieve(backend, 3, 4)
    label_studio.annotate(1, brush_result("cat", scenes[1].mask("cat")))
    label_studio.send_event(backend, "ANNOTATION_CREATED")
    label_studio.retrieve(backend, 3, 4)
    version = version_of(label_studio.setup(backend))
    kept = [label_studio.tasks[number]["predictions"] for number in (3, 4)]
    assert [[one["model_version"] for one in each] for each in kept] == [[version], [version]]


def test_a_damaged_label_is_left_out_and_the_log_says_why(backend, label_studio, scenes, caplog):
    damaged = brush_result("cat", scenes[3].mask("cat"))
    damaged["value"]["rle"] = [1, 2, 3]
    label_studio.annotate(3, damaged)
    label_studio.add_task(5, "/data/upload/1/gone.png", brush_result("cat", scenes[3].mask("cat")))
    small = brush_result("cat", scenes[3].mask("cat")[:64])
    address = label_studio.tasks[4]["data"]["picture"]
    label_studio.add_task(6, address, small)
    label_studio.files["/data/upload/1/half.png"] = label_studio.files[address][:2000]
    label_studio.add_task(7, "/data/upload/1/half.png", brush_result("cat", scenes[3].mask("cat")))
    with caplog.at_level(logging.INFO):
        version_of(label_studio.setup(backend))
    text = "\n".join(record.message for record in caplog.records)
    assert "Not learned from: task 3" in text
    assert "Not learned from task 5: /data/upload/1/gone.png" in text
    assert "Not learned from task 6: its image has another size" in text
    assert "Not learned from task 7: its image: the image is truncated" in text
    assert "learned from 2 of cat" in text


def test_regions_of_other_images_and_unknown_classes_do_not_count(backend, label_studio, scenes):
    first = version_of(label_studio.setup(backend))
    mask = scenes[3].mask("cat")
    other = brush_result("cat", mask, to_name="second")
    unknown = brush_result("horse", mask)
    label_studio.annotate(3, other, unknown, {"type": "relation", "from_id": "a", "to_id": "b"})
    label_studio.send_event(backend, "ANNOTATION_CREATED")
    assert version_of(label_studio.setup(backend)) == first


def test_a_trained_decoder_proposes_what_its_segmenter_finds(
    label_studio, serving, scenes, tmp_path
):
    decoder = load(saved(tmp_path / "run"))
    with serving(label_studio, segmenter=decoder) as served:
        version = version_of(label_studio.setup(served.url))
        [prediction] = results_of(label_studio.predict(served.url, 3))
    with serving(label_studio) as served:
        assert version_of(label_studio.setup(served.url)) != version
    supports = [Support(scenes[n].image, scenes[n].mask("cat")) for n in (1, 2)]
    [found] = decoder.unfitted().fit(supports, name="cat").predict([scenes[3].image])
    assert prediction["model_version"] == version
    expected = certainty_of(found)
    assert prediction["score"] == pytest.approx(expected, abs=1e-4)
    assert bool(prediction["result"]) == bool(found.mask.any())
