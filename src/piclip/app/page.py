"""The layout of the page: three steps, one under the other."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any, NamedTuple

import gradio as gr

from piclip.app.api import add_endpoints
from piclip.app.example_scenes import EXAMPLES, PHOTOGRAPHS
from piclip.app.handlers import PRIORS, Handlers, offers_photographs, told
from piclip.app.models import BUILTIN, Models, hint
from piclip.app.painting import FAILURES, LISTEN, read_canvas
from piclip.app.session import Sessions
from piclip.clip.encoder import DEFAULT_MODEL
from piclip.results import MIN_PRESENCE

_CACHE_SECONDS = (300, 1800)  # how often files made for browsers are looked at, and their age
_IMAGES = {"file_count": "multiple", "file_types": ["image"], "height": 150}
_PAINT = ("#d55e00", 0.6)
_EVENT = {"api_visibility": "private", "show_progress": "hidden"}
_NOW = {**_EVENT, "concurrency_limit": None}
# One run at a time on this computer, whichever tab and button it comes from.
_RUN = {**_EVENT, "concurrency_limit": 1, "concurrency_id": "run"}

# The file is made when its button is pressed; the browser then fetches it by itself.
_FETCH = "() => document.getElementById('{}').click()"


def build_page(sessions: Sessions, models: Models) -> gr.Blocks:
    """Lay out the page and connect it; it is not yet served."""
    handlers = Handlers(sessions, models)
    with gr.Blocks(
        title="piclip", fill_width=True, analytics_enabled=False, delete_cache=_CACHE_SECONDS
    ) as page:
        add_endpoints(handlers)  # first, so that their names are free
        gr.HTML(
            "<h1>piclip</h1><p>Label a few images, get masks for all the others. "
            f"{documentation()}</p>",
            elem_id="head",
        )
        _, scenes = _examples("Try it with drawn scenes:", EXAMPLES)
        with_photos, photos = _examples(
            "Try it with photographs:", [PHOTOGRAPHS], visible=offers_photographs(models.default)
        )
        labels = _label_step(handlers)
        images = _images_step(handlers)
        results = _results_step(handlers)
        filled = [*labels, *images.listed, images.model, images.hint]
        starts = [images.run.click]
        starts += [
            button.click(handlers.example, [button, images.model], filled, **_NOW).success
            for button in (*scenes, *photos)
        ]
        for start in starts:
            ran = start(
                handlers.run, images.model, [images.status, images.run, images.stop], **_RUN
            )
            ran.success(handlers.show, None, results, **_NOW)
        images.model.change(handlers.choose_model, images.model, [images.hint, with_photos], **_NOW)
        page.load(handlers.load, None, None, js=LISTEN, api_visibility="private")
        page.unload(handlers.unload)
    return page


def documentation() -> str:
    """Where the documentation is: a link, or its folder while the package names no address."""
    try:
        urls = metadata("piclip").get_all("Project-URL") or []
    except PackageNotFoundError:  # a checkout on the path that nobody installed
        urls = []
    addresses = dict(url.split(", ", 1) for url in urls)
    if address := addresses.get("Documentation"):
        return f'<a href="{escape(address)}" target="_blank" rel="noopener">Documentation</a>'
    return "Documentation: <code>docs/</code> in the repository."


def _examples(text: str, titles: Iterable[str], **options: Any) -> tuple[gr.Row, list[gr.Button]]:  # noqa: ANN401
    """A row of buttons, each for one example."""
    with gr.Row(elem_classes="examples", **options) as row:
        gr.HTML(text, elem_classes="quiet")
        buttons = [gr.Button(title, size="sm", variant="secondary") for title in titles]
    return row, buttons


def _label_step(handlers: Handlers) -> list[Any]:
    """Step 1; gives what an example fills."""
    with gr.Column(elem_classes="step"):
        _title(1, "Label", "Mark the object in one or more images and say what it is.")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                name = gr.Textbox(
                    label="What is it?", placeholder="In a word or two, such as zebra",
                    max_lines=1, elem_id="class-name",
                )  # fmt: skip
                with gr.Tab("Paint"):
                    canvas = _canvas(handlers.sessions.limits.pixels)
                    add = gr.Button("Add this label", variant="primary", elem_id="add")
                with gr.Tab("Upload masks"):
                    uploads = [
                        gr.File(label="Images", elem_id="label-images", **_IMAGES),
                        gr.File(
                            label="Their masks, of the same names and sizes",
                            elem_id="label-masks", **_IMAGES,
                        ),
                    ]  # fmt: skip
                    add_files = gr.Button("Add these labels", variant="primary")
            with gr.Column(scale=2, min_width=280):
                note = gr.HTML("Nothing is labelled yet.", elem_classes="quiet")
                gallery, chosen = _gallery("labelled", "Labelled images", visible=False)
                remove = _small_button("Remove the chosen label")
        with gr.Row(elem_classes="app-hidden"):
            for name_of_failure, sentence in FAILURES.items():
                failed = gr.Button(sentence, elem_id=name_of_failure)
                failed.click(handlers.tell, failed, **_NOW)
    listed = [gallery, note, remove]
    add.click(handlers.add_painted, [canvas, name], [canvas, *listed], **_NOW)
    add_files.click(handlers.add_uploaded, [*uploads, name], [*uploads, *listed], **_NOW)
    remove.click(handlers.remove_example, chosen, [chosen, *listed], **_NOW)
    return [name, canvas, *listed]


def _canvas(pixels: int) -> gr.ImageEditor:
    """The canvas to paint on, whose value is what `read_canvas` gives."""
    canvas = gr.ImageEditor(
        label="Paint over the object", show_label=False, sources=("upload", "clipboard"),
        layers=False, transforms=(), height=400, buttons=[], elem_id="editor",
        brush=gr.Brush(colors=[_PAINT], default_color=_PAINT, color_mode="fixed"),
        placeholder="Drop an image here\nor click to choose one",
    )  # fmt: skip
    # Gradio would decode whatever comes, before anything could be refused.
    canvas.preprocess = told()(lambda sent: read_canvas(sent, pixels))
    # Takes any number of pictures into memory, for listeners to every stroke; there is none here.
    canvas.accept_blobs = None
    return canvas


class _Images(NamedTuple):
    """What others need of step 2."""

    listed: list[Any]
    model: gr.Dropdown
    hint: gr.Markdown
    status: gr.HTML
    run: gr.Button
    stop: gr.Button


def _images_step(handlers: Handlers) -> _Images:
    models = handlers.models
    with gr.Column(elem_classes="step"):
        _title(2, "Images", "Add the images in which to find it.")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                files = gr.File(label="Images to segment", elem_id="query-files", **_IMAGES)
                note = gr.HTML("No image yet.", elem_classes="quiet")
                gallery, chosen = _gallery("queries", "To segment", visible=False)
                remove = _small_button("Remove the chosen image")
            with gr.Column(scale=2, min_width=280):
                model = _model_choice(models)
                about = gr.Markdown(hint(models.default), elem_classes="quiet")
                run = gr.Button("Find the objects", variant="primary", size="lg", elem_id="run")
                stop = gr.Button("Stop", visible=False, elem_id="stop")
                status = gr.HTML("", elem_id="status")
    listed = [gallery, note, remove]
    files.upload(handlers.add_queries, files, [files, *listed], **_NOW)
    remove.click(handlers.remove_query, chosen, [chosen, *listed], **_NOW)
    stop.click(handlers.stop, None, stop, **_NOW)
    return _Images(listed, model, about, status, run, stop)


def _model_choice(models: Models) -> gr.Dropdown:
    titles = {
        BUILTIN: "Built-in (for trying only)",
        DEFAULT_MODEL: f"CLIP ViT-B/16 ({DEFAULT_MODEL})",
    }
    info = None
    if models.any_model:
        local = ", or a folder of this computer as ./folder" if models.local_models else ""
        info = f"Choose one, or write a name of the hub as owner/model{local}."
    return gr.Dropdown(
        [(titles.get(name, name), name) for name in models.choices], value=models.default,
        label="Model", allow_custom_value=models.any_model, info=info, elem_id="model",
    )  # fmt: skip


def _results_step(handlers: Handlers) -> list[Any]:
    """Step 3; gives what a run fills."""
    with gr.Column(elem_classes="step"):
        _title(3, "Results", "Set the threshold, look, and take the masks home.")
        empty = gr.HTML("<div class='empty'>Results appear here.</div>")
        with gr.Column(visible=False) as panel, gr.Row():
            with gr.Column(scale=2, min_width=280):
                gallery, chosen = _gallery("results", "Results")
                with gr.Row():
                    get_zip = gr.Button("Masks (ZIP)", elem_id="get-zip", min_width=120)
                    get_coco = gr.Button("COCO JSON", elem_id="get-coco", min_width=120)
            with gr.Column(scale=3, min_width=320):
                slider = gr.Slider(
                    0, 1, 0.5, step=0.01, label="Threshold", buttons=[],
                    info="Lower finds more, higher only what is certain.", elem_id="threshold",
                )  # fmt: skip
                least = gr.Slider(
                    0, 1, MIN_PRESENCE, step=0.01, label="Least presence", buttons=[],
                    info="A class that is less likely to be in an image is not drawn there.",
                    elem_id="min-presence",
                )  # fmt: skip
                class_name = gr.Radio([], label="Class in the priors", visible=False)
                with gr.Tab("Result"):
                    result = [_picture("result"), gr.HTML("")]
                priors, texts = [], []
                for field, title, text in PRIORS:
                    with gr.Tab(title):
                        priors.append(_picture(f"prior-{field}"))
                        texts.append(gr.HTML(text, elem_classes="quiet"))
        with gr.Row(elem_classes="app-hidden"):
            zip_file = gr.DownloadButton("masks", elem_id="zip-file")
            coco_file = gr.DownloadButton("coco", elem_id="coco-file")
    sliders = [slider, least]
    for moved in sliders:
        moved.input(
            handlers.move_threshold, [*sliders, chosen], result, trigger_mode="always_last", **_NOW
        )
        moved.release(handlers.settle_threshold, sliders, gallery, **_NOW)
    gallery.select(handlers.choose, class_name, [chosen, *result, *priors], **_NOW)
    class_name.input(handlers.choose_class, [chosen, class_name], priors, **_NOW)
    for button, make, file in (
        (get_zip, handlers.download_masks, zip_file),
        (get_coco, handlers.download_coco, coco_file),
    ):
        button.click(make, None, file, **_NOW).success(
            None, None, None, js=_FETCH.format(file.elem_id), api_visibility="private"
        )
    return [empty, panel, gallery, chosen, *sliders, class_name, *result, *texts, *priors]


def _title(number: int, title: str, text: str) -> None:
    gr.HTML(
        f"<h2><span>{number}</span>{title}</h2><p>{text}</p>",
        elem_classes="step-title",
        padding=False,
    )


def _gallery(name: str, label: str, **options: Any) -> tuple[gr.Gallery, gr.State]:  # noqa: ANN401
    """A gallery, and which of its pictures was picked last."""
    gallery = gr.Gallery(
        label=label, elem_id=name, allow_preview=False, format="jpeg", interactive=False,
        object_fit="cover", buttons=[], show_label=False, fit_columns=False, **options,
    )  # fmt: skip
    chosen = gr.State(None)
    gallery.select(_picked_index, None, chosen, **_NOW)
    return gallery, chosen


def _picked_index(picked: gr.SelectData) -> int:
    return int(picked.index)


def _small_button(text: str) -> gr.Button:
    return gr.Button(text, size="sm", visible=False, elem_classes="slim")


def _picture(name: str) -> gr.Image:
    return gr.Image(
        show_label=False, format="jpeg", interactive=False, height=430, buttons=["fullscreen"],
        elem_id=name,
    )  # fmt: skip
