"""What one browser tab has: labelled examples, images to segment, results. No page code here."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

import numpy as np

from piclip.app.content import Answer, Example, Limits, Progress, Query
from piclip.app.pictures import PREVIEW_PIXELS, THUMBNAIL_PIXELS, fit_maps, fit_picture
from piclip.clip.encoder import Encoder
from piclip.errors import ImageError, PiclipError, UsageError
from piclip.io.decoding import ImageSource
from piclip.io.images import read_image, read_mask
from piclip.io.supports import Support
from piclip.results import Segmentation
from piclip.segmenter import FewShotSegmenter

_LONGEST_NAME = 60
_PATIENCE = 60.0  # seconds that a stopped run has to finish the image it is at


class AppSession:
    """The work of one browser tab. Results stay on disk in its folder, which `close` removes."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        """Starts empty.

        Args:
            folder: Made here; the session owns it.
            limits: What to refuse.
        """
        folder.mkdir(parents=True)
        self.folder = folder
        self.limits = limits
        self.examples: list[Example] = []
        self.queries: list[Query] = []
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self.threshold = 0.5
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

    def add_example(self, image: ImageSource, mask: ImageSource, class_name: str) -> Example:
        """Add a labelled image.

        Args:
            image: The image.
            mask: Where the class is, of the same size.
            class_name: In words, such as "zebra".

        Raises:
            UsageError: No usable name, or too many examples, classes or pixels.
            ImageError: The image cannot be read.
            MaskError: The mask is empty or of another size.
        """
        name = " ".join(class_name.split())
        if not name:
            raise UsageError("Name what you marked, in a word or two, such as zebra.")
        if len(name) > _LONGEST_NAME:
            raise UsageError(f"The class name is longer than {_LONGEST_NAME} letters; shorten it.")
        if len(self.examples) >= self.limits.examples:
            raise UsageError(
                f"This page takes {self.limits.examples} labelled images; remove some first."
            )
        if len({*self.class_names, name}) > self.limits.classes:
            raise UsageError(f"This page takes {self.limits.classes} classes; remove one first.")
        picture = read_image(image, max_pixels=self.limits.pixels)
        size = (picture.height, picture.width)
        marked = read_mask(mask, size=size, max_pixels=self.limits.pixels)
        if sum(e.mask.size for e in self.examples) + marked.size > self.limits.labelled_pixels:
            raise UsageError(
                f"This page takes {self.limits.labelled_pixels / 1e6:.0f} million pixels of "
                f"labelled images; remove some first or use smaller copies."
            )
        example = Example(name, picture, marked)
        self.examples.append(example)
        return example

    def add_query(self, path: Path, file_name: str | None = None) -> Query:
        """Add an image to segment; it is read once to be sure and copied.

        Args:
            path: The image file.
            file_name: What its owner calls it, if not as the file.

        Raises:
            UsageError: There are too many images.
            ImageError: The image cannot be read.
        """
        if len(self.queries) >= self.limits.images:
            raise UsageError(
                f"This page takes {self.limits.images} images at a time; use `piclip segment` for "
                f"whole folders."
            )
        shown = Path(file_name or path.name).name
        try:
            image = read_image(path, max_pixels=self.limits.pixels)
        except ImageError as error:
            raise ImageError(str(error).replace(str(path), shown)) from error
        thumbnail = fit_picture(image, THUMBNAIL_PIXELS)
        with self._lock:
            if self._closed:
                raise UsageError("This page was closed; load it again.")
            self._count += 1
            own = self.folder / f"image-{self._count}{path.suffix.lower()}"
            shutil.copyfile(path, own)
            name = self._free_name(Path(shown).stem)
            query = Query(name + Path(shown).suffix, name, own, thumbnail)
            self.queries.append(query)
        return query

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

    def run(self, encoder: Encoder) -> Iterator[Progress]:
        """Learn from the examples, then segment image by image.

        Results of an earlier run are replaced. Stopped early, the images done so far have theirs.

        Args:
            encoder: The CLIP.

        Yields:
            The progress, first with nothing done.

        Raises:
            UsageError: There is no example, no image, or a run is going on already.
            MaskError: An example loses its object on the patch grid.
        """
        self.check_ready()
        if not self._busy.acquire(timeout=_PATIENCE if self._stop.is_set() else 0):
            raise UsageError("A run is going on already; wait for its end or stop it.")
        try:
            self._stop.clear()
            yield from self._run(encoder, list(self.queries))
        finally:
            self._busy.release()

    def _run(self, encoder: Encoder, queries: Sequence[Query]) -> Iterator[Progress]:
        yield Progress(0, len(queries), None)
        segmenter = FewShotSegmenter(encoder)
        examples = list(self.examples)
        with self._lock:
            self._forget_answers()
            self.threshold = encoder.settings.threshold
        for name in dict.fromkeys(example.class_name for example in examples):
            supports = [Support(e.image, e.mask) for e in examples if e.class_name == name]
            segmenter.fit(supports, name=name, max_pixels=self.limits.pixels)
        start = monotonic()
        for done, query in enumerate(queries, start=1):
            if self._stop.is_set():
                return
            try:
                result = segmenter.predict([query.path], max_pixels=self.limits.pixels)[0]
            except PiclipError as error:
                if query in self.queries:
                    self.failures.append(str(error).replace(str(query.path), query.file_name))
            else:
                self._keep(query, result)
            left = (monotonic() - start) / done * (len(queries) - done)
            yield Progress(done, len(queries), left)

    def _keep(self, query: Query, result: Segmentation) -> None:
        """Store a result: full scores on disk, a preview in memory."""
        if result.image is None:
            raise UsageError("The result holds no image.")
        image = fit_picture(result.image, PREVIEW_PIXELS)
        scores = fit_maps(result.scores, (image.height, image.width))
        blank = np.zeros(scores.shape[1:], dtype=np.uint8)
        preview = Segmentation(
            result.class_names, blank, scores, result.priors, image, query.name
        ).at_threshold(self.threshold)
        with self._lock:
            if self._closed or query not in self.queries:
                return
            file = query.path.with_suffix(".npy")
            np.save(file, result.scores.astype(np.float16))
            self.answers.append(Answer(query, preview, file))

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

    def _forget_answers(self) -> None:
        for answer in self.answers:
            answer.scores_file.unlink(missing_ok=True)
        self.answers, self.failures = [], []

    def _free_name(self, stem: str) -> str:
        """A name that no other query has: ``herd``, ``herd-2``, ``herd-3`` ..."""
        taken = {query.name.lower() for query in self.queries}
        name, number = stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}"
        return name
