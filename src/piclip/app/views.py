"""What the page shows of a session: values for its components, in their order."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from piclip.app.content import Progress
from piclip.app.models import BUILTIN
from piclip.app.pictures import labelled_thumbnail, result_thumbnail
from piclip.app.session import AppSession
from piclip.figures.panels import heat

PRIORS: tuple[tuple[str, str, str], ...] = (
    ("visual_text", "VTP", "Text prior: where the image agrees with the class's name."),
    ("visual_text_refined", "VTP refined", "Text prior, spread along the model's attention."),
    ("visual_visual", "VVP", "Image prior: likeness to the labelled objects."),
    ("visual_visual_refined", "VVP refined", "Image prior, spread along the model's attention."),
    ("fused", "Fused", "All evidence together, before it goes from patches to pixels."),
)
"""Field of ``Priors``, title of the tab, explanation."""

RESULT_OUTPUTS = 8 + len(PRIORS)
"""How many components `results` fills."""


def examples(session: AppSession) -> tuple[Any, ...]:
    """Gallery of the labelled images, a note, and the button that removes one."""
    names = session.class_names
    pictures = [
        (labelled_thumbnail(e.image, e.mask, names.index(e.class_name)), e.class_name)
        for e in session.examples
    ]
    counts = Counter(example.class_name for example in session.examples)
    note = ", ".join(f"{name}: {count}" for name, count in counts.items())
    text = f"Labelled so far: {note}" if note else "Nothing is labelled yet."
    return _list(pictures, text)


def queries(session: AppSession) -> tuple[Any, ...]:
    """Gallery of the images to segment, a note, and the button that removes one."""
    pictures = [(query.thumbnail, query.file_name) for query in session.queries]
    count = len(pictures)
    note = f"{count} image{'s' * (count != 1)} to segment." if count else "No image yet."
    return _list(pictures, note)


def loading(model: str) -> str:
    """Status while the model is loaded and learns."""
    which = "the built-in model" if model.strip() == BUILTIN else model.strip()
    return f"<progress></progress><p>Loading {escape(which)} and learning from your labels …</p>"


def progress_bar(progress: Progress) -> str:
    """Status while images are segmented."""
    if not progress.done:
        return "<progress></progress><p>Learning from your labels …</p>"
    left = progress.seconds_left or 0
    when = f"about {left:.0f} s left" if left < 100 else f"about {left / 60:.0f} min left"
    return (
        f'<progress max="{progress.total}" value="{progress.done}"></progress>'
        f"<p>{progress.done} of {progress.total} images, {when}</p>"
    )


def outcome(session: AppSession) -> str:
    """Status after a run."""
    done, asked = len(session.answers), len(session.queries)
    stopped = done + len(session.failures) < asked
    text = f"<p>{'Stopped: ' if stopped else ''}{done} of {asked} images segmented.</p>"
    return text + "".join(f"<p>{escape(failure)}</p>" for failure in session.failures)


def results(session: AppSession) -> tuple[Any, ...]:
    """Step 3 after a run.

    Placeholder, panel, gallery, chosen index, slider, class choice, result, its text, and one
    picture per prior.
    """
    found = bool(session.answers)
    names = session.answers[0].preview.class_names if found else ()
    first = names[0] if found else None
    shown = result(session, 0) if found else (None, "")
    maps = priors(session, 0, first) if first else (None,) * len(PRIORS)
    return (
        gr.HTML(visible=not found),
        gr.Column(visible=found),
        gr.Gallery(result_thumbnails(session), selected_index=0 if found else None),
        0,
        gr.Slider(value=round(session.threshold, 2)),
        gr.Radio(choices=list(names), value=first, visible=len(names) > 1),
        *shown,
        *maps,
    )


def result_thumbnails(session: AppSession) -> list[tuple[Image.Image, str]]:
    """All results at the threshold shown, small."""
    return [
        (
            result_thumbnail(answer.preview.at_threshold(session.threshold)),
            answer.query.file_name,
        )
        for answer in session.answers
    ]


def result(session: AppSession, index: int) -> tuple[Any, ...]:
    """One result at the threshold shown: the picture and how much each class covers."""
    preview = session.answer(index).preview.at_threshold(session.threshold)
    shares = ", ".join(f"{name} {preview.mask_of(name).mean():.1%}" for name in preview.class_names)
    return preview.overlay(), _quiet(f"{session.answer(index).query.file_name}: {shares}")


def priors(session: AppSession, index: int, class_name: str) -> tuple[Image.Image, ...]:
    """The priors of one class over one image, in the order of ``PRIORS``."""
    preview = session.answer(index).preview
    names = preview.class_names
    number = names.index(class_name) if class_name in names else 0
    image = preview.image or Image.new("RGB", (preview.size[1], preview.size[0]))
    return tuple(heat(image, getattr(preview.priors, field)[number]) for field, _, _ in PRIORS)


def _list(pictures: list[tuple[Image.Image, str]], text: str) -> tuple[Any, ...]:
    some = bool(pictures)
    return gr.Gallery(pictures, visible=some), _quiet(text), gr.Button(visible=some)


def _quiet(text: str) -> str:
    return f'<div class="quiet">{escape(text)}</div>'
