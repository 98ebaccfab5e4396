"""What a browser tab has: labelled examples, images to segment, results. No page code here.

All tabs together are `Sessions`: made when first asked for, ended when closed or abandoned.
"""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from time import monotonic, time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.annotation.answers import How, answers
from piclip.annotation.queries import Query as ToSegment
from piclip.annotation.sinks import Kept
from piclip.app.answers import (
    THUMBNAIL_PIXELS,
    Answer,
    Query,
    fit_picture,
    preview_of,
    write_scores,
)
from piclip.errors import ImageError, PiclipError, UsageError
from piclip.io.decoding import ImageSource
from piclip.io.images import MAX_PIXELS, read_image, read_mask
from piclip.io.supports import Support
from piclip.results import MIN_PRESENCE, Segmentation
from piclip.segmenter import FewShotSegmenter

_LONGEST_NAME = 60
_IDLE_SECONDS = 6 * 3600.0
_MOST_SESSIONS = 200
_PATIENCE = 60.0  # seconds that a stopped run has to finish the image it is at


@dataclass(frozen=True)
class Limits:
    """How much one tab may hold."""

    images: int = 100  # to segment
    examples: int = 100  # labelled images of all classes together
    classes: int = 20
    pixels: int = MAX_PIXELS  # of any one image
    labelled_pixels: int = 8 * MAX_PIXELS  # of all labelled ones, in memory at 4 bytes each


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled image: RGB, and bool (H, W) where the class is."""

    class_name: str
    image: Image.Image
    mask: npt.NDArray[np.bool_]


class Step(NamedTuple):
    """How far a run is: images done, images in all, and seconds left (None: not yet known)."""

    done: int
    total: int
    seconds_left: float | None


class AppSession:
    """The work of one browser tab; results stay in its folder, made here and removed by `close`."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.limits = limits
        self.examples: list[Example] = []
        self.queries: list[Query] = []
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self.threshold = 0.5
        self.min_presence = MIN_PRESENCE
        self.used = monotonic()
        self.began = time()
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        self._stop = threading.Event()
        self._closed = False
        self._count = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes labelled so far, in the order in which they came."""
        return tuple(dict.fromkeys(example.class_name for example in self.examples))

    @property
    def running(self) -> bool:
        """Whether a run is going on."""
        return self._busy.locked()

    def add_example(self, image: ImageSource, mask: ImageSource, class_name: str) -> None:
        """Add an image and the mask of its size that shows where the class is.

        A UsageError if the name is not usable or the limits are reached; errors of `read_image` and
        `read_mask`.
        """
        limits, name = self.limits, " ".join(class_name.split())
        if not name:
            raise UsageError("Name what you marked, in a word or two, such as zebra.")
        if len(name) > _LONGEST_NAME:
            raise UsageError(f"The class name is longer than {_LONGEST_NAME} letters; shorten it.")
        if len(self.examples) >= limits.examples:
            raise UsageError(
                f"This page takes {limits.examples} labelled images; remove some first."
            )
        if len({*self.class_names, name}) > limits.classes:
            raise UsageError(f"This page takes {limits.classes} classes; remove one first.")
        picture = read_image(image, max_pixels=limits.pixels)
        size = (picture.height, picture.width)
        marked = read_mask(mask, size=size, max_pixels=limits.pixels)
        if sum(e.mask.size for e in self.examples) + marked.size > limits.labelled_pixels:
            raise UsageError(
                f"This page takes {limits.labelled_pixels / 1e6:.0f} million pixels of "
                f"labelled images; remove some first or use smaller copies."
            )
        self.examples.append(Example(name, picture, marked))

    def add_query(self, path: Path, file_name: str | None = None) -> None:
        """Add an image to segment, under its owner's name for it; it is read to be sure and copied.

        A UsageError if there are too many images, an ImageError if it cannot be read.
        """
        if len(self.queries) >= self.limits.images:
            raise UsageError(
                f"This page takes {self.limits.images} images at a time; use `piclip segment` for "
                f"whole folders."
            )
        shown = Path(file_name or path.name)
        try:
            image = read_image(path, max_pixels=self.limits.pixels)
        except ImageError as error:
            raise ImageError(str(error).replace(str(path), shown.name)) from error
        thumbnail = fit_picture(image, THUMBNAIL_PIXELS)
        with self._lock:
            if self._closed:
                raise UsageError("This page was closed; load it again.")
            self._count += 1
            own = self.folder / f"image-{self._count}{path.suffix.lower()}"
            shutil.copyfile(path, own)
            name = self._free_name(shown.stem)
            self.queries.append(Query(name + shown.suffix, name, own, thumbnail))

    def add_queries(self, files: Sequence[str]) -> list[str]:
        """Add image files; gives a sentence for each that was refused."""
        refused = []
        for file in files:
            try:
                self.add_query(Path(file))
            except PiclipError as error:
                refused.append(str(error))
        return list(dict.fromkeys(refused))

    def remove_example(self, index: int) -> None:
        """Forget one labelled image."""
        if not 0 <= index < len(self.examples):
            raise UsageError("Choose a labelled image first.")
        del self.examples[index]

    def remove_query(self, index: int) -> None:
        """Forget one image to segment; a result that it has already stays."""
        if not 0 <= index < len(self.queries):
            raise UsageError("Choose an image first.")
        self.queries.pop(index).path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything and stop a run."""
        self._stop.set()
        with self._lock:
            self.examples, self.queries = [], []
            self.answers, self.failures = [], []
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(exist_ok=True)

    def stop(self) -> None:
        """Ask a run to end after the image that it is at."""
        self._stop.set()

    def check_ready(self) -> None:
        """Refuse to run without an example or an image (UsageError), before a model is loaded."""
        if not self.examples:
            raise UsageError("Label at least one image first (step 1).")
        if not self.queries:
            raise UsageError("Add at least one image to segment first (step 2).")

    def run(self, model: FewShotSegmenter) -> Iterator[Step]:
        """Learn from the examples, then segment image by image; first yields with nothing done.

        Results of an earlier run are replaced. Stopped early, the images done so far have theirs.
        What the model was fitted on is not used and not changed.

        Raises:
            UsageError: There is no example, no image, or a run is going on already.
            MaskError: An example loses its object on the patch grid.
        """
        self.check_ready()
        if not self._busy.acquire(timeout=_PATIENCE if self._stop.is_set() else 0):
            raise UsageError("A run is going on already; wait for its end or stop it.")
        try:
            self._stop.clear()
            yield from self._run(model.unfitted(), list(self.examples), list(self.queries))
        finally:
            self._busy.release()

    def _run(
        self, segmenter: FewShotSegmenter, examples: Sequence[Example], queries: Sequence[Query]
    ) -> Iterator[Step]:
        yield Step(0, len(queries), None)
        with self._lock:
            for answer in self.answers:
                answer.scores_file.unlink(missing_ok=True)
            self.answers, self.failures = [], []
            self.threshold = segmenter.threshold
        for name in dict.fromkeys(example.class_name for example in examples):
            supports = [Support(e.image, e.mask) for e in examples if e.class_name == name]
            segmenter.fit(supports, name=name, max_pixels=self.limits.pixels)
        own = {str(query.path): query for query in queries}
        how = How(batch_size=1, max_pixels=self.limits.pixels)
        asked = (ToSegment(path, path) for path in own)
        start = monotonic()
        with closing(answers(segmenter, asked, self, how)) as entries:
            for done, entry in enumerate(entries, start=1):
                query = own[entry.path]
                if entry.reason is not None and query in self.queries:
                    self.failures.append(entry.reason.replace(entry.path, query.file_name))
                yield Step(done, len(queries), (monotonic() - start) / done * (len(queries) - done))
                if self._stop.is_set():
                    return

    def keep(self, query: ToSegment, result: Segmentation) -> Kept:
        """Store a result of a run: full scores on disk, a preview in memory."""
        own = next((one for one in list(self.queries) if str(one.path) == query.path), None)
        if own is None:  # removed meanwhile
            return {}, ()
        if result.image is None:
            raise UsageError("The result holds no image.")
        preview = preview_of(result, result.image, own.name).at_threshold(
            self.threshold, min_presence=self.min_presence
        )
        with self._lock:
            if own in self.queries and not self._closed:
                file = own.path.with_suffix(".npy")
                write_scores(result.score_maps, file)
                self.answers.append(Answer(own, preview, file))
        return {}, ()

    def answer(self, index: int) -> Answer:
        """The result number ``index``, from 0 (UsageError if there is none)."""
        if not 0 <= index < len(self.answers):
            raise UsageError("There is no such result; find the objects first (step 2).")
        return self.answers[index]

    def close(self) -> None:
        """Stop a run and delete all files of the session."""
        self._stop.set()
        with self._lock:
            self._closed = True
            shutil.rmtree(self.folder, ignore_errors=True)

    def _free_name(self, stem: str) -> str:
        """A name that no other query has: ``herd``, ``herd-2``, ``herd-3`` ..."""
        taken = {query.name.lower() for query in self.queries}
        names = chain([stem], (f"{stem}-{number}" for number in count(2)))
        return next(name for name in names if name.lower() not in taken)


