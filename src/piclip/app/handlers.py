"""What happens when a button is pressed: from the page's components to the session and back."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from piclip.app.answers import THUMBNAIL_PIXELS, Answer, fit_picture
from piclip.app.example_photos import missing_photo
from piclip.app.example_scenes import PHOTOGRAPHS, load_example
from piclip.app.files import coco_json, masks_zip, pair_by_name
from piclip.app.models import BUILTIN, Models, hint
from piclip.app.painting import painted_mask
from piclip.app.session import AppSession, Example, Sessions, Step
from piclip.errors import PiclipError, UsageError
from piclip.figures.panels import heat
from piclip.io.overlays import draw_overlay
from piclip.results import Segmentation

PRIORS: tuple[tuple[str, str, str], ...] = (
    ("visual_text", "VTP", "Text prior: where the image agrees with the class's name."),
    ("visual_text_refined", "VTP refined", "Text prior, spread along the model's attention."),
    ("contrast", "Supports", "Nearer to the labelled objects than to what surrounds them."),
    ("fused", "Together", "What both say, before it goes from patches to pixels."),
)
"""Field of ``Priors``, title of the tab, explanation."""

Output = Any  # what gradio takes for a component: a value, or an update of its properties


def offers_photographs(model: str) -> bool:
    """Whether the photographs are an example for this model, and are there."""
    return model.strip() != BUILTIN and missing_photo() is None


@contextmanager
def told() -> Iterator[None]:
    """Let errors end as messages on the page, of one sentence; also a decorator of handlers."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        if os.environ.get("PICLIP_DEBUG", "0") not in {"", "0"}:
            traceback.print_exception(error)
        text = str(error)
        if not isinstance(error, PiclipError):
            said = " ".join(text.split()) or type(error).__name__
            text = (
                f"Unexpected {type(error).__name__}: {said}; start the page with PICLIP_DEBUG=1 "
                f"and report what it prints."
            )
        text = escape(text, quote=False)
        raise gr.Error(text, title="That did not work", print_exception=False) from None


