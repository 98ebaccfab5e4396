"""The layout of the page: three steps, one under the other."""

from __future__ import annotations

from typing import Any

import gradio as gr

from piclip.app import views
from piclip.app.api import add_endpoints
from piclip.app.example_scenes import EXAMPLES
from piclip.app.handlers import Handlers, picked_index, told
from piclip.app.models import BUILTIN, Models, hint
from piclip.app.painting import LISTEN, make_canvas, not_opened, too_large
from piclip.app.sessions import Sessions
from piclip.clip.encoder import DEFAULT_MODEL

_CACHE_SECONDS = (300, 1800)  # how often files made for browsers are looked at, and their age
_IMAGES = ["image"]
_EVENT = {"api_visibility": "private", "show_progress": "hidden"}
_NOW = {**_EVENT, "concurrency_limit": None}

# The file is made when its button is pressed; the browser then fetches it by itself.
_FETCH = "() => document.getElementById('{}').click()"


def build_page(sessions: Sessions, models: Models) -> gr.Blocks:
    """Lay out the page and connect it.

    Args:
        sessions: Where the tabs' sessions are kept.
        models: The models that are offered.

    Returns:
        The page, not yet served.
    """
    handlers = Handlers(sessions, models)
    with gr.Blocks(
        title="piclip", fill_width=True, analytics_enabled=False, delete_cache=_CACHE_SECONDS
    ) as page:
        add_endpoints(handlers)  # first, so that their names are free
        gr.HTML(
            "<h1>piclip</h1><p>Label a few images, get masks for all the others.</p>",
            elem_id="head",
        )
        with gr.Row(elem_id="examples"):
            gr.HTML("Try it with drawn scenes:", elem_classes="quiet")
            scenes = [gr.Button(title, size="sm", variant="secondary") for title in EXAMPLES]
        label = _label_step(sessions.limits.pixels)
        images = _images_step(models)
        shown = _results_step()
        _connect_label(handlers, label)
        _connect_images(handlers, images, shown)
        _connect_results(handlers, shown)
        for button in scenes:
            _connect_example(handlers, button, label, images, shown)
        page.load(None, None, None, js=LISTEN, api_visibility="private")
        page.unload(handlers.unload)
    return page


def _title(number: int, title: str, text: str) -> None:
    gr.HTML(
        f"<h2><span>{number}</span>{title}</h2><p>{text}</p>",
        elem_classes="step-title",
        padding=False,
    )


def _gallery(name: str, label: str, **options: Any) -> gr.Gallery:  # noqa: ANN401
    return gr.Gallery(
        label=label, elem_id=name, allow_preview=False, format="jpeg", interactive=False,
        object_fit="cover", buttons=[], show_label=False, fit_columns=False, **options,
    )  # fmt: skip


def _small_button(text: str) -> gr.Button:
    return gr.Button(text, size="sm", visible=False, elem_classes="slim")


def _label_step(pixels: int) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Column(elem_classes="step"):
        _title(1, "Label", "Mark the object in one or more images and say what it is.")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                parts["name"] = gr.Textbox(
                    label="What is it?", placeholder="In a word or two, such as zebra",
                    max_lines=1, elem_id="class-name",
                )  # fmt: skip
                with gr.Tab("Paint"):
                    parts["editor"] = make_canvas(pixels, told)
                    parts["add"] = gr.Button("Add this label", variant="primary", elem_id="add")
                with gr.Tab("Upload masks"):
                    parts["images"] = gr.File(
                        label="Images", file_count="multiple", file_types=_IMAGES, height=150,
                        elem_id="label-images",
                    )  # fmt: skip
                    parts["masks"] = gr.File(
                        label="Their masks, of the same names and sizes", file_count="multiple",
                        file_types=_IMAGES, height=150, elem_id="label-masks",
                    )  # fmt: skip
                    parts["add_files"] = gr.Button("Add these labels", variant="primary")
            with gr.Column(scale=2, min_width=280):
                parts["note"] = gr.HTML("Nothing is labelled yet.", elem_classes="quiet")
                parts["gallery"] = _gallery("labelled", "Labelled images", visible=False)
                parts["remove"] = _small_button("Remove the chosen label")
        parts["chosen"] = gr.State(None)
        with gr.Row(elem_classes="app-hidden"):
            parts["too_large"] = gr.Button("too large", elem_id="canvas-too-large")
            parts["not_opened"] = gr.Button("not opened", elem_id="canvas-not-opened")
    return parts


