"""The how-to "Pre-annotate a Label Studio project", run as it is written."""

import ipaddress
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import yaml
from label_studio_sdk import LabelStudio
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "label_studio"))
from backend_process import free_port, started
from fake_label_studio import TOKEN, FakeLabelStudio
from howto_page import PAGE, PORT, blocks_of, check_quality, commands_of, masks_of, overlap


@pytest.fixture
def label_studio(monkeypatch):
    """A Label Studio without tasks, where the page's variables lead to."""
    with FakeLabelStudio().running() as fake:
        monkeypatch.setenv("LABEL_STUDIO_URL", fake.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
        yield fake


def import_tasks(fake, tasks):
    """What a person does on the page before they label: images served, tasks there."""
    fake.config = Path("interface.xml").read_text()
    fake.answer_api = fake.answer

    def answer(path, query, token):
        if path == "/data/local-files/" and token == f"Token {TOKEN}":
            return 200, {}, Path(query["d"][0]).read_bytes()
        return fake.answer_api(path, query, token)

    fake.answer = answer
    for task in tasks:
        fake.add_task(task["id"], task["data"]["image"])
        fake.tasks[task["id"]]["data"] = task["data"]
        for annotation in task.get("annotations", []):
            fake.annotate(task["id"], *annotation["result"])


@pytest.mark.slow
def test_the_page_runs_against_a_label_studio(piclip, label_studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # make test-label-studio runs the two others, which need the real one.
    draw, annotate, _, _, hand_over, serve, connect = blocks_of(PAGE)
    client = LabelStudio(base_url=label_studio.url, api_key=TOKEN)
    shared = {"client": client, "project": SimpleNamespace(id=1), "json": json, "Path": Path}

    exec(compile(draw[1], str(PAGE), "exec"), shared)
    tasks = json.loads(Path("export.json").read_text())
    import_tasks(label_studio, tasks)
    unlabelled = [task["id"] for task in tasks if "annotations" not in task]
    assert len(tasks) - len(unlabelled) == 3

    [command] = commands_of(annotate[1])
    ran = piclip(*command, "--min-area", "0")  # the server leaves specks in
    assert ran.code == 0, ran.err
    exec(compile(hand_over[1], str(PAGE), "exec"), shared)
    given = {number: label_studio.tasks[number]["predictions"] for number in unlabelled}
    by_file = {number: masks_of(*found) for number, found in given.items() if found}
    check_quality(by_file)

    asked = list(by_file)[:2]
    port = free_port()
    with started(*commands_of(serve[1])[0], port=port):
        exec(compile(connect[1].replace(PORT, str(port)), str(PAGE), "exec"), shared)
        assert label_studio.backend == f"http://127.0.0.1:{port}"
        results = label_studio.predict(label_studio.backend, *asked).json()["results"]
        version = label_studio.setup(label_studio.backend).json()["model_version"]
    for number, prediction in zip(asked, results, strict=True):
        assert prediction["model_version"] == version
        for name, mask in masks_of(prediction).items():
            inside, union = overlap(mask, by_file[number][name])
            assert inside >= 0.99 * union  # both ways are one; batches round differently


def test_the_containers_reach_each_other_by_name_and_the_guard_lets_no_other_network_pass():
    text = PAGE.read_text(encoding="utf-8")
    [compose] = re.findall(r"```yaml\n(.*?)```", text, re.S)
    compose = yaml.safe_load(compose)
    services = compose["services"]
    address = urlsplit(services["piclip"]["environment"]["LABEL_STUDIO_URL"])
    assert services[address.hostname]["ports"] == [f"127.0.0.1:8080:{address.port}"]
    assert urlsplit("http://piclip:9090").hostname in services
    assert "`http://piclip:9090`" in text
    assert services["piclip"]["command"].startswith("piclip label-studio --host 0.0.0.0")

    guard = services["label-studio"]["environment"]
    assert guard["USE_DEFAULT_BANNED_SUBNETS"] == "false"
    banned = [*map(ipaddress.ip_network, guard["USER_ADDITIONAL_BANNED_SUBNETS"].split(","))]
    [own] = compose["networks"]["default"]["ipam"]["config"]
    passing = ipaddress.ip_network(own["subnet"])
    assert not any(net.overlaps(passing) for net in banned if net.version == 4)
    private = ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16", "::1/128")
    assert {*map(ipaddress.ip_network, private)} <= {*banned}
    for number in range(16, 32):
        net = ipaddress.ip_network(f"172.{number}.0.0/16")
        assert (number == 30) != any(net.subnet_of(one) for one in banned if one.version == 4)


def test_the_picture_shows_eight_scenes():
    with Image.open(PAGE.parent / "images" / "howto-label-studio.png") as picture:
        assert picture.width / picture.height == pytest.approx(4, abs=0.1)
