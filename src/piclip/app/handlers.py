"""What happens when a button is pressed: from the page's components to the session and back."""

from __future__ import annotations

import functools
import html
import inspect
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from piclip.app import views
from piclip.app.downloads import coco_json, masks_zip
from piclip.app.example_scenes import load_example
from piclip.app.models import BUILTIN, Models, hint
from piclip.app.pairing import pair_by_name
from piclip.app.pictures import painted_mask
from piclip.app.session import AppSession
from piclip.app.sessions import Sessions
from piclip.errors import PiclipError, UsageError

Output = Any  # what gradio takes for a component: a value, or an update of its properties


def page_error(error: Exception) -> gr.Error:
    """An error as a message on the page: one sentence, no traceback."""
    if isinstance(error, gr.Error):
        return error
    if os.environ.get("PICLIP_DEBUG", "0") not in {"", "0"}:
        traceback.print_exception(error)
    text = str(error)
    if not isinstance(error, PiclipError):
        said = " ".join(text.split()) or type(error).__name__
        text = (
            f"Unexpected {type(error).__name__}: {said}; start the page with PICLIP_DEBUG=1 and "
            f"report what it prints."
        )
    return gr.Error(
        html.escape(text, quote=False), title="That did not work", print_exception=False
    )


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a handler (or a generator of updates) so that errors end as messages."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:  # noqa: ANN401
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise page_error(error) from None

        return steps

    @functools.wraps(function)
    def once(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise page_error(error) from None

    return once


class Handlers:
    """The page's handlers; each looks up the session of the tab that asks."""

    def __init__(self, sessions: Sessions, models: Models) -> None:
        self.sessions = sessions
        self.models = models

    def session(self, request: gr.Request) -> AppSession:
        """The session of the tab that a request comes from."""
        return self.sessions.of(request.username, request.session_hash)

    def unload(self, request: gr.Request) -> None:
        """A tab was closed or loaded anew: forget it and delete its files."""
        self.sessions.close(request.username, request.session_hash)

    # Step 1: label

    @told
    def example(self, title: str, request: gr.Request) -> tuple[Output, ...]:
        """Load built-in scenes in place of everything, with the built-in model."""
        session = self.session(request)
        paper = load_example(session, title)
        editor = {"background": paper, "layers": [], "composite": None}
        return (
            session.class_names[0],
            editor,
            *views.examples(session),
            *views.queries(session),
            BUILTIN,
            hint(BUILTIN),
        )

    @told
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
        return None, *views.examples(session)

    @told
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
        return None, None, *views.examples(session)

    @told
    def remove_example(self, chosen: int | None, request: gr.Request) -> tuple[Output, ...]:
        """Forget the chosen example, or the last one."""
        session = self.session(request)
        session.remove_example(len(session.examples) - 1 if chosen is None else chosen)
        return None, *views.examples(session)

    # Step 2: images

    @told
    def add_queries(self, files: Sequence[str] | None, request: gr.Request) -> tuple[Output, ...]:
        """Take uploaded images; what cannot be read is told and left out."""
        session = self.session(request)
        refused = add_queries(session, files or ())
        if refused:
            gr.Warning(
                "<br>".join(html.escape(text, quote=False) for text in refused[:5]),
                title="Left out" if len(refused) <= 5 else f"{len(refused)} images left out",
            )
        return None, *views.queries(session)

    @told
    def remove_query(self, chosen: int | None, request: gr.Request) -> tuple[Output, ...]:
        """Forget the chosen image, or the last one."""
        session = self.session(request)
        session.remove_query(len(session.queries) - 1 if chosen is None else chosen)
        return None, *views.queries(session)

    @told
    def run(self, model: str, request: gr.Request) -> Iterator[tuple[Output, ...]]:
        """Segment all images, telling how far it is: status, the two buttons, step 3."""
        session = self.session(request)
        session.check_ready()
        unchanged = (gr.skip(),) * views.RESULT_OUTPUTS
        buttons = gr.Button(interactive=False), gr.Button(visible=True, interactive=True)
        idle = gr.Button(interactive=True), gr.Button(visible=False)
        yield (views.loading(model), *buttons, *unchanged)
        try:
            for progress in session.run(self.models.load(model)):
                yield (views.progress_bar(progress), *buttons, *unchanged)
        except Exception:
            yield ("", *idle, *unchanged)
            raise
        yield (views.outcome(session), *idle, *views.results(session))

    @told
    def stop(self, request: gr.Request) -> Output:
        """End a run after the image that it is at."""
        self.session(request).stop()
        return gr.Button(interactive=False)

    # Step 3: results

    @told
    def choose(
        self, class_name: str, picked: gr.SelectData, request: gr.Request
    ) -> tuple[Output, ...]:
        """Show the result that was picked, and its priors."""
        session, index = self.session(request), int(picked.index)
        shown = views.result(session, index)
        return (index, *shown, *views.priors(session, index, class_name))

    @told
    def choose_class(self, index: int, class_name: str, request: gr.Request) -> tuple[Output, ...]:
        """Show the priors of another class."""
        return views.priors(self.session(request), index, class_name)

    @told
    def move_threshold(
        self, threshold: float, index: int, request: gr.Request
    ) -> tuple[Output, ...]:
        """Decide anew which pixels are object in the result shown."""
        session = self.session(request)
        session.threshold = threshold
        return views.result(session, index)

    @told
    def settle_threshold(self, threshold: float, request: gr.Request) -> Output:
        """The slider was let go: bring the small results up to date."""
        session = self.session(request)
        session.threshold = threshold
        return views.result_thumbnails(session)

    @told
    def download_masks(self, request: gr.Request) -> Output:
        """All masks at the threshold shown, as ZIP."""
        session = self.session(request)
        return str(masks_zip(session, session.threshold))

    @told
    def download_coco(self, request: gr.Request) -> Output:
        """Everything at the threshold shown, as COCO JSON."""
        session = self.session(request)
        return str(coco_json(session, session.threshold))


def picked_index(picked: gr.SelectData) -> int:
    """Which picture of a gallery was picked."""
    return int(picked.index)


def add_queries(session: AppSession, files: Sequence[str]) -> list[str]:
    """Add images to a session; gives a sentence for each that was refused."""
    refused = []
    for file in files:
        try:
            session.add_query(Path(file))
        except PiclipError as error:
            refused.append(str(error))
    return list(dict.fromkeys(refused))
