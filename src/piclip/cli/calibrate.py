"""``piclip calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piclip.cli import options


def calibrate(
    *,
    data: Annotated[Path, typer.Option(metavar="FOLDER")],
    output: Annotated[Path, typer.Option(metavar="FOLDER")],
    list_file: Annotated[Path | None, typer.Option("--list", metavar="FILE")] = None,
    leave_out: Annotated[list[str], typer.Option(metavar="CLASS")] = [],  # noqa: B006 - typer copies it
    episodes: Annotated[int, typer.Option(min=1, metavar="N")] = 100,
    shots: Annotated[list[int], typer.Option(min=1, metavar="K")] = [1, 5],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, metavar="S")] = 0,
    lost: Annotated[
        float, typer.Option(min=0, max=1, callback=options.finite, metavar="SHARE")
    ] = 0.02,
    model: options.Model = options.DEFAULT_MODEL,
    visual: options.Visual = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: bool = False,
) -> None:
    """Set the constants of a model on labelled images: blocks, weight of names, threshold.

    With --visual, those of the visual tower. What is found is written as piclip.json.

    Options:
        data: Labelled photographs: of 'piclip data', VOC's with a list.txt, COCO 2014's, or
            images/, masks/ and classes.txt; 'scenes' are the drawn ones.
        output: Where the model is written with its constants, for --model or --visual; its own
            folder is changed in place.
        list_file: Take only the images numbered in this file.
        leave_out: Take no image of this class; repeat it for more.
        episodes: Episodes of each number of --shots.
        shots: Examples of an episode; repeat it.
        seed: Draws other episodes.
        lost: Images with the class that presence may refuse.

    Examples:
        piclip calibrate --data pascal --output my-clip
        piclip calibrate --data pascal --leave-out cat --leave-out dog
            --model facebook/dinov2-small --output my-dino
    """
    from piclip import FewShotSegmenter
    from piclip.cli.console import people, print_json, print_table, progress_lines
    from piclip.clip.checkpoints import check_destination
    from piclip.errors import UsageError
    from piclip.evaluation.benchmarks.photos import PhotoQuestions
    from piclip.evaluation.benchmarks.quality import Questions
    from piclip.evaluation.benchmarks.scenes import SceneQuestions
    from piclip.evaluation.calibration import calibrate, cases_of, constants, save_calibrated
    from piclip.training_free.scorer import TrainingFreeScorer

    questions: Questions
    if str(data) == "scenes":
        if list_file is not None or leave_out:
            raise UsageError(
                "Drawn scenes take no --list and no --leave-out; give a folder, or leave them out."
            )
        questions = SceneQuestions(0, 1, episodes)
    else:
        from piclip.datasets.file_dataset import read_lines

        questions = PhotoQuestions(
            data,
            None if list_file is None else frozenset(read_lines(list_file)),
            episodes=0,
            seed=seed,
            calibration_episodes=episodes,
            leave_out=leave_out,
        )
    cases = [case for shot in shots for case in cases_of(questions, shot)]
    own = Path(visual or model).expanduser()
    if str(own) == "builtin" or not own.is_dir() or own.resolve() != output.resolve():
        check_destination(output, own)
    scorer = FewShotSegmenter.from_pretrained(
        model, visual=visual, device=device, dtype=dtype
    ).scorer
    if not isinstance(scorer, TrainingFreeScorer):
        raise UsageError(f"{model} is a trained decoder, which has no such constants; give a CLIP.")
    with progress_lines("Images seen") as (progress,):
        found = calibrate(scorer, cases, lost=lost, progress=progress)
    save_calibrated(scorer, found.settings, output)
    rows = [(name, str(value)) for name, value in constants(found.settings).items()]
    print_table("Constants", ("constant", "value"), rows)
    people().print(
        f"mIoU {found.before:.1f} before, {found.after:.1f} after, on the "
        f"{found.episodes} episodes that they were chosen on; the model is in {output}."
    )
    if json:
        print_json({**constants(found.settings), "before": found.before, "after": found.after})
