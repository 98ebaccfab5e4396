"""Commands from their signatures and docstrings, and the options that several of them share.

Options:
    support: A labelled image; repeat it for more examples.
    mask: The mask of the --support in the same place, of the same size: object not zero.
    model: A CLIP (hub name, folder or weights file), 'builtin' (drawn scenes only), another ViT,
        which reads no names, or the folder of a trained decoder.
    visual: Another ViT (hub name or folder, such as facebook/dinov2-small) that compares the images
        while the CLIP reads the names. [default: the CLIP compares them itself]
    evidence: contrast: object against background of the labelled images; published: the paper's
        priors.
    clip: The CLIP of a decoder's priors. [default: that of its training]
    output: Where the results go.
    batch_size: Images that are encoded at once.
    workers: Processes that share the images, each with a model of its own; worth it from some
        hundred images on.
    threshold: Least score of an object's pixel, 0 to 1. [default: the model's own]
    min_presence: Draw no class that is less likely than this to be in the image, 0 to 1; 0 draws
        whatever scores high enough.
    min_area: Leave out parts with fewer pixels: a number, or a share of the image such as 0.1%.
    largest: Keep only the largest part of each class in an image.
    fill_holes: Fill holes in which no other class was found.
    device: auto, cpu, cuda, cuda:1, mps, ...
    dtype: auto, float32, bfloat16 or float16.
    max_pixels: Refuse images with more pixels than this.
    bands: Of TIFF images, the numbers of the bands that are red, green and blue, such as 4,3,2, or
        of one that is gray. [default: those that the file says are its colours]
    host: Address to listen at; 0.0.0.0 lets other computers in: ask for a login then.
    root: Where the dataset lies.
    option: Of the dataset, such as fold_convention=contiguous.
    splits: Only --protocol hsnet: HSNet's split files (data/splits).
    shot: Labelled images per episode.
    json: Print the results as JSON on stdout.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin

import typer

from piclip.errors import UsageError

# Repeated here because their homes import torch and Pillow; a test compares them.
DEFAULT_MODEL = "openai/clip-vit-base-patch16"
MAX_PIXELS = 50_000_000
MIN_PRESENCE = 0.5

_Command = TypeVar("_Command", bound=Callable[..., None])


def command(app: typer.Typer, name: str | None = None) -> Callable[[_Command], _Command]:
    """Add a function to the commands, with the help of its options and examples from its docstring.

    What it does not say of an option is in the docstring above, or with the option's type. A bool
    becomes a flag without its opposite.
    """

    def add(function: _Command) -> _Command:
        about, own, shown = _parts(function.__doc__)
        hints: dict[str, Any] = {}
        for key, parameter in inspect.signature(function, eval_str=True).parameters.items():
            kind, option = parameter.annotation, typer.Option()
            if get_origin(kind) is Annotated:
                kind, option = kind.__origin__, copy.copy(kind.__metadata__[0])
            elif kind is bool:
                option = typer.Option(f"--{key.replace('_', '-')}")
            option.help = own.get(key) or option.help or _SHARED.get(key)
            hints[key] = Annotated[kind, option]
        function.__annotations__ = hints
        app.command(name, help=about, epilog=examples(*shown))(function)
        return function

    return add


def _parts(docstring: str | None) -> tuple[str, dict[str, str], list[str]]:
    """What a command is for, the help of its options, and its examples."""
    about, *more = re.split(r"\n\n(Options|Examples):\n", inspect.cleandoc(docstring or ""))
    parts = {
        part: [" ".join(entry.split()) for entry in re.split(r"\n    (?=\S)", listed)]
        for part, listed in zip(more[::2], more[1::2], strict=True)
    }
    helps = dict(entry.split(": ", 1) for entry in parts.get("Options", ()))
    return about, helps, parts.get("Examples", [])


_SHARED = _parts(__doc__)[1]


def examples(*commands: str) -> str:
    """Text for the end of a command's help; long ones are broken before --option or KEY=VALUE."""
    lines = [line for command in commands for line in _broken(command)]
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _broken(command: str, width: int = 74) -> list[str]:
    lines = [""]
    for piece in re.split(r" (?=--|\S+=)", command):
        if lines[-1] and len(lines[-1]) + 1 + len(piece) > width:
            lines[-1] += " \\"
            lines.append("   " + piece)
        else:
            lines[-1] = f"{lines[-1]} {piece}" if lines[-1] else piece
    return lines