class Sessions:
    """The sessions of all tabs and API clients, by user and session identifier.

    Tabs never mix, and abandoned ones are forgotten. Each session makes its folder in ``folder``;
    in ``browser`` gradio keeps what browsers sent and show, of all tabs together.
    """

    def __init__(self, folder: Path, limits: Limits, browser: Path | None = None) -> None:
        self._folder, self._browser = folder, browser
        self.limits = limits
        self._sessions: dict[tuple[str, str], AppSession] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many tabs are known."""
        return len(self._sessions)

    def of(self, user: str | None, identifier: str | None) -> AppSession:
        """The session of one tab (what it calls itself), made when first asked for.

        A UsageError if the request names no session, or there are too many.
        """
        if not identifier:
            raise UsageError("The request has no session_hash; call through gradio_client.")
        key, now = (user or "", identifier), monotonic()
        with self._lock:
            for other, session in list(self._sessions.items()):
                if now - session.used > _IDLE_SECONDS and not session.running:
                    self._sessions.pop(other).close()
            if key not in self._sessions:
                if len(self._sessions) >= _MOST_SESSIONS:
                    raise UsageError("Too many pages are open on this server; try again later.")
                folder = self._folder / secrets.token_hex(8)
                self._sessions[key] = AppSession(folder, self.limits)
            self._sessions[key].used = now
            return self._sessions[key]

    def close(self, user: str | None, identifier: str | None) -> None:
        """End the session of a tab that was closed; nothing happens if there is none."""
        with self._lock:
            session = self._sessions.pop((user or "", identifier or ""), None)
        if session is not None:
            session.close()
            self._forget_browser()

    def _forget_browser(self) -> None:
        """Delete what is older than every open tab: it was a closed one's."""
        if self._browser is None:
            return
        with self._lock:
            oldest = min((session.began for session in self._sessions.values()), default=None)
        for file in list(self._browser.rglob("*")):
            with suppress(OSError):  # gradio deletes, too
                if file.is_file() and (oldest is None or file.stat().st_mtime < oldest):
                    file.unlink()

    def close_all(self) -> None:
        """End all sessions and delete their files."""
        with self._lock:
            while self._sessions:
                self._sessions.popitem()[1].close()
