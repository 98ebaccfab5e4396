"""``piclip priors``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from piclip.cli import options


def priors(
    *,
    support: options.Support,
    mask: options.Mask,
    name: Annotated[str, typer.Option(metavar="NAME")],
    query: Annotated[Path, typer.Option(metavar="IMAGE")],
    output: options.OutputFolder,
    model: options.Model = options.DEFAULT_MODEL,
    visual: options.Visual = None,
    evidence: options.Evidence = "contrast",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    bands: options.Bands = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    json: bool = False,
) -> None:
    """Show where a mask comes from: the priors of one image, as a figure and as arrays.

    Writes QUERY.priors.png, a row of pictures like Fig. 4 of the paper, and
    QUERY.priors.npz: visual_text and visual_text_refined (where the model reads names), contrast
    (with published evidence visual_visual and visual_visual_refined) and fused, float32 (1, h, w)
    in [0, 1] on the patch grid; the score (H, W) in the same range and the mask (bool) at the size
    of the image.

    Options:
        name: What the masks show, in a word or two, as in zebra.
        query: The image to look at.

    Examples:
        piclip priors --support zebra.jpg --mask zebra.png --name zebra --query herd.jpg
            --output out
        piclip priors --model builtin --support demo/images/support.png
            --mask demo/truth/support.png --name cat --query demo/images/query_1.png --output out
    """
    import numpy as np

    from piclip import Support
    from piclip.cli.console import load_model, people, print_json
    from piclip.figures.plots import priors_figure, save_figure
    from piclip.io.images import read_image
    from piclip.io.outputs import atomic_path
    from piclip.io.supports import read_labelled
    from piclip.results import priors_of

    chosen = options.bands_of(bands)
    image = read_image(query, max_pixels=max_pixels, bands=chosen)
    ((label, pairs),) = options.paired(support, mask, [name]).items()
    read = partial(read_labelled, max_pixels=max_pixels, bands=chosen)
    shown = [read(Support(*pair)) for pair in pairs]
    segmenter = load_model(model, visual=visual, evidence=evidence, device=device, dtype=dtype)
    segmenter.fit([Support(*pair) for pair in shown], name=label, max_pixels=max_pixels)
    result = segmenter.predict(image, max_pixels=max_pixels)[0]
    figure = priors_figure(*shown[0], result)
    files = {
        "figure": save_figure(figure, output / f"{query.stem}.priors.png"),
        "arrays": output / f"{query.stem}.priors.npz",
    }
    arrays: dict[str, Any] = priors_of(result).maps() | {"score": result.score}
    with atomic_path(files["arrays"]) as temporary:
        # Floating point maps hardly shrink, so that compressing them would only take time.
        np.savez(temporary, **arrays, mask=result.mask)
    people().print(f"The figure is in {files['figure']}, the arrays are in {files['arrays']}.")
    if json:
        print_json({what: str(path) for what, path in files.items()})