def _images_step(models: Models) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    titles = {
        BUILTIN: "Built-in (for trying only)",
        DEFAULT_MODEL: f"CLIP ViT-B/16 ({DEFAULT_MODEL})",
    }
    with gr.Column(elem_classes="step"):
        _title(2, "Images", "Add the images in which to find it.")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                parts["files"] = gr.File(
                    label="Images to segment", file_count="multiple", file_types=_IMAGES,
                    height=150, elem_id="query-files",
                )  # fmt: skip
                parts["note"] = gr.HTML("No image yet.", elem_classes="quiet")
                parts["gallery"] = _gallery("queries", "To segment", visible=False)
                parts["remove"] = _small_button("Remove the chosen image")
            with gr.Column(scale=2, min_width=280):
                parts["model"] = gr.Dropdown(
                    [(titles.get(name, name), name) for name in models.choices],
                    value=models.default, label="Model", allow_custom_value=models.any_model,
                    info=_model_info(models), elem_id="model",
                )  # fmt: skip
                parts["hint"] = gr.Markdown(hint(models.default), elem_classes="quiet")
                parts["run"] = gr.Button(
                    "Find the objects", variant="primary", size="lg", elem_id="run"
                )
                parts["stop"] = gr.Button("Stop", visible=False, elem_id="stop")
                parts["status"] = gr.HTML("", elem_id="status")
        parts["chosen"] = gr.State(None)
    return parts


def _model_info(models: Models) -> str | None:
    if not models.any_model:
        return None
    local = ", or a folder of this computer as ./folder" if models.local_models else ""
    return f"Choose one, or write a name of the hub as owner/model{local}."


def _results_step() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Column(elem_classes="step"):
        _title(3, "Results", "Set the threshold, look, and take the masks home.")
        parts["empty"] = gr.HTML("<div class='empty'>Results appear here.</div>")
        with gr.Column(visible=False) as parts["panel"], gr.Row():
            with gr.Column(scale=2, min_width=280):
                parts["gallery"] = _gallery("results", "Results")
                with gr.Row():
                    parts["zip"] = gr.Button("Masks (ZIP)", elem_id="get-zip", min_width=120)
                    parts["coco"] = gr.Button("COCO JSON", elem_id="get-coco", min_width=120)
            with gr.Column(scale=3, min_width=320):
                parts["slider"] = gr.Slider(
                    0, 1, 0.5, step=0.01, label="Threshold", buttons=[],
                    info="Lower finds more, higher only what is certain.", elem_id="threshold",
                )  # fmt: skip
                parts["class"] = gr.Radio([], label="Class in the priors", visible=False)
                with gr.Tab("Result"):
                    parts["image"] = _picture("result")
                    parts["text"] = gr.HTML("")
                parts["priors"] = [_prior_tab(*prior) for prior in views.PRIORS]
        with gr.Row(elem_classes="app-hidden"):
            parts["zip_file"] = gr.DownloadButton("masks", elem_id="zip-file")
            parts["coco_file"] = gr.DownloadButton("coco", elem_id="coco-file")
        parts["chosen"] = gr.State(0)
    return parts


def _prior_tab(field: str, title: str, text: str) -> gr.Image:
    with gr.Tab(title):
        picture = _picture(f"prior-{field}")
        gr.HTML(text, elem_classes="quiet")
    return picture


