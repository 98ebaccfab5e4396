import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from piclip.errors import UsageError
from piclip.figures.episodes import (
    baseline_and_ours,
    before_and_after,
    imagenet_prior,
    pick_episodes,
    previous_and_ours,
)
from piclip.figures.panels import Panel, grid_figure

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def decoder(decoder_in_memory):
    return decoder_in_memory("imagenet")


def _texts_inside(figure):
    """Every text of the figure lies within its frame, and no two titles overlap."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, (width, height) = canvas.get_renderer(), canvas.get_width_height()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    boxes += [t.get_window_extent(renderer) for a in figure.axes for t in a.texts]
    inside = [b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes]
    own = [text.get_window_extent(renderer) for text in figure.texts]
    apart = [not a.overlaps(b) for i, a in enumerate(own) for b in own[:i]]
    return all(inside) and all(apart)


def test_every_row_is_another_class_and_the_same_every_time(view):
    keys = pick_episodes(view, seed=0, shots=2, rows=5)
    assert sorted(key.class_index for key in keys) == list(view.classes)
    assert keys == pick_episodes(view, seed=0, shots=2, rows=5)
    seven = pick_episodes(view, seed=0, shots=2, rows=7)
    assert seven[:5] == keys
    assert len({key.class_index for key in seven[5:]}) == 2
    with pytest.raises(UsageError, match="one row"):
        pick_episodes(view, seed=0, shots=1, rows=0)


def test_the_three_figures_have_their_panels_and_nothing_is_cut_off(view, training_free, decoder):
    keys = pick_episodes(view, seed=0, shots=1, rows=2)
    figures = {
        6: previous_and_ours(view, keys, decoder, training_free),
        4: baseline_and_ours(view, keys, decoder, training_free),
    }
    for columns, figure in figures.items():
        assert len(figure.axes) == 2 * columns + (columns == 6)
        assert _texts_inside(figure)
    refined = before_and_after(view, keys, training_free)
    assert len(refined.axes) == 2 * 7 + 1
    assert _texts_inside(refined)
    captions = [t.get_text() for a in figures[4].axes for t in a.texts]
    assert len(captions) == 4
    assert all(caption.startswith("IoU ") for caption in captions)


def test_the_previous_prior_is_a_map_over_the_image(view, decoder):
    episode = view.load(view.episode(0, 0, 2))
    prior = imagenet_prior(decoder, episode)
    assert prior.shape == (128, 128)
    assert prior.dtype == np.float32
    assert prior.min() >= 0
    assert prior.max() <= 1
    assert prior.std() > 0.05


def test_long_names_and_high_images_fit():
    high = Panel(Image.new("RGB", (60, 100)), "IoU 100.0 %")
    wide = Panel(Image.new("RGB", (100, 40)))
    name = "traffic light with a very long name"
    figure = grid_figure([(name, [high, wide]), ("cat", [wide, wide])], ("a\nb", "c"), scale=True)
    assert _texts_inside(figure)
    tops = [axes.get_position(original=True) for axes in figure.axes[:4]]
    assert tops[0].y0 == tops[1].y0
    assert tops[0].x0 == tops[2].x0
    assert tops[0].y0 > tops[2].y1
    with pytest.raises(UsageError, match="2 panels"):
        grid_figure([("cat", [high])], ("a", "b"))
    with pytest.raises(UsageError, match="rows"):
        grid_figure([], ("a",))
