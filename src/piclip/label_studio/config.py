"""What a project's labelling configuration says about where regions go."""

from __future__ import annotations

from dataclasses import dataclass

from piclip.errors import UsageError
from piclip.formats.extras import library

_GEOMETRIES = ("brushlabels", "polygonlabels")
"""The tags that label regions as masks, the better one first."""

_ADVICE = (
    "the labelling interface needs an <Image> whose value is a field such as $image, and "
    "<BrushLabels> or <PolygonLabels> for it"
)


@dataclass(frozen=True)
class Control:
    """A tag with which people label regions.

    Attributes:
        kind: "brushlabels" or "polygonlabels".
        name: How results call it (``from_name``).
        class_names: The labels that it offers; None if each task brings its own.
    """

    kind: str
    name: str
    class_names: tuple[str, ...] | None


@dataclass(frozen=True)
class LabellingConfig:
    """How the images of a project are labelled.

    Attributes:
        field: Where in a task's data the image's address is.
        image: How results call the image (``to_name``).
        controls: The tags that label it, brushes first.
    """

    field: str
    image: str
    controls: tuple[Control, ...]

    def control_for(self, class_name: str) -> Control | None:
        """The tag for regions of a class, a brush if there is one; None for an unknown class."""
        for control in self.controls:
            if control.class_names is None or class_name in control.class_names:
                return control
        return None


def parse_config(xml: str) -> LabellingConfig:
    """Read a labelling configuration.

    Args:
        xml: As Label Studio sends it.

    Returns:
        Of the first image that regions can be drawn on, and all tags for it.

    Raises:
        UsageError: This is no XML, or nothing in it labels regions of an image.
    """
    interface = library("label_studio_sdk.label_interface").LabelInterface
    try:
        tags = list(interface(xml).controls)
    except Exception as error:  # the SDK raises anything on a broken configuration
        raise UsageError(f"The labelling configuration cannot be read: {_ADVICE}.") from error
    found = sorted(
        (_GEOMETRIES.index(tag.tag.lower()), target.name, tag, target)
        for tag in tags
        if tag.tag.lower() in _GEOMETRIES
        for target in tag.objects
        if target.tag.lower() == "image" and target.value_is_variable
    )
    if not found:
        raise UsageError(f"Regions cannot be proposed for this project: {_ADVICE}.")
    target = found[0][-1]
    controls = tuple(
        Control(tag.tag.lower(), tag.name, None if tag.dynamic_value else tuple(tag.labels))
        for *_, tag, other in found
        if other.name == target.name
    )
    return LabellingConfig(target.value_name, target.name, controls)