def _picture(name: str) -> gr.Image:
    return gr.Image(
        show_label=False, format="jpeg", interactive=False, height=430, buttons=["fullscreen"],
        elem_id=name,
    )  # fmt: skip


def _connect_label(handlers: Handlers, label: dict[str, Any]) -> None:
    shown = [label["gallery"], label["note"], label["remove"]]
    label["gallery"].select(picked_index, None, label["chosen"], **_NOW)
    label["add"].click(
        handlers.add_painted, [label["editor"], label["name"]], [label["editor"], *shown], **_NOW
    )
    label["too_large"].click(told(too_large), **_NOW)
    label["not_opened"].click(told(not_opened), **_NOW)
    uploads = [label["images"], label["masks"]]
    label["add_files"].click(
        handlers.add_uploaded, [*uploads, label["name"]], [*uploads, *shown], **_NOW
    )
    label["remove"].click(
        handlers.remove_example, label["chosen"], [label["chosen"], *shown], **_NOW
    )


def _connect_images(handlers: Handlers, images: dict[str, Any], shown: dict[str, Any]) -> None:
    listed = [images["gallery"], images["note"], images["remove"]]
    images["gallery"].select(picked_index, None, images["chosen"], **_NOW)
    images["files"].upload(
        handlers.add_queries, images["files"], [images["files"], *listed], **_NOW
    )
    images["remove"].click(
        handlers.remove_query, images["chosen"], [images["chosen"], *listed], **_NOW
    )
    images["model"].change(hint, images["model"], images["hint"], **_NOW)
    images["run"].click(handlers.run, images["model"], _run_outputs(images, shown), **_running())
    images["stop"].click(handlers.stop, None, images["stop"], **_NOW)


def _connect_example(
    handlers: Handlers,
    button: gr.Button,
    label: dict[str, Any],
    images: dict[str, Any],
    shown: dict[str, Any],
) -> None:
    title = button.value

    def load(request: gr.Request) -> tuple[Any, ...]:
        return tuple(handlers.example(title, request))

    filled = [
        label["name"], label["editor"], label["gallery"], label["note"], label["remove"],
        images["gallery"], images["note"], images["remove"], images["model"], images["hint"],
    ]  # fmt: skip
    button.click(load, None, filled, **_NOW).success(
        handlers.run, images["model"], _run_outputs(images, shown), **_running()
    )


def _run_outputs(images: dict[str, Any], shown: dict[str, Any]) -> list[Any]:
    parts = ("empty", "panel", "gallery", "chosen", "slider", "class", "image", "text")
    return [
        images["status"], images["run"], images["stop"],
        *(shown[part] for part in parts), *shown["priors"],
    ]  # fmt: skip


def _running() -> dict[str, Any]:
    """One run at a time on this computer, whichever tab and button it comes from."""
    return {**_EVENT, "concurrency_limit": 1, "concurrency_id": "run"}


def _connect_results(handlers: Handlers, shown: dict[str, Any]) -> None:
    slider, chosen, result = shown["slider"], shown["chosen"], [shown["image"], shown["text"]]
    slider.input(
        handlers.move_threshold, [slider, chosen], result, trigger_mode="always_last", **_NOW
    )
    slider.release(handlers.settle_threshold, slider, shown["gallery"], **_NOW)
    shown["gallery"].select(
        handlers.choose, shown["class"], [chosen, *result, *shown["priors"]], **_NOW
    )
    shown["class"].input(handlers.choose_class, [chosen, shown["class"]], shown["priors"], **_NOW)
    for button, file, make in (
        ("zip", "zip_file", handlers.download_masks),
        ("coco", "coco_file", handlers.download_coco),
    ):
        link = _FETCH.format(shown[file].elem_id)
        shown[button].click(make, None, shown[file], **_NOW).success(
            None, None, None, js=link, api_visibility="private"
        )
