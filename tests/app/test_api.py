"""The served page as programs see it: named endpoints, errors, limits, files removed."""

import json
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piclip.app.server import Settings, serve
from piclip.app.session import Limits
from piclip.datasets.scenes import make_scene
from piclip.errors import ModelError, UsageError

gradio_client = pytest.importorskip("gradio_client", reason="needs the extra [app]")
pytest.importorskip("gradio", reason="needs the extra [app]")


def connect(url, **options):
    return gradio_client.Client(url, verbose=False, analytics_enabled=False, **options)


@pytest.fixture(scope="module")
def served():
    with serve(Settings(limits=Limits(images=7), upload_megabytes=1)) as served:
        yield served


@pytest.fixture
def client(served, tmp_path):
    return connect(served.url, download_files=str(tmp_path / "downloads"))


def files(tmp_path, index=0, name="cat"):
    scene = make_scene(78, index, include=name)
    image, mask = tmp_path / f"{name}{index}.png", tmp_path / f"{name}{index}-mask.png"
    Image.fromarray(scene.image).save(image)
    Image.fromarray(scene.mask(name)).save(mask)
    return gradio_client.handle_file(str(image)), gradio_client.handle_file(str(mask))


def test_it_listens_on_this_computer_only(served):
    assert served.url.startswith("http://127.0.0.1:")


def test_label_run_and_download(client, tmp_path):
    image, mask = files(tmp_path)
    assert client.predict(image, mask, "cat", api_name="/label") == {
        "labels": ["cat"],
        "images": [],
    }
    queries = [files(tmp_path, index)[0] for index in (3, 4)]
    added = client.predict(queries, api_name="/add_images")
    assert added["images"] == ["cat3.png", "cat4.png"] and added["refused"] == []
    outcome = client.predict("builtin", api_name="/run")
    assert [item["file_name"] for item in outcome["images"]] == ["cat3.png", "cat4.png"]
    assert 0 < outcome["threshold"] < 1 and outcome["failures"] == []
    assert all(0 <= item["shares"]["cat"] <= 1 for item in outcome["images"])
    assert all(0.5 <= item["presence"]["cat"] <= 1 for item in outcome["images"])

    archive, coco = client.predict(0.0, api_name="/download")
    with zipfile.ZipFile(archive) as opened, opened.open("masks/cat3.png") as file:
        assert (np.asarray(Image.open(file)) == 255).all()  # at 0 every pixel is object
    content = json.loads(Path(coco).read_text())
    assert [annotation["area"] for annotation in content["annotations"]] == [128 * 128] * 2
    low, high = (client.predict(0, t, api_name="/overlay") for t in (0.1, 1.0))
    assert not np.array_equal(np.asarray(Image.open(low)), np.asarray(Image.open(high)))


def test_the_example_works_offline(client):
    contents = client.predict("Flowers and horses", api_name="/example")
    assert contents["labels"] == ["flower", "horse"] and len(contents["images"]) == 6
    assert client.predict(api_name="/clear") == {"labels": [], "images": []}


@pytest.mark.parametrize(
    ("arguments", "endpoint", "sentence"),
    [
        (("builtin",), "/run", "Label at least one image first"),
        (("Dragons",), "/example", "There is no example 'Dragons'"),
        ((0, 0.5), "/overlay", "There is no such result"),
        ((0.5,), "/download", "There is no result to download"),
        ((None, None, "cat"), "/label", "Give an image file and a mask file"),
    ],
)
def test_errors_are_one_sentence(client, arguments, endpoint, sentence):
    with pytest.raises(gradio_client.exceptions.AppError) as error:
        client.predict(*arguments, api_name=endpoint)
    assert sentence in str(error.value)
    assert "Traceback" not in str(error.value) and "\n" not in str(error.value)


def test_a_model_that_cannot_be_had_is_one_sentence(client):
    client.predict("Cats", api_name="/example")
    with pytest.raises(gradio_client.exceptions.AppError, match=r"no-such-folder"):
        client.predict("./no-such-folder", api_name="/run")


def test_what_cannot_be_read_is_refused_by_name(client, tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    queries = [gradio_client.handle_file(str(tmp_path / "notes.png")), files(tmp_path)[0]]
    added = client.predict(queries, api_name="/add_images")
    assert added["images"] == ["cat0.png"]
    assert len(added["refused"]) == 1 and added["refused"][0].startswith("notes.png: ")


def test_the_number_and_size_of_uploads_are_limited(client, tmp_path):
    added = client.predict([files(tmp_path, i)[0] for i in range(9)], api_name="/add_images")
    assert len(added["images"]) == 7 and "takes 7 images" in added["refused"][0]
    (tmp_path / "large.png").write_bytes(bytes(1_100_000))
    with pytest.raises(Exception, match=r"size|413"):
        client.predict(
            [gradio_client.handle_file(str(tmp_path / "large.png"))], api_name="/add_images"
        )


def call(url, endpoint, data):
    """One call without gradio_client, which would upload the files that are named."""
    body = json.dumps({"data": data, "session_hash": "raw"}).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{url}gradio_api/call/{endpoint}", body, headers)
    event = json.loads(urllib.request.urlopen(asked).read())["event_id"]
    answer = urllib.request.urlopen(f"{url}gradio_api/call/{endpoint}/{event}")
    return answer.read().decode()


def test_the_canvas_takes_no_pictures_into_memory(served):
    canvas = next(block for block in served.page.blocks.values() if hasattr(block, "blob_storage"))
    fields = {
        "component_id": canvas._id, "session_hash": "raw", "fn_name": "accept_blobs",
        "id": "one", "type": "background", "index": "null",
    }  # fmt: skip
    part = '--b\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
    body = "".join(part.format(name, "", value) for name, value in fields.items())
    body += part.format("file", '; filename="a.png"', "x" * 1000) + "--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    url = f"{served.url}gradio_api/component_server"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers))
    assert refused.value.code == 404 and canvas.blob_storage == {}


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}])
def test_files_of_the_server_cannot_be_named(served, tmp_path, meta):
    assert "event: complete" in call(served.url, "add_images", [[]])
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    assert "event: error" in call(served.url, "add_images", [[{"path": str(secret), **meta}]])
    assert served.sessions.of(None, "raw").queries == []


def test_two_clients_do_not_mix(served, client, tmp_path):
    other = connect(served.url)
    client.predict("Cats", api_name="/example")
    assert other.predict([], api_name="/add_images") == {"labels": [], "images": [], "refused": []}


def test_a_login_is_asked_for_and_files_are_removed_at_the_end(tmp_path):
    with serve(Settings(login=("anna", "secret"))) as served:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{served.url}gradio_api/info")
        assert refused.value.code == 401
        with pytest.raises(Exception, match=r"(?i)login|auth|credentials|401"):
            connect(served.url)
        client = connect(served.url, auth=("anna", "secret"))
        client.predict("Cats", api_name="/example")
        assert len(served.sessions) == 1 and any((served.folder / "sessions").iterdir())
    assert not served.folder.exists() and len(served.sessions) == 0


def test_a_taken_port_is_said(served):
    port = int(served.url.rstrip("/").rsplit(":", 1)[1])
    with (
        pytest.raises(UsageError, match="choose another --host or --port"),
        serve(Settings(port=port)),
    ):
        pass


def test_a_wrong_model_is_told_before_anything_is_served(tmp_path):
    with (
        pytest.raises(ModelError, match="nowhere"),
        serve(Settings(model=str(tmp_path / "nowhere"))),
    ):
        pass
