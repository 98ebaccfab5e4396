"""Options that several commands share."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from piclip.errors import UsageError

# Repeated here because their homes import torch and Pillow; a test compares them.
DEFAULT_MODEL = "openai/clip-vit-base-patch16"
MAX_PIXELS = 50_000_000
MIN_PRESENCE = 0.5


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


Support = Annotated[
    list[Path], typer.Option(metavar="IMAGE", help="A labelled image; repeat it for more examples.")
]
Mask = Annotated[
    list[Path],
    typer.Option(
        metavar="MASK",
        help="The mask of the --support in the same place, of the same size: object not zero.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="A CLIP (hub name, folder or weights file), 'builtin' (drawn scenes only), or another "
        "ViT, which reads no names.",
    ),
]
ModelOrDecoder = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="A CLIP (hub name, folder or weights file), 'builtin' (drawn scenes only), another "
        "ViT, which reads no names, or the folder of a trained decoder.",
    ),
]
Visual = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Another ViT (hub name or folder, such as facebook/dinov2-small) that compares the "
        "images while the CLIP reads the names. [default: the CLIP compares them itself]",
    ),
]
Evidence = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="contrast: object against background of the labelled images; published: the paper's "
        "priors.",
    ),
]
Clip = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The CLIP of a decoder's priors. [default: that of its training]"
    ),
]
OutputFolder = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the results go.")]
BatchSize = Annotated[
    int, typer.Option(min=1, metavar="N", help="Images that are encoded at once.")
]
Workers = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Processes that share the images, each with a model of its own; worth it from some "
        "hundred images on.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        callback=finite,
        metavar="SCORE",
        help="Least score of an object's pixel, 0 to 1. [default: the model's own]",
    ),
]
MinPresence = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        callback=finite,
        metavar="P",
        help="Draw no class that is less likely than this to be in the image, 0 to 1; 0 draws "
        "whatever scores high enough.",
    ),
]
MinArea = Annotated[
    str,
    typer.Option(
        metavar="AREA",
        help="Leave out parts with fewer pixels: a number, or a share of the image such as 0.1%.",
    ),
]
Largest = Annotated[
    bool, typer.Option("--largest", help="Keep only the largest part of each class in an image.")
]
FillHoles = Annotated[
    bool, typer.Option("--fill-holes", help="Fill holes in which no other class was found.")
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[str, typer.Option(metavar="NAME", help="auto, float32, bfloat16 or float16.")]
MaxPixels = Annotated[
    int, typer.Option(metavar="N", min=1, help="Refuse images with more pixels than this.")
]
Bands = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Of TIFF images, the numbers of the bands that are red, green and blue, such as "
        "4,3,2, or of one that is gray. [default: those that the file says are its colours]",
    ),
]
Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        callback=_host,
        help="Address to listen at; 0.0.0.0 lets other computers in: ask for a login then.",
    ),
]
Root = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the dataset lies.")]
KeyValue = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Of the dataset, such as fold_convention=contiguous."),
]
Splits = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Only --protocol hsnet: HSNet's split files (data/splits)."),
]
Shot = Annotated[int, typer.Option(min=1, metavar="K", help="Labelled images per episode.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout.")]


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
    """The user and password of an option such as --auth; None where it was not given.

    Raises:
        UsageError: One of them is missing.
    """
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise UsageError(f"Write {option} as user:password, neither of them empty.")
    return user, password


def paired(
    supports: list[Path], masks: list[Path], names: list[str]
) -> dict[str, list[tuple[Path, Path]]]:
    """Sort the examples by class, in the order in which the classes were named first.

    Args:
        supports: Labelled images.
        masks: Their masks, in the same order.
        names: One name for all, or one for each example.

    Returns:
        Class name to its (image, mask) pairs.

    Raises:
        UsageError: The numbers do not fit together, or a name is empty.
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
