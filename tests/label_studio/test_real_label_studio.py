"""The backend and the how-to with a real Label Studio; make test-label-studio installs one."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import yaml
from backend_process import free_port, started
from fake_label_studio import CONFIG, brush_result, png
from howto_page import PAGE, PORT, blocks_of, check_quality, commands_of, masks_of, overlap
from label_studio_sdk import LabelStudio
from label_studio_sdk.converter import brush
from label_studio_sdk.core.api_error import ApiError
from real_label_studio import PROGRAM, answers, running, signed_in, wait_for

from piclip import Support
from piclip.cli import main
from piclip.datasets.scenes import make_scene
from piclip.errors import PiclipError
from piclip.label_studio.projects import UNLEARNED
from piclip.label_studio.protocol import LEARNING
from piclip.label_studio.tasks import LabelStudioApi

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PROGRAM.is_file(), reason="make test-label-studio installs Label Studio; it is not here"
    ),
]

OPEN = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}
BANNED = "URL resolves to a reserved network address (block: 127.0.0.0/8)"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of data with a user, where Label Studio is, and the token of the user."""
    folder, port = tmp_path_factory.mktemp("label-studio"), free_port()
    with running(folder, port) as url, signed_in(url) as browser:
        enabled = browser.get("/api/jwt/settings").json()
        assert enabled == {"api_tokens_enabled": True, "legacy_api_tokens_enabled": False}
        token = browser.post("/api/token/").json()["token"]
        assert browser.post("/api/token/").status_code == 409  # one at a time
        legacy = browser.get("/api/current-user/token").json()["token"]
    return SimpleNamespace(folder=folder, port=port, url=url, token=token, legacy=legacy)