class Handlers:
    """The page's handlers; each looks up the session of the tab that asks."""

    def __init__(self, sessions: Sessions, models: Models) -> None:
        self.sessions = sessions
        self.models = models

    def session(self, request: gr.Request) -> AppSession:
        """The session of the tab that a request comes from."""
        return self.sessions.of(request.username, request.session_hash)

    @told()
    def load(self, request: gr.Request) -> None:
        """A tab was opened: what it sends from now on is its own."""
        self.session(request)

    def unload(self, request: gr.Request) -> None:
        """A tab was closed or loaded anew: forget it and delete its files."""
        self.sessions.close(request.username, request.session_hash)

    # Step 1: label

    @told()
    def example(self, title: str, model: str, request: gr.Request) -> tuple[Output, ...]:
        """Load an example in place of everything; drawn scenes bring the built-in model along."""
        session = self.session(request)
        editor = {"background": load_example(session, title), "layers": [], "composite": None}
        listed = (*_labelled(session), *_queries(session))
        model = model if title == PHOTOGRAPHS else BUILTIN
        return session.class_names[0], editor, *listed, model, hint(model)

    def choose_model(self, model: str) -> tuple[Output, ...]:
        """What to know about the model, and whether photographs are offered for it."""
        return hint(model), gr.Row(visible=offers_photographs(model))

    @told()
    def add_painted(
        self, editor: dict[str, Any] | None, class_name: str, request: gr.Request
    ) -> tuple[Output, ...]:
        """Take the image on the canvas, with what is painted on it, as an example."""
        session = self.session(request)
        if editor is None:
            raise UsageError("Choose an image to label first, then paint over the object.")
        background = editor["background"]
        mask = painted_mask(editor["layers"], (background.height, background.width))
        session.add_example(background, mask, class_name)
        return None, *_labelled(session)

    @told()
    def add_uploaded(
        self,
        images: Sequence[str] | None,
        masks: Sequence[str] | None,
        class_name: str,
        request: gr.Request,
    ) -> tuple[Output, ...]:
        """Take uploaded images with uploaded masks as examples."""
        session = self.session(request)
        for image, mask in pair_by_name(images or (), masks or ()):
            session.add_example(image, mask, class_name)
        return None, None, *_labelled(session)

    @told()
    def tell(self, sentence: str) -> None:
        """Something failed in the browser."""
        raise UsageError(sentence)

    @told()
    def remove_example(self, chosen: int | None, request: gr.Request) -> tuple[Output, ...]:
        """Forget the chosen example, or the last one."""
        session = self.session(request)
        session.remove_example(len(session.examples) - 1 if chosen is None else chosen)
        return None, *_labelled(session)

    # Step 2: images

    @told()
    def add_queries(self, files: Sequence[str] | None, request: gr.Request) -> tuple[Output, ...]:
        """Take uploaded images; what cannot be read is told and left out."""
        session = self.session(request)
        refused = session.add_queries(files or ())
        if refused:
            gr.Warning(
                "<br>".join(escape(text, quote=False) for text in refused[:5]),
                title="Left out" if len(refused) <= 5 else f"{len(refused)} images left out",
            )
        return None, *_queries(session)

    @told()
    def remove_query(self, chosen: int | None, request: gr.Request) -> tuple[Output, ...]:
        """Forget the chosen image, or the last one."""
        session = self.session(request)
        session.remove_query(len(session.queries) - 1 if chosen is None else chosen)
        return None, *_queries(session)

    def run(self, model: str, request: gr.Request) -> Iterator[tuple[Output, ...]]:
        """Segment all images, telling how far it is: status and the two buttons."""
        buttons = gr.Button(interactive=False), gr.Button(visible=True, interactive=True)
        idle = gr.Button(interactive=True), gr.Button(visible=False)
        with told():
            session = self.session(request)
            session.check_ready()
            yield _loading(model), *buttons
            try:
                for step in session.run(self.models.load(model)):
                    yield _progress_bar(step), *buttons
            except Exception:
                yield "", *idle
                raise
            yield _outcome(session), *idle

    @told()
    def stop(self, request: gr.Request) -> Output:
        """End a run after the image that it is at."""
        self.session(request).stop()
        return gr.Button(interactive=False)

    # Step 3: results

    @told()
    def show(self, request: gr.Request) -> tuple[Output, ...]:
        """All of step 3 after a run.

        Placeholder, panel, gallery, chosen index, both sliders, class choice, result, its text, and
        the texts and the pictures of the priors.
        """
        session = self.session(request)
        found = bool(session.answers)
        preview = session.answers[0].preview if found else None
        names = () if preview is None else preview.class_names
        first = names[0] if found else ""
        shown, maps = (None, ""), _NO_PRIORS
        if found:
            shown, maps = _result(session, 0), _priors(session, 0, first)
        known = preview is not None and preview.priors is not None
        return (
            gr.HTML(visible=not found),
            gr.Column(visible=found),
            gr.Gallery(_result_thumbnails(session), selected_index=0 if found else None),
            0,
            gr.Slider(value=round(session.threshold, 2)),
            gr.Slider(
                value=session.min_presence,
                visible=preview is not None and preview.presence is not None,
            ),
            gr.Radio(choices=list(names), value=first or None, visible=known and len(names) > 1),
            *shown,
            *_prior_texts(preview),
            *maps,
        )

    @told()
    def choose(
        self, class_name: str, picked: gr.SelectData, request: gr.Request
    ) -> tuple[Output, ...]:
        """Show the result that was picked, and its priors."""
        session, index = self.session(request), int(picked.index)
        return index, *_result(session, index), *_priors(session, index, class_name)

    @told()
    def choose_class(self, index: int, class_name: str, request: gr.Request) -> tuple[Output, ...]:
        """Show the priors of another class."""
        return _priors(self.session(request), index, class_name)

    @told()
    def move_threshold(
        self, threshold: float, min_presence: float, index: int, request: gr.Request
    ) -> tuple[Output, ...]:
        """Decide anew which pixels are object in the result shown."""
        session = self.session(request)
        session.threshold, session.min_presence = threshold, min_presence
        return _result(session, index)

    @told()
    def settle_threshold(
        self, threshold: float, min_presence: float, request: gr.Request
    ) -> Output:
        """A slider was let go: bring the small results up to date."""
        session = self.session(request)
        session.threshold, session.min_presence = threshold, min_presence
        return _result_thumbnails(session)

    @told()
    def download_masks(self, request: gr.Request) -> Output:
        """All masks at the threshold shown, as ZIP."""
        session = self.session(request)
        return str(masks_zip(session, session.threshold))

    @told()
    def download_coco(self, request: gr.Request) -> Output:
        """Everything at the threshold shown, as COCO JSON."""
        session = self.session(request)
        return str(coco_json(session, session.threshold))


# Values for the page's components, in their order.

_DECODER = "A trained decoder keeps no priors to look at."
_NO_NAMES = "This model reads no names, so there is no such map."
_NO_PRIORS: tuple[Image.Image | None, ...] = (None,) * len(PRIORS)


