"""Few-shot segmentation: fit on labelled images, predict masks for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from piclip.clip.encoder import DEFAULT_MODEL, Encoder
from piclip.clip.prompts import Synonyms
from piclip.errors import UsageError
from piclip.io.decoding import ImageSource
from piclip.io.images import MAX_PIXELS, read_image
from piclip.io.supports import Support
from piclip.results import Segmentation
from piclip.scorer import Memory, Scorer
from piclip.training_free.scorer import ClipScorer

_MOST_SHOTS = 50


class FewShotSegmenter:
    """Segments classes that it was shown one to fifty labelled images of.

    A frozen CLIP does it without training; a decoder was trained on other classes.

    Example:
        >>> from piclip import FewShotSegmenter, Support
        >>> from piclip.datasets.scenes import make_scene
        >>> shown, asked = make_scene(0, 0, include="cat"), make_scene(0, 1, include="cat")
        >>> segmenter = FewShotSegmenter.from_pretrained("builtin")
        >>> _ = segmenter.fit([Support(shown.image, shown.mask("cat"))], name="cat")
        >>> segmenter.predict([asked.image])[0].mask.shape
        (128, 128)
    """

    def __init__(self, scorer: Encoder | Scorer[Any]) -> None:
        """Wraps what scores; `from_pretrained` is the usual way to one.

        Args:
            scorer: A frozen CLIP, which scores without training, or another scorer.
        """
        self.scorer: Scorer[Any] = ClipScorer(scorer) if isinstance(scorer, Encoder) else scorer
        self.memories: dict[str, Memory] = {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path = DEFAULT_MODEL,
        *,
        clip: str | None = None,
        device: str | torch.device = "auto",
        dtype: str = "auto",
    ) -> FewShotSegmenter:
        """Loads a CLIP, which scores without training, or a trained decoder.

        Args:
            name_or_folder: A CLIP: a hub name, a folder, a weights file, or ``"builtin"``
                (offline); photographs want the default. Or a decoder: the folder of a training
                (``piclip train``), or one written by a decoder's ``save_pretrained``.
            clip: The CLIP whose priors a decoder takes; by default that of its training. Must be
                given where the folder does not say which that was.
            device: "auto" (CUDA, else MPS, else CPU; a decoder does not run on MPS) or a torch
                device.
            dtype: Of the CLIP: "float32", "bfloat16", "float16" or "auto"; with a decoder, "auto"
                is what it was trained with.

        Raises:
            ModelError: The model cannot be found, downloaded or read.
            UsageError: An unknown device or dtype, a decoder without its CLIP, or ``clip`` where
                there is no decoder.
        """
        from piclip.decoders.saved import holds_decoder  # noqa: PLC0415

        if str(name_or_folder) != "builtin" and holds_decoder(name_or_folder):
            from piclip.decoders.scorer import DecoderScorer  # noqa: PLC0415

            return cls(DecoderScorer.load(name_or_folder, clip=clip, device=device, dtype=dtype))
        if clip is not None:
            raise UsageError(
                f"{name_or_folder} is no decoder but taken as a CLIP itself; leave clip out."
            )
        return cls(Encoder.from_pretrained(name_or_folder, device=device, dtype=dtype))

    @property
    def encoder(self) -> Encoder:
        """The frozen CLIP that scores without training.

        Raises:
            UsageError: A trained decoder scores.
        """
        if not isinstance(self.scorer, ClipScorer):
            raise UsageError(
                "This works without training only, but the model is a trained decoder; give a CLIP."
            )
        return self.scorer.encoder

    @property
    def threshold(self) -> float:
        """Least score of a class, 0 to 1, where `predict` is asked for no other."""
        return self.scorer.threshold

    def unfitted(self) -> FewShotSegmenter:
        """A segmenter with the same model that has learned nothing yet."""
        return FewShotSegmenter(self.scorer)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes learned so far, in the order in which they were shown."""
        return tuple(self.memories)

    def fit(
        self,
        supports: Sequence[Support] | Mapping[str, Sequence[Support]],
        *,
        name: str | None = None,
        synonyms: Synonyms | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> FewShotSegmenter:
        """Learns one class, or several; what was learned before is kept, the same name replaced.

        The supports are encoded once, and what was made of them is kept. Without training, their
        masks also set how much each prior counts.

        Args:
            supports: 1 to 50 labelled images of the class ``name``, or a mapping from class names
                to such lists.
            name: What the class is called in words, e.g. "zebra"; not with a mapping.
            synonyms: Other wordings by class name, for example
                ``piclip.clip.prompts.synonym_table("voc")``.
            max_pixels: Larger images are refused.

        Returns:
            Itself, so that calls can be chained.

        Raises:
            UsageError: No support, too many, or no name.
            ImageError: A support's image cannot be read.
            MaskError: A support's mask is empty or of another size than its image.
        """
        learned = {}
        for class_name, examples in _named(supports, name).items():
            if not 1 <= len(examples) <= _MOST_SHOTS:
                raise UsageError(
                    f"The class '{class_name}' has {len(examples)} labelled images; give 1 to "
                    f"{_MOST_SHOTS}."
                )
            learned[class_name] = self.scorer.learn(
                class_name, examples, synonyms=synonyms, max_pixels=max_pixels
            )
        self.memories.update(learned)
        return self

    def predict(
        self,
        images: Sequence[ImageSource],
        *,
        batch_size: int = 8,
        threshold: float | None = None,
        contrast: Sequence[str] = (),
        synonyms: Synonyms | None = None,
        mirror: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Segmentation]:
        """Segments images; every pixel goes to its best class or to the background.

        Args:
            images: Files, Pillow images or RGB arrays.
            batch_size: How many images of one shape are encoded together.
            threshold: Least score of a class, 0 to 1; by default what the model is set to.
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
            UsageError: Nothing was fitted yet, or an argument is out of range.
            ImageError: An image cannot be read.
        """
        if not self.memories:
            raise UsageError("The segmenter has seen no labelled image; call fit first.")
        if batch_size < 1:
            raise UsageError(f"The batch size must be 1 or more, not {batch_size}.")
        if threshold is None:
            threshold = self.threshold
        read = [read_image(image, max_pixels=max_pixels) for image in images]
        scored = self.scorer.score(
            read,
            list(self.memories.values()),
            contrast=contrast,
            synonyms=synonyms,
            mirror=mirror,
            batch_size=batch_size,
        )
        results = []
        for number, (image, found) in enumerate(zip(read, scored, strict=True)):
            blank = np.zeros((image.height, image.width), dtype=np.uint8)
            name = _name_of(images[number], number)
            segmentation = Segmentation(
                self.class_names, blank, found.scores, found.priors, image, name
            )
            results.append(segmentation.at_threshold(threshold))
        return results

    def save(self, folder: str | Path) -> Path:
        """Writes what was learned as safetensors and JSON; the model itself is not copied."""
        from piclip.persistence import save_memories  # noqa: PLC0415

        return save_memories(self, Path(folder))

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str | torch.device = "auto", dtype: str = "auto"
    ) -> FewShotSegmenter:
        """Reads what `save` wrote, with the same model.

        Raises:
            ModelError: The folder holds no saved segmenter, or its model cannot be had.
        """
        from piclip.persistence import load_segmenter  # noqa: PLC0415

        return load_segmenter(Path(folder), device=device, dtype=dtype)


def _named(
    supports: Sequence[Support] | Mapping[str, Sequence[Support]], name: str | None
) -> Mapping[str, Sequence[Support]]:
    if isinstance(supports, Mapping):
        if name is not None:
            raise UsageError("A mapping of supports names its classes itself; leave name out.")
        return supports
    if name is None:
        raise UsageError("The class needs a name in words, such as name='zebra'.")
    return {name: supports}


def _name_of(source: ImageSource, index: int) -> str:
    return Path(source).stem if isinstance(source, str | Path) else f"{index:05d}"