@pytest.fixture
def known(place, monkeypatch):
    """Label Studio's address and token, where the commands and the page look for them."""
    monkeypatch.setenv("LABEL_STUDIO_URL", place.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", place.token)


@pytest.fixture
def client(place):
    return LabelStudio(base_url=place.url, api_key=place.token)


@pytest.fixture(scope="module")
def drawn():
    return [make_scene(2422, number, include="cat") for number in range(1, 7)]


def project_with(client, drawn):
    """A new project with an uploaded image of each scene; its number, and its tasks in order."""
    project = client.projects.create(title="cats", label_config=CONFIG).id
    files = {f"{n}": (f"scene{n}.png", png(s.image), "image/png") for n, s in enumerate(drawn)}
    with by_hand(client) as http:
        http.post(f"/api/projects/{project}/import", files=files).raise_for_status()
    names = {task.data["picture"]: task.id for task in client.tasks.list(project=project)}
    places = {re.search(r"scene(\d)\.png", name)[1]: task for name, task in names.items()}
    return project, [places[f"{number}"] for number in range(len(drawn))]


def by_hand(client):
    """What the SDK has no function for."""
    wrapper = client._client_wrapper
    headers = {"Authorization": wrapper.get_headers()["Authorization"]}
    return httpx.Client(base_url=wrapper.get_base_url(), headers=headers, timeout=120)


def connect(client, project, port):
    return client.ml.create(project=project, title="piclip", url=f"http://127.0.0.1:{port}")


def retrieve(client, project):
    """Actions, Retrieve Predictions for all tasks; all predictions that are kept, by task."""
    with by_hand(client) as http:
        http.post(
            "/api/dm/actions",
            params={"id": "retrieve_tasks_predictions", "project": project},
            json={"selectedItems": {"all": True, "excluded": []}},
        ).raise_for_status()
    kept = {}
    for one in client.predictions.list(project=project):
        kept.setdefault(one.task, []).append(one)
    return kept


def open_next(client, project):
    """Label All Tasks: the next task with what it is prelabelled with."""
    with by_hand(client) as http:
        return http.get(f"/api/projects/{project}/next").raise_for_status().json()


def learned(client, project, *earlier):
    """The version of the model, as soon as it is none of these.

    Labels are read without an event only once in 60 seconds, so what comes sooner came by one.
    """

    def version():
        [model] = client.ml.list(project=project)
        return model.model_version

    wait_for(lambda: version() not in {UNLEARNED, LEARNING, *earlier}, seconds=30)
    return version()


def found_by_hand(segmenter, drawn, labelled, number):
    """What the library finds of cats in a scene, learned from others."""
    supports = [Support(drawn[n].image, drawn[n].mask("cat")) for n in labelled]
    [found] = segmenter.unfitted().fit(supports, name="cat").predict([drawn[number].image])
    return found.mask_of("cat")


def mask_of(prediction, size):
    mask = np.zeros(size, bool)
    for result in prediction.result:
        assert result["value"]["brushlabels"] == ["cat"]
        mask |= brush.decode_rle(result["value"]["rle"]).reshape(*size, 4)[:, :, 3] > 127
    return mask


def test_it_learns_while_somebody_labels_and_corrects(place, known, client, drawn, segmenter):
    size, port = drawn[0].class_map.shape, free_port()
    with running(place.folder, place.port, **OPEN):
        project, tasks = project_with(client, drawn)
        with started("label-studio", "--model", "builtin", port=port):
            connect(client, project, port)
            assert client.projects.get(project).model_version == "piclip"
            assert retrieve(client, project) == {}
            assert open_next(client, project)["predictions"] == []

            for number in (0, 1):
                label = brush_result("cat", drawn[number].mask("cat"))
                client.annotations.create(id=tasks[number], result=[label])
            first = learned(client, project)
            opened = open_next(client, project)
            assert [one["model_version"] for one in opened["predictions"]] == [first]
            before = retrieve(client, project)
            assert sorted(before) == sorted(tasks)
            for number, task in enumerate(tasks):
                [prediction] = before[task]
                assert prediction.model_version == first
                assert 0 < prediction.score <= 1
                expected = found_by_hand(segmenter, drawn, (0, 1), number)
                np.testing.assert_array_equal(mask_of(prediction, size), expected)
            inside, union = np.sum(
                [
                    overlap(mask_of(before[task][0], size), scene.mask("cat"))
                    for task, scene in zip(tasks[2:], drawn[2:], strict=True)
                ],
                axis=0,
            )
            # Twice as good as marking the whole of every image.
            assert inside / union > 2 * np.mean([scene.mask("cat").mean() for scene in drawn[2:]])

            correction = brush_result("cat", drawn[2].mask("cat"))
            proposed = before[tasks[2]][0]
            client.annotations.create(
                id=tasks[2], result=[correction], parent_prediction=proposed.id
            )
            second = learned(client, project, first)
            [_, after] = sorted(retrieve(client, project)[tasks[3]], key=lambda one: one.id)
            assert after.model_version == second
            expected = found_by_hand(segmenter, drawn, (0, 1, 2), 3)
            np.testing.assert_array_equal(mask_of(after, size), expected)
            assert after.score != before[tasks[3]][0].score
            client.projects.delete(project)
    assert not answers(place.url) and not answers(f"http://127.0.0.1:{port}")


def test_labels_that_are_imported_or_taken_back_are_learned(place, known, client, drawn):
    port = free_port()
    with running(place.folder, place.port, **OPEN):
        project, tasks = project_with(client, drawn)
        with started("label-studio", "--model", "builtin", port=port):
            connect(client, project, port)
            label = brush_result("cat", drawn[0].mask("cat"))
            data = client.tasks.get(tasks[0]).data
            labelled = {"data": data, "annotations": [{"result": [label]}]}
            client.projects.import_tasks(project, request=[labelled])
            first = learned(client, project)
            made = client.annotations.create(id=tasks[1], result=[label | {"id": "other"}])
            second = learned(client, project, first)
            changed = brush_result("cat", drawn[1].mask("cat"))
            client.annotations.update(id=made.id, result=[changed])
            learned(client, project, first, second)
            client.annotations.delete(made.id)
            assert learned(client, project, second) == first
            client.projects.delete(project)


def test_a_login_keeps_others_out_and_goes_with_events_in_a_header(place, known, client, drawn):
    port = free_port()
    with running(place.folder, place.port, **OPEN):
        project, tasks = project_with(client, drawn[:2])
        login = ("--basic-auth", "anna:secret")
        with started("label-studio", "--model", "builtin", *login, port=port):
            with pytest.raises(ApiError, match="authentication parameters"):
                connect(client, project, port)
            client.ml.create(
                project=project,
                title="piclip",
                url=f"http://127.0.0.1:{port}",
                auth_method="BASIC_AUTH",
                basic_auth_user="anna",
                basic_auth_pass="secret",
            )
            [hook] = client.webhooks.list(project=project)
            header = {"Authorization": "Basic YW5uYTpzZWNyZXQ="}
            with by_hand(client) as http:
                http.patch(f"/api/webhooks/{hook.id}/", json={"headers": header}).raise_for_status()
            label = brush_result("cat", drawn[0].mask("cat"))
            client.annotations.create(id=tasks[0], result=[label])
            learned(client, project)
            client.projects.delete(project)


def test_both_kinds_of_tokens(place, client, drawn):
    def labelled(key):
        return list(LabelStudioApi(place.url, key).labelled_tasks(str(project)))

    with running(place.folder, place.port, **OPEN):
        project, tasks = project_with(client, drawn[:2])
        label = brush_result("cat", drawn[0].mask("cat"))
        client.annotations.create(id=tasks[0], result=[label])
        assert [task["id"] for task in labelled(place.token)] == tasks[:1]
        with pytest.raises(
            PiclipError, match=r"let us in \(.*legacy token authentication has been"
        ):
            labelled(place.legacy)
        with pytest.raises(PiclipError, match=r"let us in \(Token is invalid\); check --api-key"):
            labelled(place.token[:-4] + "abcd")
        with signed_in(place.url) as browser:
            browser.post("/api/jwt/settings", json={"legacy_api_tokens_enabled": True})
            assert labelled(place.legacy) == labelled(place.token)
            browser.post("/api/jwt/settings", json={"legacy_api_tokens_enabled": False})
        client.projects.delete(project)


def compose_guard():
    [compose] = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    environment = yaml.safe_load(compose)["services"]["label-studio"]["environment"]
    assert sorted(environment) == ["USER_ADDITIONAL_BANNED_SUBNETS", "USE_DEFAULT_BANNED_SUBNETS"]
    return environment


@pytest.mark.parametrize(
    ("settings", "said", "left"),
    [
        ({}, BANNED, (0, 0)),
        ({"ML_BLOCK_LOCAL_IP": "false"}, BANNED, (1, 0)),  # a model without its webhook
        ({"SSRF_PROTECTION_ENABLED": "false"}, BANNED, (0, 0)),
        (OPEN, None, (1, 1)),
        ("compose", BANNED, (0, 0)),
        ("compose without loopback", None, (1, 1)),
    ],
)
def test_what_label_studio_must_be_allowed(place, known, client, drawn, settings, said, left):
    port = free_port()
    narrow = isinstance(settings, str)
    if narrow:
        guard = compose_guard()
        if settings != "compose":
            listed = guard["USER_ADDITIONAL_BANNED_SUBNETS"]
            guard["USER_ADDITIONAL_BANNED_SUBNETS"] = listed.replace("127.0.0.0/8,", "")
        settings = guard
    with running(place.folder, place.port, **settings):
        project = client.projects.create(title="guard", label_config=CONFIG).id
        with started("label-studio", "--model", "builtin", port=port):
            if said is None:
                connect(client, project, port)
            else:
                with pytest.raises(ApiError) as refused:
                    connect(client, project, port)
                assert (refused.value.status_code, refused.value.body["detail"]) == (403, said)
        models = len(client.ml.list(project=project))
        assert (models, len(client.webhooks.list(project=project))) == left
        if narrow:
            for address, status in (("169.254.169.254", 403), ("172.30.0.2", 400)):
                with pytest.raises(ApiError) as refused:
                    client.ml.create(project=project, title="x", url=f"http://{address}:9090")
                assert refused.value.status_code == status  # 400: nobody is there
        client.projects.delete(project)


def test_the_page(place, known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw, annotate, make, export, hand_over, serve, connect_it = blocks_of(PAGE)
    shared, port = {}, free_port()

    def run(block):
        exec(compile(block[1].replace(PORT, str(port)), str(PAGE), "exec"), shared)

    served = {"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(tmp_path)}
    served["LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED"] = "true"
    with running(place.folder, place.port, **OPEN, **served):
        run(draw)
        numbers = {one["data"]["image"]: one["id"] for one in json.loads(read("export.json"))}
        run(make)
        run(export)
        exported = json.loads(read("export.json"))
        assert [one["data"]["image"] for one in exported] == [*numbers]
        [command] = commands_of(annotate[1])
        assert main(command) == 0
        run(hand_over)
        client, project = shared["client"], shared["project"].id
        given = {one.task: masks_of(one.dict()) for one in client.predictions.list(project=project)}
        unlabelled = {one["id"] for one in exported if not one["annotations"]}
        assert len(exported) - len(unlabelled) == 3
        assert given.keys() <= unlabelled and len(given) >= 4
        places = {one["id"]: numbers[one["data"]["image"]] for one in exported}
        check_quality({places[task]: masks for task, masks in given.items()})
        opened = open_next(client, project)
        assert [one["model_version"] for one in opened["predictions"]] == ["piclip"]

        with started(*commands_of(serve[1])[0], port=port):
            run(connect_it)
            learned(client, project)
            for task, found in retrieve(client, project).items():
                masks = masks_of(max(found, key=lambda one: one.id).dict())
                for name, mask in masks.items() if task in given else ():
                    inside, union = overlap(mask, given[task][name])
                    assert inside >= 0.99 * union  # both ways are one; batches round differently

        # The button Export gives labelled tasks alone; the images of others are beside theirs.
        button = client.projects.exports.download_sync(project, export_type="JSON")
        Path("button.json").write_bytes(b"".join(button))
        labels = command.index("export.json")
        again = [*command[:labels], "button.json", *command[labels + 1 : -1], "new.json"]
        assert main(again) == 0
        new = json.loads(read("new.json"))
        assert len(new) == 6
        assert {task["data"]["image"] for task in new} <= {*numbers}
        client.projects.delete(project)


def read(name):
    return Path(name).read_text(encoding="utf-8")
