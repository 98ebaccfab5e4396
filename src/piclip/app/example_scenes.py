"""What is behind the page's example buttons: drawn scenes with exact masks, and photographs."""

from __future__ import annotations

from PIL import Image

from piclip.app.answers import fit_picture
from piclip.app.example_photos import load_photos
from piclip.app.session import AppSession
from piclip.datasets.scenes import IMAGE_SIZE, Layout, make_scene
from piclip.errors import UsageError
from piclip.io.outputs import write_png

_SEED = 2406  # used nowhere else; scenes are taken as they come
_QUERIES = 6
_PAPER_PIXELS = 512
_CLEAR = Layout(objects=(1, 1), scale=(0.4 * IMAGE_SIZE, 0.6 * IMAGE_SIZE), clutter=2)
"""People label images that show the object well; what is asked for is as crowded as ever."""


EXAMPLES = {
    "Cats": (("cat",), 1),
    "Flowers and horses": (("flower", "horse"), 1),
    "Hearts, three labelled": (("heart",), 3),
}
"""By title the classes, and how many labelled images each has."""

PHOTOGRAPHS = "Cheetahs"


def load_example(session: AppSession, title: str) -> Image.Image:
    """Fill a session with one of ``EXAMPLES`` or with ``PHOTOGRAPHS``, in place of what it had.

    Gives one more image with the first class, unlabelled and enlarged, to paint on. A UsageError if
    there is no such example, or the photographs are not installed.
    """
    if title == PHOTOGRAPHS:
        return load_photos(session)
    if title not in EXAMPLES:
        titles = ", ".join((*EXAMPLES, PHOTOGRAPHS))
        raise UsageError(f"There is no example {title!r}; choose from {titles}.")
    names, shots = EXAMPLES[title]
    session.clear()
    number = 1000 * list(EXAMPLES).index(title)
    for name in (name for name in names for _ in range(shots)):
        scene = make_scene(_SEED, number, _CLEAR, name)
        session.add_example(scene.image, scene.mask(name), name)
        number += 1
    for count in range(_QUERIES):
        scene = make_scene(_SEED, number, include=names[count % len(names)])
        path = write_png(scene.image, session.folder / "scene.png")
        session.add_query(path, f"scene-{count + 1}.png")
        number += 1
    last = make_scene(_SEED, number, _CLEAR, names[0])
    return fit_picture(Image.fromarray(last.image), _PAPER_PIXELS)