def _labelled(session: AppSession) -> tuple[Output, ...]:
    """Gallery of the labelled images, a note, and the button that removes one."""
    names = session.class_names
    pictures = [
        (_labelled_thumbnail(example, names.index(example.class_name)), example.class_name)
        for example in session.examples
    ]
    counts = Counter(example.class_name for example in session.examples)
    note = ", ".join(f"{name}: {count}" for name, count in counts.items())
    return _listed(pictures, f"Labelled so far: {note}" if note else "Nothing is labelled yet.")


def _queries(session: AppSession) -> tuple[Output, ...]:
    """Gallery of the images to segment, a note, and the button that removes one."""
    pictures = [(query.thumbnail, query.file_name) for query in session.queries]
    count = len(pictures)
    note = f"{count} image{'s' * (count != 1)} to segment." if count else "No image yet."
    return _listed(pictures, note)


def _listed(pictures: list[tuple[Image.Image, str]], text: str) -> tuple[Output, ...]:
    some = bool(pictures)
    return gr.Gallery(pictures, visible=some), _quiet(text), gr.Button(visible=some)


def _labelled_thumbnail(example: Example, class_index: int) -> Image.Image:
    """A labelled image, small, with its mask in the colour of class ``class_index`` (from 0)."""
    small = fit_picture(example.image, THUMBNAIL_PIXELS)
    marks = Image.fromarray(example.mask).resize(small.size, Image.Resampling.NEAREST)
    class_map = np.asarray(marks).astype(np.uint8) * np.uint8(class_index % 254 + 1)
    return draw_overlay(small, class_map, alpha=0.6)


def _loading(model: str) -> str:
    """Status while the model is loaded and learns."""
    which = "the built-in model" if model.strip() == BUILTIN else model.strip()
    return f"<progress></progress><p>Loading {escape(which)} and learning from your labels …</p>"


def _progress_bar(step: Step) -> str:
    """Status while images are segmented."""
    if not step.done:
        return "<progress></progress><p>Learning from your labels …</p>"
    left = step.seconds_left or 0
    when = f"about {left:.0f} s left" if left < 100 else f"about {left / 60:.0f} min left"
    return (
        f'<progress max="{step.total}" value="{step.done}"></progress>'
        f"<p>{step.done} of {step.total} images, {when}</p>"
    )


def _outcome(session: AppSession) -> str:
    """Status after a run."""
    done, asked = len(session.answers), len(session.queries)
    stopped = done + len(session.failures) < asked
    text = f"{'Stopped: ' if stopped else ''}{done} of {asked} images segmented."
    return "".join(f"<p>{escape(line)}</p>" for line in (text, *session.failures))


def _result_thumbnails(session: AppSession) -> list[tuple[Image.Image, str]]:
    """All results at the threshold shown, small."""
    shown = []
    for answer in session.answers:
        overlay = _preview(session, answer).overlay()
        overlay.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        shown.append((overlay, answer.query.file_name))
    return shown


def _result(session: AppSession, index: int) -> tuple[Output, ...]:
    """One result at the threshold shown: the picture, and of each class its share and presence."""
    answer = session.answer(index)
    preview = _preview(session, answer)
    presence = preview.presence_by_class or {}
    told = ", ".join(
        f"{name} {preview.mask_of(name).mean():.1%}"
        + (f" (presence {presence[name]:.2f})" if presence else "")
        for name in preview.class_names
    )
    return preview.overlay(), _quiet(f"{answer.query.file_name}: {told}")


def _preview(session: AppSession, answer: Answer) -> Segmentation:
    """A result, small, as the sliders have it."""
    return answer.preview.at_threshold(session.threshold, min_presence=session.min_presence)


def _priors(session: AppSession, index: int, class_name: str) -> tuple[Image.Image | None, ...]:
    """The priors of one class over one image, in the order of ``PRIORS``, as far as it has any."""
    preview = session.answer(index).preview
    if preview.priors is None:
        return _NO_PRIORS
    names = preview.class_names
    number = names.index(class_name) if class_name in names else 0
    image = preview.image or Image.new("RGB", (preview.size[1], preview.size[0]))
    maps = preview.priors.maps()
    return tuple(
        heat(image, maps[field][number]) if field in maps else None for field, _, _ in PRIORS
    )


def _prior_texts(preview: Segmentation | None) -> list[str]:
    """What is said under each of ``PRIORS``; of a map that is not there, why."""
    if preview is None:
        return [text for _, _, text in PRIORS]
    if preview.priors is None:
        return [_DECODER for _ in PRIORS]
    maps = preview.priors.maps()
    return [text if field in maps else _NO_NAMES for field, _, text in PRIORS]


def _quiet(text: str) -> str:
    return f'<div class="quiet">{escape(text)}</div>'
