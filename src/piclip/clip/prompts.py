"""Prompts: how a class is put into words, and the text vectors that stand for it.

A class ``c`` has a foreground prototype (texts like "a photo of c") and a background prototype
("a photo without c"). With wordings W and templates T of a class and the text encoder ``e``::

    t = n(mean over w in W, p in T of n(e(p with w))),    n(x) = x / |x|
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from piclip.errors import UsageError

FOREGROUND = "a photo of {}"
BACKGROUND = "a photo without {}"

# What the reference code really asks, token for token: with a full stop.
REFERENCE_FOREGROUND = "a photo of {}."
REFERENCE_BACKGROUND = "a photo without {}."

TextEncoder = Callable[[Sequence[str]], Tensor]
"""Texts to their CLIP features (len(texts), E), of any length."""

Synonyms = Mapping[str, str | Sequence[str]]
"""One wording, or several that are averaged, by class name."""

_DATASETS = ("voc", "coco")


def class_names(dataset: str) -> tuple[str, ...]:
    """Class names of ``"voc"`` (20, alphabetical) or ``"coco"`` (80, in COCO's order).

    The spellings are those of the published benchmarks' lists, also for COCO ("motorbike",
    "pottedplant"). UsageError for another dataset.
    """
    if dataset not in _DATASETS:
        raise UsageError(f"There are no class names of {dataset!r}: take one of voc, coco.")
    return tuple(_read(dataset)["names"])


def synonym_table(name: str) -> dict[str, str]:
    """Wordings by class name; a class that is not in the table is called by its name.

    Args:
        name: ``"voc"`` or ``"coco"``: the published rewordings ("bird avian"), spelled in proper
            words; ``"voc-reference"`` or ``"coco-reference"``: the same letter for letter as in
            the reference code, slips included ("sknowboard", "glove" for a baseball glove), to
            reproduce published numbers. Keys are the names of `class_names`.

    Raises:
        UsageError: If there is no such table.
    """
    tables = {key: t for dataset in _DATASETS for key, t in _read(dataset)["tables"].items()}
    if name not in tables:
        raise UsageError(f"There is no synonym table {name!r}: take one of {', '.join(tables)}.")
    return dict(tables[name])


def text_prototypes(
    encode_text: TextEncoder,
    names: Sequence[str],
    synonyms: Synonyms | None = None,
    *,
    foreground_templates: str | Sequence[str] = FOREGROUND,
    background_templates: str | Sequence[str] = BACKGROUND,
) -> tuple[Tensor, Tensor]:
    """Foreground and background prototypes of several classes, with one call of the encoder.

    Args:
        encode_text: The text encoder.
        names: C classes, at least one, such as ``["zebra", "bird"]``.
        synonyms: Wordings of some of the classes, for example `synonym_table`; a class
            without an entry is called by its name.
        foreground_templates: Sentences with exactly one ``{}`` where the wording goes.
        background_templates: The same for images without the class.

    Returns:
        Two tensors (C, E) of unit vectors, foreground and background, in the order of ``names``.

    Raises:
        UsageError: There is no name or no template, a template does not hold exactly one ``{}``,
            or a name or wording is blank.
    """
    if not names:
        raise UsageError("There is no class name: give at least one, such as zebra.")
    groups = [
        fill_templates(templates, name, synonyms or {})
        for templates in (foreground_templates, background_templates)
        for name in names
    ]
    features = encode_text([text for group in groups for text in group])
    parts = features.split([len(group) for group in groups])
    means = [normalize(part, dim=-1).mean(dim=0) for part in parts]
    prototypes = normalize(torch.stack(means), dim=-1)
    return prototypes[: len(names)], prototypes[len(names) :]


def fill_templates(
    templates: str | Sequence[str], name: str, synonyms: Synonyms = MappingProxyType({})
) -> list[str]:
    """Every wording of a class in every template; other braces are ordinary characters.

    Raises:
        UsageError: As `text_prototypes`.
    """
    templates = (templates,) if isinstance(templates, str) else templates
    if not templates:
        raise UsageError(f"There is no prompt template: give at least one, such as {FOREGROUND!r}.")
    for template in templates:
        if template.count("{}") != 1:
            raise UsageError(
                f"The prompt template {template!r} must hold {{}} exactly once, where the class "
                f"name goes, as in {FOREGROUND!r}."
            )
    check_name(name)
    wordings = synonyms.get(name, name)
    wordings = (wordings,) if isinstance(wordings, str) else wordings
    for wording in wordings or ("",):
        check_name(wording)
    return [template.replace("{}", word) for template in templates for word in wordings]


def check_name(name: object) -> None:
    """Refuses what is no text to call a class by: blank, a number, no valid UTF-8 (UsageError)."""
    if not isinstance(name, str):
        raise UsageError(
            f"The name of a class is a text that says what to segment, such as 'zebra', not "
            f"{name!r}."
        )
    if not name.strip():
        raise UsageError("A class name is blank: say in words what to segment, such as zebra.")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"The class name {name!a} is no text in UTF-8; write it anew.") from error


@cache
def _read(dataset: str) -> dict[str, Any]:
    text = resources.files("piclip.clip").joinpath("data", f"{dataset}.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