def finite(value: float | None) -> float | None:
    """Refuse nan, which is within all bounds, and infinity, as click refuses what is not."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number to compare with.")
    return value


def _host(value: str) -> str:
    """Refuse what no name service takes, before a server says so in words of its own."""
    try:
        value.encode("idna")
    except UnicodeError as error:
        raise typer.BadParameter(f"{value!r} is no address.") from error
    return value


Support = Annotated[list[Path], typer.Option(metavar="IMAGE")]
Mask = Annotated[list[Path], typer.Option(metavar="MASK")]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="A CLIP (hub name, folder or weights file), 'builtin' (drawn scenes only), or another "
        "ViT, which reads no names.",
    ),
]
ModelOrDecoder = Annotated[str, typer.Option(metavar="NAME")]
Visual = Annotated[str | None, typer.Option(metavar="NAME")]
Evidence = Annotated[str, typer.Option(metavar="NAME")]
Clip = Annotated[str | None, typer.Option(metavar="NAME")]
OutputFolder = Annotated[Path, typer.Option(metavar="FOLDER")]
BatchSize = Annotated[int, typer.Option(min=1, metavar="N")]
Workers = Annotated[int, typer.Option(min=1, metavar="N")]
Threshold = Annotated[float | None, typer.Option(min=0, max=1, callback=finite, metavar="SCORE")]
MinPresence = Annotated[float, typer.Option(min=0, max=1, callback=finite, metavar="P")]
MinArea = Annotated[str, typer.Option(metavar="AREA")]
Device = Annotated[str, typer.Option(metavar="NAME")]
Dtype = Annotated[str, typer.Option(metavar="NAME")]
MaxPixels = Annotated[int, typer.Option(metavar="N", min=1)]
Bands = Annotated[str | None, typer.Option(metavar="R,G,B")]
Host = Annotated[str, typer.Option(metavar="ADDRESS", callback=_host)]
Root = Annotated[Path | None, typer.Option(metavar="DIR")]
KeyValue = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE")]
Splits = Annotated[Path | None, typer.Option(metavar="DIR")]
Shot = Annotated[int, typer.Option(min=1, metavar="K")]


def bands_of(text: str | None) -> tuple[int, ...] | None:
    """The numbers of --bands; None where it was not given (UsageError if they are none)."""
    from piclip.io.bands import check_bands

    if text is None:
        return None
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise UsageError(f"Write --bands as numbers, as in 4,3,2 or 1, not {text!r}.")
    return check_bands([int(number) for number in numbers])


def login_of(text: str | None, option: str) -> tuple[str, str] | None:
    """User and password of an option such as --auth, if given (UsageError if one is missing)."""
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise UsageError(f"Write {option} as user:password, neither of them empty.")
    return user, password


def paired(
    supports: list[Path], masks: list[Path], names: list[str]
) -> dict[str, list[tuple[Path, Path]]]:
    """Class name to its (image, mask) pairs, in the order in which classes were named first.

    There is one name for all, or one for each example (UsageError if the numbers do not fit).
    """
    if len(supports) != len(masks):
        raise UsageError(
            f"There are {len(supports)} --support and {len(masks)} --mask; give one mask for each "
            f"labelled image, in the same order."
        )
    if len(names) not in {1, len(supports)}:
        raise UsageError(
            f"There are {len(supports)} --support and {len(names)} --name; give one name for all "
            f"of them, or one for each in the same order."
        )
    if not all(name.strip() for name in names):
        raise UsageError("The --name of a class is empty; write what the mask shows, as in zebra.")
    classes: dict[str, list[tuple[Path, Path]]] = {}
    labels = names if len(names) > 1 else names * len(supports)
    for name, image, mask in zip(labels, supports, masks, strict=True):
        classes.setdefault(name.strip(), []).append((image, mask))
    return classes
