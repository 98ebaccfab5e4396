"""The protocol with the requests of Label Studio, over HTTP, with the built-in model."""

import gzip
import logging
import re
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from fake_label_studio import CONFIG, PROJECT, TOKEN, brush_result, results_of, version_of
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface

from piclip import Support
from piclip.label_studio import tasks

POLYGONS = CONFIG.replace("BrushLabels", "PolygonLabels")


def brushed(result):
    """The mask of a brush region, bool (H, W)."""
    size = result["original_height"], result["original_width"], 4
    return brush.decode_rle(result["value"]["rle"]).reshape(size)[:, :, 3] >= 128


def test_it_says_that_it_is_up(backend):
    for path in ("/", "/health"):
        assert httpx.get(backend + path).json() == {"status": "UP", "model_class": "piclip"}
    assert httpx.get(f"{backend}/versions").json() == {"versions": []}


def test_predictions_are_those_of_the_segmenter_and_fit_the_project(
    backend, label_studio, scenes, segmenter
):
    version = version_of(label_studio.setup(backend))
    predictions = results_of(label_studio.predict(backend, 3, 4))

    supports = [Support(scenes[n].image, scenes[n].mask("cat")) for n in (1, 2)]
    found = (
        segmenter.unfitted().fit(supports, name="cat").predict([scenes[n].image for n in (3, 4)])
    )
    interface = LabelInterface(CONFIG)
    for prediction, expected in zip(predictions, found, strict=True):
        assert interface.validate_prediction(prediction, return_errors=True) == []
        assert prediction["model_version"] == version
        assert len(prediction["result"]) == int(expected.mask_of("cat").any())
        for result in prediction["result"]:
            assert (result["from_name"], result["to_name"]) == ("brush", "photo")
            assert result["value"]["brushlabels"] == ["cat"]
            np.testing.assert_array_equal(brushed(result), expected.mask_of("cat"))
            mean = expected.scores[0][expected.mask_of("cat")].mean()
            assert result["score"] == pytest.approx(mean, abs=1e-4)
    truth = scenes[3].mask("cat")
    proposed = brushed(predictions[0]["result"][0])
    # Twice as good as marking the whole image.
    assert (proposed & truth).sum() / (proposed | truth).sum() > 2 * truth.mean()
    assert version_of(label_studio.setup(backend)) == version
    assert httpx.get(f"{backend}/versions").json() == {"versions": [version]}


def test_only_label_studio_is_asked_and_the_token_is_shown(backend, label_studio):
    results_of(label_studio.predict(backend, 3))
    assert {token for _, token in label_studio.asked} == {f"Token {TOKEN}"}
    images = [path for path, _ in label_studio.asked if path.startswith("/data/upload/")]
    assert sorted(images) == [f"/data/upload/1/0a1b2c3d-scene{n}.png" for n in (1, 2, 3)]


def test_neither_unlabelled_tasks_nor_a_page_after_the_last_is_asked_for(
    backend, label_studio, scenes
):
    def pages():
        asked = [urlsplit(path) for path, _ in label_studio.asked]
        return [parse_qs(url.query)["page"] for url in asked if url.path.startswith("/api/tasks")]

    version_of(label_studio.setup(backend))
    assert pages() == [["1"]]  # two of four tasks, which fill it
    drawn = label_studio.annotate(3, brush_result("cat", scenes[3].mask("cat")))
    label_studio.send_event(backend, "ANNOTATION_CREATED", drawn)
    version_of(label_studio.setup(backend))
    assert pages() == [["1"], ["1"], ["2"]]


def test_interactive_requests_are_answered_too(backend, label_studio):
    click = {"type": "keypointlabels", "value": {"x": 50, "y": 50, "keypointlabels": ["cat"]}}
    context = {"result": [click], "project_credentials_login": None}
    with_context = results_of(label_studio.predict(backend, 3, context=context))
    assert with_context == results_of(label_studio.predict(backend, 3))


def test_polygons_where_the_project_has_no_brush(label_studio, serving, scenes):
    corners = [[10, 20], [60, 20], [60, 70], [10, 70]]
    for number in (1, 2):
        value = {"points": corners, "closed": True, "polygonlabels": ["cat"]}
        drawn = brush_result("cat", scenes[number].mask("cat")) | {"value": value}
        label_studio.annotate(number, drawn | {"type": "polygonlabels"})
    with serving(label_studio) as served:
        [prediction] = results_of(label_studio.predict(served.url, 1, config=POLYGONS))
    assert LabelInterface(POLYGONS).validate_prediction(prediction, return_errors=True) == []
    assert prediction["result"]
    for result in prediction["result"]:
        assert result["value"]["polygonlabels"] == ["cat"]
        points = np.array(result["value"]["points"])
        assert 3 <= len(points) <= 100
        assert ((points >= 0) & (points <= 100)).all()


def test_tasks_that_fail_have_no_prediction_and_the_log_says_why(backend, label_studio, caplog):
    label_studio.add_task(10, "http://169.254.169.254/latest/meta-data/x.png")
    label_studio.add_task(11, "/data/upload/1/not-there.png")
    label_studio.add_task(12, "/data/upload/1/text.png")
    label_studio.files["/data/upload/1/text.png"] = b"no image"
    label_studio.tasks[13] = label_studio.tasks[3] | {"id": 13, "data": {"other": "x"}}
    with caplog.at_level(logging.WARNING):
        predictions = results_of(label_studio.predict(backend, 10, 11, 3, 12, 13))
    assert predictions[2]["result"]
    assert [*predictions[:2], *predictions[3:]] == [[], [], [], []]
    lines = [r.message for r in caplog.records if r.message.startswith("Nothing is proposed")]
    reasons = (
        *("task 10: Images of 169.254.169.254 are not fetched", "task 11: .*404"),
        *("task 12: its image: this is not an image", "task 13: .* no image in its data.picture"),
    )
    assert len(lines) == len(reasons)
    for line, reason in zip(lines, reasons, strict=True):
        assert re.search(reason, line), line


