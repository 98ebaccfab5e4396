"""The command: what it refuses, and a server that learns from an export."""

import json
import socket

import httpx
import pytest
from backend_process import free_port
from fake_label_studio import TOKEN, brush_result, png

from piclip.cli import main
from piclip.label_studio.server import Settings, serve


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run the command, which must end with one sentence and exit code 2; gives the sentence."""
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)

    def refused(*arguments):
        code = main(["label-studio", "--model", "builtin", *map(str, arguments)])
        lines = capsys.readouterr().err.strip().splitlines()
        assert code == 2
        assert [line.startswith("piclip: ") for line in lines] == [True]
        return lines[0]

    return refused


def test_wrong_command_lines_are_told(refused, tmp_path, monkeypatch):
    free = ("--port", free_port())
    url = ("--url", "http://localhost:1", "--api-key", TOKEN)
    assert "nothing to learn from" in refused(*free)
    assert "asks for a token" in refused(*free, "--url", "http://localhost:1")
    for address in ("localhost:1", "http://", "http://localhost:port"):
        assert "is no address" in refused(*free, "--url", address, "--api-key", TOKEN)
    assert "user:password" in refused(*free, *url, "--basic-auth", "anna")
    assert "is no host" in refused(*free, *url, "--allow-host", "http://x")
    assert "is no file" in refused(*free, "--labels", tmp_path / "gone.json")
    (tmp_path / "min.json").write_text("{}", encoding="utf-8")
    assert "not a list of tasks" in refused(*free, "--labels", tmp_path / "min.json")
    assert "is no folder" in refused(*free, *url, "--local-files", tmp_path / "gone")
    assert "cannot listen at 192.0.2.1:9090" in refused(*url, "--host", "192.0.2.1")
    expired = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.tHdJxkU2vkmrVpPyNSNiUVqYdzJJp6ZjwmWUhqKHcQ0"
    assert "no valid token" in refused(*free, "--url", "http://localhost:1", "--api-key", expired)
    assert "is no decoder" in refused(*free, *url, "--clip", "builtin")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://localhost:1")
    assert "asks for a token" in refused(*free)


def test_a_taken_port_is_told(refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sentence = refused("--labels", "x.json", "--port", port)
    assert sentence == (
        f"piclip: The server cannot listen at 127.0.0.1:{port} (address already in use); choose "
        f"another --port or --host."
    )


def test_it_learns_from_an_export_and_leaves_no_file(label_studio, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, scene in scenes.items():
        (photos / f"{number}.png").write_bytes(png(scene.image))
        results = label_studio.tasks[number]["annotations"]
        label_studio.add_task(number, f"/data/local-files/?d={number}.png")
        label_studio.tasks[number]["annotations"] = results
    export = tmp_path / "export.json"
    export.write_text(json.dumps(list(label_studio.tasks.values())))
    login = ("anna", "x")
    model = {"name_or_folder": "builtin", "device": "cpu"}
    settings = Settings(model, labels=export, local_files=photos, port=0, login=login)
    with serve(settings) as served:
        assert list((tmp_path / "temporary").glob("piclip*")) != []
        assert httpx.get(f"{served.url}/health").status_code == 401
        [before] = label_studio.predict(served.url, 3, auth=login).json()["results"]
        assert before["result"]
        label_studio.annotate(3, brush_result("cat", scenes[3].mask("cat")))
        export.write_text(json.dumps(list(label_studio.tasks.values())))
        label_studio.send_event(served.url, "ANNOTATION_CREATED", auth=login)
        [after] = label_studio.predict(served.url, 4, auth=login).json()["results"]
        assert after["model_version"] != before["model_version"]

        export.write_text("{}")
        label_studio.send_event(served.url, "ANNOTATION_CREATED", auth=login)
        [kept] = label_studio.predict(served.url, 4, auth=login).json()["results"]
        assert kept == after
    assert label_studio.asked == []
    assert list((tmp_path / "temporary").glob("piclip*")) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/health")
