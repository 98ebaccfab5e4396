"""What comes from the canvas: an image and its paint, within the limits."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from piclip.errors import ImageError, UsageError

pytest.importorskip("gradio", reason="needs the extra [app]")
read_canvas = pytest.importorskip("piclip.app.painting").read_canvas


def saved(tmp_path, name, mode="RGB", size=(8, 6)):
    Image.new(mode, size).save(tmp_path / name)
    return SimpleNamespace(path=str(tmp_path / name))


def sent(background, *layers):
    return SimpleNamespace(background=background, layers=list(layers), composite=None)


def test_image_and_paint_are_read(tmp_path):
    layer = np.zeros((6, 8, 4), dtype=np.uint8)
    layer[1:3, 2:5] = (213, 94, 0, 153)
    Image.fromarray(layer).save(tmp_path / "layer.png")
    paint = SimpleNamespace(path=str(tmp_path / "layer.png"))
    canvas = read_canvas(sent(saved(tmp_path, "image.png"), paint), pixels=48)
    assert canvas["background"].size == (8, 6)
    assert np.array_equal(canvas["layers"], [layer])


@pytest.mark.parametrize("empty", [None, sent(None)])
def test_an_empty_canvas_is_none(empty):
    assert read_canvas(empty, pixels=48) is None


def test_pixels_are_limited_in_the_image_and_in_its_paint(tmp_path):
    small, large = saved(tmp_path, "small.png"), saved(tmp_path, "large.png", "RGBA", (8, 7))
    for canvas in (sent(large), sent(small, large)):
        with pytest.raises(ImageError, match=r"^The painted image: .* pixels") as error:
            read_canvas(canvas, pixels=48)
        assert str(tmp_path) not in str(error.value)


def test_layers_that_the_page_does_not_offer_are_refused(tmp_path):
    image = saved(tmp_path, "image.png")
    with pytest.raises(UsageError, match="3 layers"):
        read_canvas(sent(image, image, image, image), pixels=48)