def test_label_studio_that_cannot_be_asked_is_told(backend, label_studio):
    label_studio.status = 403
    for response in (label_studio.setup(backend), label_studio.predict(backend, 3)):
        assert response.status_code == 502
        assert "check --api-key" in response.json()["error"]
    label_studio.status = 200
    known = version_of(label_studio.setup(backend))
    label_studio.status = 403
    label_studio.send_event(backend, "ANNOTATION_UPDATED")
    assert results_of(label_studio.predict(backend, 3)) == [[]]
    label_studio.status = 200
    [prediction] = results_of(label_studio.predict(backend, 3))
    assert prediction["model_version"] == known


@pytest.mark.parametrize(
    ("coding", "title", "why"),
    [
        ("gzip", "x", None),
        ("identity", "x" * 100_000, "larger than"),
        ("gzip", "x" * 100_000, "larger than"),
        ("br", "x", "in gzip once"),
    ],
)
def test_labels_of_too_many_bytes_are_refused(
    label_studio, serving, monkeypatch, coding, title, why
):
    monkeypatch.setattr(tasks, "MOST_PAGE_BYTES", 50_000)
    label_studio.tasks[1]["data"]["title"] = title
    answer = label_studio.answer

    def encoded(path, query, token):
        status, headers, content = answer(path, query, token)
        content = gzip.compress(content) if coding == "gzip" else content
        return status, headers | {"Content-Encoding": coding}, content

    monkeypatch.setattr(label_studio, "answer", encoded)
    with serving(label_studio) as served:
        response = label_studio.setup(served.url)
    if why is None:
        assert version_of(response).startswith("piclip-")
    else:
        assert response.status_code == 502
        assert why in response.json()["error"]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("<View><Image", "cannot be read"),
        ('<View><Text name="t" value="$text"/></View>', "needs an <Image>"),
        (CONFIG.replace("BrushLabels", "RectangleLabels"), "needs an <Image>"),
    ],
)
def test_configurations_without_regions_are_refused(backend, label_studio, config, why):
    for response in (
        label_studio.setup(backend, config),
        label_studio.predict(backend, 3, config=config),
    ):
        assert response.status_code == 400
        assert why in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "why"),
    [
        ("setup", b"{", {}, 400, "no JSON"),
        ("setup", b"[]", {}, 400, "JSON object"),
        ("setup", b"{}", {}, 400, "'schema'"),
        ("predict", b'{"tasks": 3}', {}, 400, "'tasks'"),
        ("predict", b'{"tasks": [3]}', {}, 400, "'tasks'"),
        ("webhook", b'{"action": "ANNOTATION_CREATED"}', {}, 400, "'project'"),
        ("setup", b"{}", {"Content-Type": "text/plain"}, 415, "application/json"),
    ],
)
def test_bad_requests_are_told(backend, path, content, headers, status, why):
    headers = {"Content-Type": "application/json"} | headers
    response = httpx.post(f"{backend}/{path}", content=content, headers=headers)
    assert response.status_code == status
    assert why in response.json()["error"]


def test_large_requests_are_refused(backend, monkeypatch):
    monkeypatch.setattr("piclip.label_studio.protocol.MOST_BYTES", 100)
    response = httpx.post(f"{backend}/setup", json={"project": PROJECT, "schema": "x" * 100})
    assert response.status_code == 413


@pytest.mark.parametrize("coding", ["gzip", "gzip, gzip", "br"])
def test_encoded_requests_are_refused(backend, coding):
    response = httpx.post(
        f"{backend}/setup",
        content=b"{}",
        headers={"Content-Type": "application/json", "Content-Encoding": coding},
    )
    assert response.status_code == 415
    assert "without Content-Encoding" in response.json()["error"]


def test_other_events_and_other_projects_change_nothing(backend, label_studio):
    version_of(label_studio.setup(backend))
    asked = len(label_studio.asked)
    answer = label_studio.send_event(backend, "PROJECT_CREATED")
    assert (answer.status_code, answer.json()) == (200, {"status": "Unknown event"})
    body = {"action": "ANNOTATION_CREATED", "project": {"id": 8}}
    assert httpx.post(f"{backend}/webhook", json=body).status_code == 201
    version_of(label_studio.setup(backend))
    assert len(label_studio.asked) == asked


def test_a_login_is_asked_for(label_studio, serving):
    with serving(label_studio, login=("anna", "se:cret")) as served:
        for wrong in (None, ("anna", "x"), ("x", "se:cret")):
            assert label_studio.setup(served.url, auth=wrong).status_code == 401
            assert httpx.get(f"{served.url}/health", auth=wrong).status_code == 401
        garbled = {"Authorization": "Basic ???"}
        assert httpx.get(f"{served.url}/health", headers=garbled).status_code == 401
        version_of(label_studio.setup(served.url, auth=("anna", "se:cret")))
        assert label_studio.asked
