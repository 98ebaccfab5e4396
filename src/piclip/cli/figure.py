"""``piclip figure``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piclip.cli import options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from piclip.cli.evaluation_runs import EvaluateRequest
    from piclip.datasets.few_shot import EpisodeKeys, FewShotView
    from piclip.evaluation.records import Method

NAMES = ("fig1", "fig3", "fig4")


def figure(
    name: Annotated[str, typer.Argument(metavar="FIGURE")],
    *,
    output: Annotated[Path, typer.Option(metavar="FILE")],
    baseline: Annotated[str | None, typer.Option(metavar="RUN")] = None,
    ours: Annotated[str, typer.Option(metavar="RUN")] = "training-free",
    dataset: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    root: options.Root = None,
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE")] = None,
    fold: Annotated[int, typer.Option(min=0, metavar="N")] = 0,
    shot: options.Shot = 1,
    seed: Annotated[int, typer.Option(min=0, metavar="N")] = 0,
    rows: Annotated[int, typer.Option(min=1, metavar="N")] = 5,
    model: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    visual: options.Visual = None,
    device: options.Device = "auto",
) -> None:
    """Draw one of the paper's figures from the novel classes of a dataset.

    fig1: the previous prior of a trained backbone beside ours. fig3: support, truth, baseline and
    ours. fig4: the priors before and after refinement, and the segmenter's own evidence. Rows are
    the first episodes of the seed, one of each class in turn.

    Options:
        name: fig1, fig3 or fig4.
        output: The picture (.png, .pdf, .svg, ...).
        baseline: fig1: a decoder whose backbone gives the previous prior. fig3: the method to
            compare with (a decoder or 'training-free').
        ours: fig3: our method, a decoder or 'training-free'.
        dataset: As for 'piclip evaluate'. [default: the baseline's]
        option: Of the dataset.
        fold: Whose classes are novel.
        seed: Which episodes.
        rows: How many episodes.
        model: The CLIP. [default: builtin on scenes]

    Examples:
        piclip figure fig4 --dataset scenes --output fig4.png
        piclip figure fig1 --baseline runs/pfenet-0 --output fig1.pdf
        piclip figure fig3 --baseline runs/pfenet-imagenet-0 --ours runs/pfenet-0
            --output fig3.png
    """
    from piclip.cli.console import people
    from piclip.cli.evaluation_runs import EvaluateRequest
    from piclip.errors import UsageError
    from piclip.figures.episodes import pick_episodes
    from piclip.figures.plots import check_figure, save_figure

    if name not in NAMES:
        raise UsageError(f"There is no figure {name!r}; choose from {', '.join(NAMES)}.")
    if baseline is None and name != "fig4":
        raise UsageError(f"{name} compares with a trained decoder; name its run with --baseline.")
    check_figure(output)
    request = EvaluateRequest(
        checkpoint=baseline or "training-free",
        dataset=dataset,
        root=root,
        options=option or (),
        shot=shot,
        minimum_images=shot + 1,  # a figure shows examples, so scarce classes may be left out
        model=model,
        visual=visual,
        device=device,
    )
    with people().status("Drawing"):
        view = request.view(fold)
        keys = pick_episodes(view, seed=seed, shots=shot, rows=rows)
        drawn = _draw(name, request, replace(request, checkpoint=ours), view, keys)
        save_figure(drawn, output)
    people().print(f"The figure is in {output}")


def _draw(
    name: str,
    baseline: EvaluateRequest,
    ours: EvaluateRequest,
    view: FewShotView,
    keys: list[EpisodeKeys],
) -> Figure:
    from piclip.figures import episodes as figures

    if name == "fig4":
        return figures.before_and_after(view, keys, ours.training_free(view))
    reference = baseline.predictor(view)
    if name == "fig1":
        return figures.previous_and_ours(view, keys, reference, ours.training_free(view))
    own = ours.predictor(view)
    titles = _title("Baseline", reference.method), _title("Ours", own.method)
    return figures.baseline_and_ours(view, keys, reference, own, titles)


def _title(role: str, method: Method) -> str:
    from piclip.evaluation.tables import TITLES

    name, prior = (TITLES.get(text, text) for text in (method.method, method.prior))
    return f"{role}\n{name}, {prior} prior" if method.weights_sha256 else f"{role}\n{name}"
