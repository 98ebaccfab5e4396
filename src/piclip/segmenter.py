"""Training-free few-shot segmentation: fit on labelled images, predict masks for others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.clip.encoder import DEFAULT_MODEL, Encoder
from piclip.clip.preprocessing import fit_size, to_pixels
from piclip.clip.prompts import Synonyms, text_prototypes
from piclip.decoding import ImageSource
from piclip.errors import UsageError
from piclip.evidence import Evidence, fuse_classes, gather_evidence
from piclip.images import MAX_PIXELS, read_image
from piclip.learning import learn_class
from piclip.results import Priors, Segmentation
from piclip.supports import ClassMemory, Support, read_support
from piclip.upsampling import edge_aware_upsample

_MOST_SHOTS = 50


class FewShotSegmenter:
    """Segments classes that it was shown one to fifty labelled images of, without training.

    Example:
        >>> from piclip import FewShotSegmenter, Support
        >>> from piclip.datasets.scenes import make_scene
        >>> shown, asked = make_scene(0, 0, include="cat"), make_scene(0, 1, include="cat")
        >>> segmenter = FewShotSegmenter.from_pretrained("builtin")
        >>> _ = segmenter.fit([Support(shown.image, shown.mask("cat"))], name="cat")
        >>> segmenter.predict([asked.image])[0].mask.shape
        (128, 128)
    """

    def __init__(self, encoder: Encoder) -> None:
        """Wraps a frozen encoder; `from_pretrained` is the usual way to one."""
        self.encoder = encoder
        self.memories: dict[str, ClassMemory] = {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path = DEFAULT_MODEL,
        *,
        device: str | torch.device = "auto",
        dtype: str = "auto",
    ) -> FewShotSegmenter:
        """Loads a CLIP: a hub name, a folder, a weights file, or ``"builtin"`` (offline).

        Args:
            name_or_folder: Which CLIP; photographs want the default.
            device: "auto" (CUDA, else MPS, else CPU) or a torch device.
            dtype: "float32", "bfloat16", "float16" or "auto".

        Raises:
            ModelError: The model cannot be found, downloaded or read.
            UsageError: An unknown device or dtype.
        """
        return cls(Encoder.from_pretrained(name_or_folder, device=device, dtype=dtype))

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

        The supports are encoded once. Their masks also set how much each prior counts.

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
            images = [read_support(s, self.encoder, max_pixels=max_pixels) for s in examples]
            texts = text_prototypes(self.encoder.encode_text, [class_name], synonyms)
            foreground, background = (text[0].to(self.encoder.device) for text in texts)
            learned[class_name] = learn_class(
                self.encoder, class_name, images, foreground, background
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
        mirror: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Segmentation]:
        """Segments images; every pixel goes to its best class or to the background.

        Args:
            images: Files, Pillow images or RGB arrays.
            batch_size: How many images of one shape are encoded together.
            threshold: Least score of a class, 0 to 1; by default what the model is set to.
            contrast: Names of other things in the images that the text prior should tell the
                classes from. By default each class meets only its own absence, as in the paper.
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
            threshold = self.encoder.settings.threshold
        texts = self._contrast_texts(contrast)
        results: list[Segmentation | None] = [None] * len(images)
        read = [read_image(image, max_pixels=max_pixels) for image in images]
        for indices, size in self._batches(read, batch_size):
            batch = [read[i] for i in indices]
            for i, result in zip(indices, self._segment(batch, size, texts, mirror), strict=True):
                scores, priors = result
                name = _name_of(images[i], i)
                blank = np.zeros(scores.shape[1:], dtype=np.uint8)
                segmentation = Segmentation(
                    self.class_names, blank, scores, priors, read[i], name
                ).at_threshold(threshold)
                results[i] = segmentation
        return [result for result in results if result is not None]

    def save(self, folder: str | Path) -> Path:
        """Writes what was learned as safetensors and JSON; the CLIP itself is not copied."""
        from piclip.persistence import save_memories  # noqa: PLC0415

        return save_memories(self, Path(folder))

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str | torch.device = "auto", dtype: str = "auto"
    ) -> FewShotSegmenter:
        """Reads what `save` wrote, with the same CLIP.

        Raises:
            ModelError: The folder holds no saved segmenter, or its CLIP cannot be had.
        """
        from piclip.persistence import load_segmenter  # noqa: PLC0415

        return load_segmenter(Path(folder), device=device, dtype=dtype)

    def _contrast_texts(self, names: Sequence[str]) -> Tensor | None:
        if not names:
            return None
        texts = text_prototypes(self.encoder.encode_text, list(names))
        return torch.cat(texts).to(self.encoder.device)

    def _batches(
        self, images: Sequence[Image.Image], batch_size: int
    ) -> Iterator[tuple[list[int], tuple[int, int]]]:
        """Indices of images that share an input size, at most ``batch_size`` at a time."""
        groups: dict[tuple[int, int], list[int]] = {}
        encoder = self.encoder
        for index, image in enumerate(images):
            size = fit_size(
                image.height, image.width, image_size=encoder.image_size, patch=encoder.patch_size
            )
            groups.setdefault(size, []).append(index)
        for size, indices in groups.items():
            for start in range(0, len(indices), batch_size):
                yield indices[start : start + batch_size], size

    @torch.inference_mode()
    def _segment(
        self,
        images: Sequence[Image.Image],
        size: tuple[int, int],
        contrast: Tensor | None,
        mirror: bool,
    ) -> Iterator[tuple[NDArray[np.float32], Priors]]:
        """Scores (C, H, W) at each image's own size, and the priors."""
        encoder, memories = self.encoder, list(self.memories.values())
        settings = encoder.settings
        pixels = torch.stack([to_pixels(i, size, settings.mean, settings.std) for i in images])
        seen = torch.cat([pixels, pixels.flip(-1)]) if mirror else pixels
        encoding = encoder.encode(seen)
        evidence = gather_evidence(
            encoding, memories, logit_scale=encoder.logit_scale, contrast=contrast
        )
        fused = fuse_classes(evidence, memories, encoding.attention)
        if mirror:
            direct, reflected = fused.chunk(2)
            fused = (direct + reflected.flip(-1)) / 2
        colours = _unit_colours(pixels, settings.mean, settings.std).to(encoder.device)
        scores = edge_aware_upsample(fused, colours)
        for index, image in enumerate(images):
            own = F.interpolate(
                scores[index, None],
                size=(image.height, image.width),
                mode="bilinear",
                align_corners=False,
            )
            yield own[0].clamp(0, 1).cpu().numpy(), _priors(evidence, fused, index)


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


def _unit_colours(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised pixels back in [0, 1]."""
    shape = (3, 1, 1)
    return pixels * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)


def _priors(evidence: Sequence[Evidence], fused: Tensor, index: int) -> Priors:
    def array(maps: Tensor) -> NDArray[np.float32]:
        return maps.clamp(0, 1).float().cpu().numpy()

    def stack(field: str) -> NDArray[np.float32]:
        return array(torch.stack([getattr(item, field)[index] for item in evidence]))

    return Priors(
        visual_text=stack("visual_text"),
        visual_text_refined=stack("visual_text_refined"),
        visual_visual=stack("visual_visual"),
        visual_visual_refined=stack("visual_visual_refined"),
        fused=array(fused[index]),
    )
