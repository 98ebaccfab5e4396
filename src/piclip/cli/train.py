"""``piclip train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piclip.io.extras import needs_extra


def train(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    *,
    config: Annotated[Path, typer.Option("--config", "-c", metavar="RECIPE")],
    output: Annotated[Path | None, typer.Option("--output", metavar="RUN")] = None,
    base_only: bool = False,
) -> None:
    """Train a decoder (PFENet, BAM, HDMNet) on the base classes of a fold.

    The result lies in RUN/decoder. The same command continues a run that was stopped and ends
    with the same weights.

    Options:
        overrides: Changes to the recipe, keys with dots.
        config: A recipe, a YAML file.
        output: Folder of the run; a run that was stopped continues in it. [default: runs/ and the
            recipe's name]
        base_only: Train the base learner and stop.

    Examples:
        piclip train -c recipes/scenes/hdmnet.yaml decoder.backbone_weights=null
            base.train_backbone=true --output runs/hdmnet
        piclip train -c recipes/pascal/bam_resnet50.yaml fold=1 prior=imagenet
            dataset.root=data/pascal --output runs/bam-1
    """
    from piclip.cli.console import people, progress_bar, resuming

    with needs_extra("train", "Training"):
        from piclip.training.recipe import load_recipe
    recipe = load_recipe(config, overrides or ())
    from piclip.training.loop import Progress
    from piclip.training.train import train as train_decoder
    from piclip.training.train import train_base_learner

    folder = output or Path("runs") / f"{config.parent.name}-{config.stem}"
    with resuming(f"what {folder} holds is kept"), progress_bar() as bars:
        tasks = {}

        def show(progress: Progress) -> None:
            if progress.phase not in tasks:
                tasks[progress.phase] = bars.add_task(_TITLES[progress.phase])
            title = _TITLES[progress.phase]
            if progress.losses:
                title += f" (loss {progress.losses['loss']:.3f})"
                bars.update(tasks[progress.phase], description=title)
            bars.update(tasks[progress.phase], completed=progress.step, total=progress.steps)

        result = (train_base_learner if base_only else train_decoder)(recipe, folder, show)
    people().print(f"The result is in {result}")


_TITLES = {"base": "Base learner", "episodic": "Decoder"}
