"""The same work for programs: named endpoints, to be called with gradio_client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from piclip.app.answers import Answer
from piclip.app.example_scenes import load_example
from piclip.app.files import coco_json, masks_zip
from piclip.app.handlers import Handlers, told
from piclip.app.session import AppSession
from piclip.errors import UsageError


def add_endpoints(handlers: Handlers) -> None:
    """Add the endpoints to the page being built; every client has a session of its own.

    Files go through gradio's file components, which accept nothing but uploads.
    """
    endpoints = _Endpoints(handlers)
    with gr.Row(visible=False):
        text, other = gr.Textbox(label="text"), gr.Textbox(label="name")
        number, index = gr.Number(label="threshold"), gr.Number(label="index", precision=0)
        image, mask = gr.File(label="image"), gr.File(label="mask")
        files = gr.File(label="files", file_count="multiple")
        picture = gr.Image(label="overlay", format="png")
        masks, coco = gr.File(label="masks"), gr.File(label="coco")
        answer, trigger = gr.JSON(label="answer"), gr.Button()

    def add(name: str, function: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
        options = {"concurrency_limit": 1, "concurrency_id": "run"} if name == "run" else {}
        trigger.click(told()(function), inputs, outputs, api_name=name, **options)

    add("example", endpoints.example, [text], [answer])
    add("label", endpoints.label, [image, mask, other], [answer])
    add("add_images", endpoints.add_images, [files], [answer])
    add("run", endpoints.run, [text], [answer])
    add("overlay", endpoints.overlay, [index, number], [picture])
    add("download", endpoints.download, [number], [masks, coco])
    add("clear", endpoints.clear, [], [answer])


class _Endpoints:
    """Plain values in, plain values out."""

    def __init__(self, handlers: Handlers) -> None:
        self._models, self._session = handlers.models, handlers.session

    def example(self, title: str, request: gr.Request) -> dict[str, Any]:
        """Load an example in place of everything: "Cats", ..."""
        session = self._session(request)
        load_example(session, title)
        return _contents(session)

    def label(
        self, image: str | None, mask: str | None, class_name: str, request: gr.Request
    ) -> dict[str, Any]:
        """Add a labelled image: an image file, a mask file of its size, the class's name."""
        session = self._session(request)
        if image is None or mask is None:
            raise UsageError("Give an image file and a mask file.")
        session.add_example(image, mask, class_name)
        return _contents(session)

    def add_images(self, files: list[str] | None, request: gr.Request) -> dict[str, Any]:
        """Add images to segment; "refused" says what was left out and why."""
        session = self._session(request)
        refused = session.add_queries(files or ())
        return {**_contents(session), "refused": refused}

    def run(self, model: str, request: gr.Request) -> dict[str, Any]:
        """Segment all images with a model ("" is the page's own, "builtin" is for trying)."""
        session = self._session(request)
        session.check_ready()
        for _ in session.run(self._models.load(model)):
            pass
        return {
            "threshold": session.threshold,
            "images": [_shares(answer) for answer in session.answers],
            "failures": session.failures,
        }

    def overlay(self, index: int, threshold: float | None, request: gr.Request) -> Any:  # noqa: ANN401
        """One result drawn over its image; no threshold means the model's own."""
        session = self._session(request)
        chosen = session.threshold if threshold is None else threshold
        preview = session.answer(int(index)).preview
        return preview.at_threshold(chosen, min_presence=session.min_presence).overlay()

    def download(self, threshold: float | None, request: gr.Request) -> tuple[str, str]:
        """All masks as ZIP and COCO JSON; no threshold means the model's own."""
        session = self._session(request)
        chosen = session.threshold if threshold is None else threshold
        return str(masks_zip(session, chosen)), str(coco_json(session, chosen))

    def clear(self, request: gr.Request) -> dict[str, Any]:
        """Forget everything."""
        session = self._session(request)
        session.clear()
        return _contents(session)


def _contents(session: AppSession) -> dict[str, Any]:
    return {
        "labels": [example.class_name for example in session.examples],
        "images": [query.file_name for query in session.queries],
    }


def _shares(answer: Answer) -> dict[str, Any]:
    preview = answer.preview
    shares = {name: round(float(preview.mask_of(name).mean()), 4) for name in preview.class_names}
    presence = preview.presence_by_class
    return {"file_name": answer.query.file_name, "shares": shares, "presence": presence}
