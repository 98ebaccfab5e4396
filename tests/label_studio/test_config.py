"""Labelling configurations: where regions go."""

import pytest

from piclip.errors import UsageError
from piclip.label_studio.tasks import Control, parse_config

IMAGE = '<Image name="img" value="$photo"/>'
BRUSH = '<BrushLabels name="b" toName="img"><Label value="cat"/></BrushLabels>'
POLYGON = (
    '<PolygonLabels name="p" toName="img"><Label value="cat"/><Label value="dog" alias="d"/>'
    "</PolygonLabels>"
)


def view(*tags):
    return f"<View>{''.join(tags)}</View>"


def test_brushes_come_before_polygons():
    config = parse_config(view(IMAGE, POLYGON, BRUSH))
    brush = Control("brushlabels", "b", ("cat",))
    polygon = Control("polygonlabels", "p", ("cat", "d"))
    assert (config.field, config.image, config.controls) == ("photo", "img", (brush, polygon))
    assert config.control_for("cat") == brush
    assert config.control_for("d") == polygon
    assert config.control_for("dog") is None


def test_the_order_of_labels_is_kept_since_the_model_version_is_made_from_them():
    labels = "".join(f'<Label value="{name}"/>' for name in "hgfedcba")
    [control] = parse_config(
        view(IMAGE, f'<BrushLabels name="b" toName="img">{labels}</BrushLabels>')
    ).controls
    assert control.class_names == tuple("hgfedcba")


def test_labels_that_each_task_brings_are_all_known():
    tag = '<BrushLabels name="b" toName="img" value="$classes"/>'
    config = parse_config(view(IMAGE, tag))
    assert config.control_for("anything") == Control("brushlabels", "b", None)


def test_of_several_images_one_counts():
    other = '<Image name="a" value="$other"/>'
    on_other = '<PolygonLabels name="p" toName="a"><Label value="dog"/></PolygonLabels>'
    config = parse_config(view(other, IMAGE, on_other, BRUSH))
    assert (config.image, [c.name for c in config.controls]) == ("img", ["b"])


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<View",
        view(),
        view(IMAGE),
        view(BRUSH),
        view('<Image name="img" value="https://fixed.org/a.png"/>', BRUSH),
        view('<Text name="img" value="$text"/>', BRUSH),
        view(IMAGE, '<RectangleLabels name="r" toName="img"><Label value="a"/></RectangleLabels>'),
    ],
)
def test_configurations_without_regions_of_an_image_are_refused(xml):
    with pytest.raises(UsageError, match="needs an <Image>"):
        parse_config(xml)
