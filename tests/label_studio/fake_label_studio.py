"""A tiny Label Studio: the API, the images and the requests that the real one sends to backends."""

import io
import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import numpy as np
from label_studio_sdk.converter import brush
from PIL import Image

TOKEN = "0123456789abcdef0123456789abcdef01234567"
"""A legacy token: itself the key, for good."""

PERSONAL_TOKEN = jwt.encode({"token_type": "refresh", "exp": 2**32}, "the secret" * 4)
"""A personal access token: a JWT that opens nothing but gives keys for five minutes each."""

PROJECT = "1.1760000000"

CONFIG = """<View>
  <Image name="photo" value="$picture"/>
  <BrushLabels name="brush" toName="photo"><Label value="cat"/><Label value="star"/></BrushLabels>
</View>"""


def brush_result(name, mask, **changes):
    """A brush stroke as the editor saves it."""
    return {
        "id": f"drawn-{name}",
        "type": "brushlabels",
        "origin": "manual",
        "from_name": "brush",
        "to_name": "photo",
        "image_rotation": 0,
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "value": {
            "format": "rle",
            "rle": brush.mask2rle(mask.astype(np.uint8) * 255),
            "brushlabels": [name],
        },
    } | changes


def png(image):
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def version_of(response):
    """The model version that a backend answered."""
    assert response.status_code == 200, response.text
    return response.json()["model_version"]


def results_of(response):
    """The predictions that a backend answered."""
    assert response.status_code == 200, response.text
    return response.json()["results"]


