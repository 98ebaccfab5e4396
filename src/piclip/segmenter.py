"""Few-shot segmentation: fit on labelled images, predict masks for others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image

from piclip.clip.encoder import DEFAULT_MODEL, Encoder
from piclip.clip.hub import HubOptions
from piclip.clip.prompts import Synonyms, check_name
from piclip.errors import ModelError, PiclipError, UsageError
from piclip.io.bands import check_bands
from piclip.io.decoding import ImageSource
from piclip.io.documents import check_regular, read_json
from piclip.io.images import MAX_PIXELS, read_image, stem_of
from piclip.io.outputs import atomic_path, ensure_folder, write_json
from piclip.io.reading import Read, batches, read_ahead, sources
from piclip.io.supports import Support, read_labelled
from piclip.results import MAX_CLASSES, MIN_PRESENCE, Segmentation, check_limits, class_map_at
from piclip.scorer import Scored, Scorer
from piclip.training_free.scorer import EvidenceName, TrainingFreeScorer

if TYPE_CHECKING:
    from typing import Self

OnError: TypeAlias = Callable[[ImageSource, PiclipError], object]
"""Told of an image that has no result, and why."""

_Score: TypeAlias = Callable[[Sequence[Image.Image]], Sequence[Scored]]
_Answer: TypeAlias = tuple[ImageSource, tuple[Image.Image, Scored] | PiclipError]
"""An image with what is said of it, or why nothing is."""

_MOST_SHOTS = 50
_FORMAT = 3
_TENSORS, _INDEX = "memories.safetensors", "segmenter.json"


class FewShotSegmenter:
    """Segments classes that it was shown one to fifty labelled images of.

    A frozen CLIP does it without training; a decoder was trained on other classes.

    Examples:
        >>> from piclip import FewShotSegmenter, Support
        >>> from piclip.datasets.scenes import make_scene
        >>> shown, asked = make_scene(0, 0, include="cat"), make_scene(0, 1, include="cat")
        >>> segmenter = FewShotSegmenter.from_pretrained("builtin")
        >>> _ = segmenter.fit(Support(shown.image, shown.mask("cat")), name="cat")
        >>> segmenter.predict(asked.image)[0].mask.shape
        (128, 128)

    Args:
        scorer: A frozen CLIP, which scores without training, or another scorer;
            `from_pretrained` is the usual way to one.
        bands: Which bands of TIFF images, labelled and not, are red, green and blue, or one that
            is gray, counted from 1; by default those that a file says are its colours.

    Raises:
        UsageError: The bands are neither one nor three numbers.
    """

    def __init__(
        self, scorer: Encoder | Scorer[Any], *, bands: Sequence[int] | None = None
    ) -> None:
        self.bands = None if bands is None else check_bands(bands)
        self.scorer: Scorer[Any] = (
            TrainingFreeScorer(scorer) if isinstance(scorer, Encoder) else scorer
        )
        self._memories: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path = DEFAULT_MODEL,
        *,
        visual: str | Path | None = None,
        evidence: EvidenceName = "contrast",
        clip: str | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        bands: Sequence[int] | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Loads a CLIP, which scores without training, or a trained decoder.

        Args:
            name_or_folder: A CLIP: a hub name, a folder, a weights file, or ``"builtin"``
                (offline); photographs want the default. Or another ViT without texts, such as
                ``"facebook/dinov2-small"``: class names are then labels and no more. Or a decoder:
                the folder of a training (``piclip train``), or one written by a decoder's
                ``save_pretrained``.
            visual: Another ViT that compares images while the CLIP reads the names; a hub name or
                a folder, see `piclip.clip.towers`.
            evidence: "contrast" compares object and background of the supports, "published" takes
                PI-CLIP's own priors; not for a decoder.
            clip: The CLIP whose priors a decoder takes; by default that of its training. Must be
                given where the folder does not say which that was.
            device: "auto" (CUDA, else MPS, else CPU; a decoder does not run on MPS) or a torch
                device.
            dtype: Of the CLIP: "float32", "bfloat16", "float16", a torch dtype, or "auto"; with a
                decoder, "auto" is what it was trained with.
            bands: As of the class, such as ``(4, 3, 2)``.
            revision: Branch, tag or commit of a CLIP on the hub.
            cache_dir: Where models from the hub are kept; by default the hub's own cache.
            local_files_only: Whether to use what is on this computer alone.

        Raises:
            ModelError: The model cannot be found, downloaded or read.
            UsageError: An unknown device or dtype, a decoder without its CLIP, or ``clip`` where
                there is no decoder.
        """
        from piclip.decoders.saved import holds_decoder  # noqa: PLC0415

        hub: HubOptions = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
        }
        if str(name_or_folder) != "builtin" and holds_decoder(name_or_folder):
            from piclip.decoders.scorer import DecoderScorer  # noqa: PLC0415

            if visual is not None or evidence != "contrast":
                raise UsageError(
                    f"{name_or_folder} is a trained decoder, which has its own backbone and "
                    f"priors; leave visual and evidence out."
                )
            return cls(
                DecoderScorer.load(name_or_folder, clip=clip, device=device, dtype=dtype, **hub),
                bands=bands,
            )
        if clip is not None:
            raise UsageError(
                f"{name_or_folder} is no decoder but taken as a CLIP itself; leave clip out."
            )
        scorer = TrainingFreeScorer.load(
            name_or_folder, visual=visual, evidence=evidence, device=device, dtype=dtype, **hub
        )
        return cls(scorer, bands=bands)

    @property
    def encoder(self) -> Encoder:
        """The frozen CLIP that scores without training.

        Raises:
            UsageError: A trained decoder scores, or a ViT without texts.
        """
        encoder = getattr(self.scorer, "encoder", None)
        if not isinstance(encoder, Encoder):
            raise UsageError(
                "This works with a CLIP and without training only, but the model is a trained "
                "decoder or reads no names; give a CLIP."
            )
        return encoder

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.scorer.device

    def to(self, device: str | torch.device) -> Self:
        """Moves the model and what was learned, in place.

        Args:
            device: As in `from_pretrained`. Segmenters of one model (`unfitted`) share it: fit
                the others again.

        Returns:
            Itself.

        Raises:
            UsageError: There is no such device here.
        """
        kept = {name: self.scorer.tensors(memory) for name, memory in self._memories.items()}
        self.scorer.to(device)
        self._memories = {name: self.scorer.restore(name, kept[name]) for name in kept}
        return self

    @property
    def threshold(self) -> float:
        """Least score of a class, 0 to 1, where `predict` is asked for no other."""
        return self.scorer.threshold

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes learned so far, in the order in which they were shown."""
        return tuple(self._memories)

    def unfitted(self) -> Self:
        """A segmenter with the same model that has learned nothing yet."""
        return type(self)(self.scorer, bands=self.bands)

    def fit(
        self,
        supports: Support | Iterable[Support] | Mapping[str, Support | Iterable[Support]],
        *,
        name: str | None = None,
        negatives: ImageSource | Iterable[ImageSource] = (),
        synonyms: Synonyms | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Self:
        """Learns one class, or several; what was learned before is kept, the same name replaced.

        The supports are encoded once, and what was made of them is kept. Without training, their
        masks also say how far the name is believed.

        Args:
            supports: 1 to 50 labelled images of the class ``name``, or a mapping from class names
                to such.
            name: What the class is called in words, e.g. "zebra"; not with a mapping.
            negatives: Images without any of these classes: they are background, and an image must
                be surer to hold a class than they are. Not for a trained decoder or the published
                priors.
            synonyms: Other wordings by class name, for example
                ``piclip.clip.prompts.synonym_table("voc")``.
            max_pixels: Larger images are refused.

        Returns:
            Itself, so that calls can be chained.

        Raises:
            UsageError: No support, too many, something else than a support, no name, more than 254
                classes, or negatives for a trained decoder or the published priors.
            ImageError: A support's image cannot be read.
            MaskError: A support's mask is empty or of another size than its image.
        """
        read = partial(read_image, max_pixels=max_pixels, bands=self.bands)
        labelled = partial(read_labelled, max_pixels=max_pixels, bands=self.bands)
        without = list(sources(negatives))
        if without and not self.scorer.takes_negatives:
            raise UsageError(
                "A trained decoder and the published priors learn from no negatives; leave them "
                "out, or take a CLIP with evidence='contrast'."
            )
        named = _named(supports, name)
        if len(self._memories | named) > MAX_CLASSES:
            raise UsageError(
                f"A segmenter learns at most {MAX_CLASSES} classes; share them among several."
            )
        self._memories |= {
            class_name: self.scorer.fit(
                class_name, map(labelled, examples), negatives=map(read, without), synonyms=synonyms
            )
            for class_name, examples in named.items()
        }
        return self

    def forget(self, name: str) -> Self:
        """Forgets one class.

        Raises:
            UsageError: It was not learned.
        """
        if name not in self._memories:
            known = ", ".join(self._memories) or "none yet"
            raise UsageError(f"There is no class {name!r} to forget; those learned are: {known}.")
        del self._memories[name]
        return self

    def reset(self) -> Self:
        """Forgets all classes."""
        self._memories.clear()
        return self

    def recall(self, other: FewShotSegmenter, name: str) -> Self:
        """Takes over what another segmenter of the same model has learned of a class.

        Raises:
            UsageError: It has not learned the class, or has another model.
        """
        if other.scorer is not self.scorer or name not in other.classes:
            raise UsageError(
                f"What was learned of {name!r} can only be taken from a segmenter with the same "
                f"model that has learned it."
            )
        self._memories[name] = other._memories[name]
        return self

    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        on_error: OnError | None = None,
        batch_size: int = 8,
        threshold: float | None = None,
        min_presence: float = MIN_PRESENCE,
        contrast: str | Sequence[str] = (),
        synonyms: Synonyms | None = None,
        mirror: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Segmentation]:
        """Segments one image or many; every pixel goes to its best class or to the background.

        Args:
            images: A file, a Pillow image or an array (H, W, 3), or any iterable of them.
            on_error: Called with an image that has no result and the reason; the others go on.
                Without it the first such image ends the call with its error.
            batch_size: How many images of one shape are encoded together.
            threshold: Least score of a class, 0 to 1; by default what the model is set to.
            min_presence: A class that is less likely to be in an image gets no pixel of it, 0 to
                1; 0 draws whatever scores high enough.
            contrast: Names of other things in the images that the text prior should tell the
                classes from. By default each class meets only its own absence, as in the paper. A
                decoder without text prior takes none.
            synonyms: Other wordings of these names, as `fit` takes them; a class that was fitted
                keeps those that it was fitted with.
            mirror: Also look at every image in a mirror and average, at twice the time.
            max_pixels: Larger images are refused.

        Returns:
            One result per image, in order, at the image's own size, named after its file or
            its number.

        Raises:
            UsageError: Nothing was fitted yet, an argument is out of range, or something is given
                that is no image.
            ImageError: An image cannot be read.
        """
        return list(
            self.stream(
                images,
                on_error=on_error,
                batch_size=batch_size,
                threshold=threshold,
                min_presence=min_presence,
                contrast=contrast,
                synonyms=synonyms,
                mirror=mirror,
                max_pixels=max_pixels,
            )
        )

    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        on_error: OnError | None = None,
        batch_size: int = 8,
        threshold: float | None = None,
        min_presence: float = MIN_PRESENCE,
        contrast: str | Sequence[str] = (),
        synonyms: Synonyms | None = None,
        mirror: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Segmentation]:
        """As `predict`, result by result as they come, in memory that does not grow.

        The next images are read while the present ones are segmented. ``on_error`` is called in
        the order of the images too, so results and errors together tell where one is.
        """
        if not self._memories:
            raise UsageError("The segmenter has seen no labelled image; call fit first.")
        whole = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
        if not whole or batch_size < 1:
            raise UsageError(
                f"The batch size must be a whole number from 1 on, not {batch_size!r}."
            )
        threshold = self.threshold if threshold is None else threshold
        check_limits(threshold, min_presence)
        names = self.classes
        score = partial(
            self.scorer.score,
            memories=list(self._memories.values()),
            contrast=(contrast,) if isinstance(contrast, str) else tuple(contrast),
            synonyms=synonyms,
            mirror=mirror,
        )
        read = partial(read_image, max_pixels=max_pixels, bands=self.bands)
        read_on = read_ahead(sources(images), read, batch_size)

        def results() -> Iterator[Segmentation]:
            answers = _answers(batches(read_on, batch_size), score)
            for number, (source, found) in enumerate(answers):
                if isinstance(found, PiclipError):
                    if on_error is None:
                        raise found
                    on_error(source, found)
                    continue
                image, (scores, priors, presence) = found
                class_map = class_map_at(scores, threshold, presence, min_presence)
                file = str(source) if isinstance(source, str | Path) else None
                name = f"{number:05d}" if file is None else stem_of(file)
                yield Segmentation(names, class_map, scores, priors, image, name, file, presence)

        return results()

    def save(self, folder: str | Path) -> Path:
        """Writes what was learned as safetensors and JSON; the model itself is not copied.

        Returns:
            The folder.

        Raises:
            OutputError: The folder cannot be written.
        """
        from safetensors.torch import save_file  # noqa: PLC0415

        folder = ensure_folder(folder)
        tensors = {
            f"{number}.{field}": tensor.contiguous().cpu()
            for number, memory in enumerate(self._memories.values())
            for field, tensor in self.scorer.tensors(memory).items()
        }
        index = {"format": _FORMAT, **self.scorer.identity(), "classes": list(self.classes)}
        if self.bands is not None:
            index["bands"] = list(self.bands)
        with atomic_path(folder / _TENSORS) as path:  # neither is replaced where one cannot be
            save_file(tensors, path)
            write_json(index, folder / _INDEX)
        return folder

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Reads what `save` wrote, with the same model; arguments as in `from_pretrained`.

        Raises:
            ModelError: The folder holds no saved segmenter, or its model cannot be had.
            UsageError: An unknown device or dtype.
        """
        from safetensors import SafetensorError  # noqa: PLC0415
        from safetensors.torch import load_file  # noqa: PLC0415

        folder = Path(folder)
        try:
            index = read_json(folder / _INDEX)
            check_regular(folder / _TENSORS)
            tensors = load_file(folder / _TENSORS)
            segmenter = cls.from_pretrained(
                index["model"],
                visual=index.get("visual"),
                evidence=index.get("evidence", "contrast"),
                clip=index.get("clip"),
                device=device,
                dtype=dtype,
                bands=index.get("bands"),
                revision=index.get("revision"),
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
            identity = segmenter.scorer.identity()
            if index["format"] != _FORMAT or any(index[key] != identity[key] for key in identity):
                raise ModelError(
                    f"The segmenter in {folder} was saved by another version or for another model; "
                    f"fit it again."
                )
            for number, name in enumerate(index["classes"]):
                prefix = f"{number}."
                # Cloned: where a tensor lies in the file decides which way its sums are rounded.
                own = {
                    k.removeprefix(prefix): t.clone()
                    for k, t in tensors.items()
                    if k.startswith(prefix)
                }
                segmenter._memories[name] = segmenter.scorer.restore(name, own)
        except UsageError:  # a ValueError, too, but of the call's own arguments
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(
                f"{folder} holds no complete saved segmenter ({_INDEX} and {_TENSORS}); save it "
                f"again."
            ) from error
        return segmenter


def _named(
    supports: Support | Iterable[Support] | Mapping[str, Support | Iterable[Support]],
    name: str | None,
) -> dict[str, list[Support]]:
    """Supports by class, checked."""
    if isinstance(supports, Mapping):
        if name is not None:
            raise UsageError("A mapping of supports names its classes itself; leave name out.")
        by_name = supports
    elif name is None:
        raise UsageError("The class needs a name in words, such as name='zebra'.")
    else:
        by_name = {name: supports}
    if not by_name:
        raise UsageError("There is no class to learn; give a mapping from its name to supports.")
    named = {}
    for class_name, given in by_name.items():
        check_name(class_name)
        examples = list(given) if isinstance(given, Iterable) else [given]
        if wrong := [one for one in examples if not isinstance(one, Support)]:
            raise UsageError(
                f"The class '{class_name}' is learned from piclip.Support(image, mask), one or "
                f"many, not from {type(wrong[0]).__name__}."
            )
        if not 1 <= len(examples) <= _MOST_SHOTS:
            raise UsageError(
                f"The class '{class_name}' has {len(examples)} labelled images; give 1 to "
                f"{_MOST_SHOTS}."
            )
        named[class_name] = examples
    return named


def _answers(groups: Iterable[Sequence[Read]], score: _Score) -> Iterator[_Answer]:
    for batch in groups:
        scored = iter(_scored([i for _, i in batch if isinstance(i, Image.Image)], score))
        for source, image in batch:
            yield source, image if isinstance(image, PiclipError) else next(scored)


def _scored(
    images: Sequence[Image.Image], score: _Score
) -> Sequence[tuple[Image.Image, Scored] | PiclipError]:
    """Images with their scores, or why they have none: one that fails does not spoil the others."""
    try:
        return list(zip(images, score(images), strict=True))
    except UsageError:
        raise
    except PiclipError as error:
        if len(images) == 1:
            return [error]
        return [_scored([image], score)[0] for image in images]