class FakeLabelStudio:
    """Holds tasks of project 1, serves them, and talks to a backend as Label Studio does.

    Args:
        below: The path below which it is, as a proxy in front of it may want it.

    Attributes:
        tasks: By number, as the API gives them.
        files: By path, what is served to those who bring the token.
        redirects: By path, where it sends everybody to.
        asked: Every request as (path, Authorization header).
        status: What it answers to every request, if not 200.
        page: Most tasks in a page of the API.
        config: The labelling configuration of the project.
        legacy: Whether legacy tokens are enabled, which they are not in a new Label Studio.
        key_seconds: How long the keys of personal access tokens are valid.
        keys: Those that were given.
        backend: The ML backend that was connected through the API.
    """

    def __init__(self, below=""):
        self.below = below
        self.tasks = {}
        self.files = {}
        self.redirects = {}
        self.asked = []
        self.status = 200
        self.page = 2
        self.config = CONFIG
        self.legacy = True
        self.key_seconds = 300
        self.keys = []
        self.backend = None
        self.url = ""

    def add_task(self, number, address, *results):
        annotations = [self.annotation(number, results)] if results else []
        self.tasks[number] = {
            "id": number,
            "data": {"picture": address, "title": "not the picture"},
            "meta": {},
            "created_at": "2026-01-01T00:00:00.000000Z",
            "updated_at": "2026-01-01T00:00:00.000000Z",
            "is_labeled": bool(results),
            "overlap": 1,
            "project": 1,
            "file_upload": None,
            "annotations": annotations,
            "predictions": [],
        }

    def annotate(self, number, *results):
        self.tasks[number]["annotations"] = [self.annotation(number, results)]
        return self.tasks[number]["annotations"][0]

    @staticmethod
    def annotation(number, results):
        return {
            "id": 100 + number,
            "result": list(results),
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": "2026-01-02T00:00:00.000000Z",
            "updated_at": "2026-01-02T00:00:00.000000Z",
            "lead_time": 12.5,
            "prediction": {},
            "result_count": len(results),
            "task": number,
            "completed_by": 1,
        }

    # What the API answers.

    def answer(self, path, query, token):
        """(status, headers, bytes) for a GET."""
        if self.status != 200:
            return self.status, {}, b"{}"
        if path in self.redirects:
            return 302, {"Location": self.redirects[path]}, b""
        if refused := self.refused(token):
            return 401, {}, json.dumps({"detail": refused}).encode()
        if path in self.files:
            return 200, {"Content-Type": "image/png"}, self.files[path]
        if path in {"/api/tasks", "/api/tasks/"}:
            return self._page(query)
        return 404, {}, b"{}"

    def refused(self, token):
        """Why a header Authorization opens nothing; None if it does."""
        kind, _, key = (token or "").partition(" ")
        if kind == "Token" and key == TOKEN:
            off = "legacy token authentication has been disabled for this organization"
            return None if self.legacy else f"Authentication token no longer valid: {off}"
        if kind == "Bearer" and key in self.keys:
            with suppress(jwt.ExpiredSignatureError):
                jwt.decode(key, options={"verify_signature": False, "verify_exp": True})
                return None
        absent = "Authentication credentials were not provided."
        return "Invalid token." if kind == "Token" else absent

    def _page(self, query):
        assert query["project"] == ["1"]
        assert query["fields"] == ["all"]
        tasks = [*self.tasks.values()]
        # Its filters are those of the Data Manager; only_annotated is known to Enterprise alone.
        for one in json.loads(query.get("query", ["{}"])[0]).get("filters", {}).get("items", []):
            assert one.pop("filter") == "filter:tasks:total_annotations"
            assert one == {"operator": "greater", "type": "Number", "value": 0}
            tasks = [t for t in tasks if t["annotations"]]
        first = (int(query.get("page", ["1"])[0]) - 1) * self.page
        if tasks and first >= len(tasks):
            return 404, {}, b'{"detail": "Invalid page."}'
        body = {"tasks": tasks[first : first + self.page], "total": len(tasks)}
        body |= {"total_annotations": len(tasks), "total_predictions": 0}
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def take(self, path, body):
        """(status, object) for a POST or a PATCH."""
        if path == "/api/token/refresh/":
            if body != {"refresh": PERSONAL_TOKEN}:
                return 401, {"detail": "Token is invalid"}
            content = {"token_type": "access", "exp": int(time.time()) + self.key_seconds}
            self.keys.append(jwt.encode(content | {"jti": len(self.keys)}, "the secret" * 4))
            return 200, {"access": self.keys[-1]}
        if path == "/api/projects/1/":
            return 200, {"id": 1, **body}
        if path == "/api/predictions/":
            self.tasks[body["task"]]["predictions"].append(body)
            return 201, {"id": 1, **body}
        if path == "/api/ml/":
            # As it does before it keeps a backend.
            assert httpx.get(f"{body['url']}/health", timeout=60).json()["status"] == "UP"
            self.setup(body["url"]).raise_for_status()
            self.backend = body["url"]
            return 201, {"id": 1, "state": "CO", **body}
        return 404, {}

    # What it sends to a backend.

    def setup(self, backend, config=None, **options):
        body = {
            "project": PROJECT,
            "schema": config or self.config,
            "hostname": "http://localhost:8080",
            "access_token": TOKEN,
            "extra_params": None,
        }
        return httpx.post(f"{backend}/setup", json=body, timeout=60, **options)

    def predict(self, backend, *numbers, config=None, context=None, **options):
        params = {"login": None, "password": None, "hostname": self.url, "context": context}
        body = {
            "tasks": [self.tasks[number] for number in numbers],
            "project": PROJECT,
            "label_config": config or self.config,
            "params": params,
        }
        return httpx.post(f"{backend}/predict", json=body, timeout=100, **options)

    def retrieve(self, backend, *numbers):
        """Ask for predictions and keep what comes: for each task one, several or none."""
        for number, answer in zip(
            numbers, results_of(self.predict(backend, *numbers)), strict=True
        ):
            self.tasks[number]["predictions"] += [answer] if isinstance(answer, dict) else answer

    def send_event(self, backend, action, annotation=None, **options):
        project = {"id": 1, "title": "cats", "label_config": self.config, "model_version": ""}
        body = {"action": action, "annotation": annotation, "project": project}
        return httpx.post(f"{backend}/webhook", json=body, timeout=60, **options)

    @contextmanager
    def running(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                parts = urlsplit(self.path)
                token = self.headers.get("Authorization")
                fake.asked.append((self.path, token))
                self.reply(*fake.answer(self.inner(), parse_qs(parts.query), token))

            def do_POST(self):
                token = self.headers.get("Authorization")
                assert "refresh" in self.path or fake.refused(token) is None
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = fake.take(self.inner(), body)
                self.reply(
                    status, {"Content-Type": "application/json"}, json.dumps(answer).encode()
                )

            def do_PATCH(self):
                self.do_POST()

            def inner(self):
                path = urlsplit(self.path).path
                return path.removeprefix(fake.below) if path.startswith(fake.below) else "outside"

            def reply(self, status, headers, body):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}{self.below}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
