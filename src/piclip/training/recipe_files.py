"""Reading and merging recipe files, and saying in one sentence what is wrong with one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from piclip.errors import UsageError
from piclip.io.documents import parse_yaml, read_yaml

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_MOST_PARENTS = 20


def merge_files(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a recipe file, of those that it extends, and of the command line.

    Returns:
        Nested values, and where each dotted key was set last.
    """
    chain = [(str(path), _read(path))]
    while "extends" in chain[-1][1]:
        file, content = chain[-1]
        parent = content.pop("extends")
        if not isinstance(parent, str) or len(chain) > _MOST_PARENTS:
            raise UsageError(
                f"{file}: extends = {parent!r} must name another recipe file, without a circle."
            )
        path = path.parent / parent
        chain.append((str(path), _read(path)))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    overriding = [("the command line", _override(override)) for override in overrides]
    for where, content in [*reversed(chain), *overriding]:
        _merge(values, content, origins, where)
    return values, origins


def explain(
    error: ValidationError, model: type[BaseModel], origins: Mapping[str, str], path: Path
) -> UsageError:
    """The first thing that pydantic found, in one sentence."""
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"]]
    key = ".".join(names)
    where = _origin(key, origins) or str(path)
    if first["type"] == "extra_forbidden":
        return UsageError(f"{where}: there is no key {key!r}; {_advice(names, model)}.")
    if first["type"] == "missing":
        return UsageError(f"{path}: the key {key!r} is missing; give it a value.")
    reason = str(first["msg"]).removeprefix("Value error, ")
    value = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    return UsageError(f"{where}: {key or 'the recipe'}{value} is not valid: {reason}.")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except OSError as error:
        raise UsageError(
            f"The recipe {path} cannot be read ({error.strerror}); give the path of a YAML file."
        ) from error
    except ValueError as error:
        raise UsageError(f"The recipe {path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"The recipe {path} holds no keys; write lines such as 'fold: 0'.")
    return content


def _override(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"{text!r} is no key=value; write for example fold=1.")
    try:
        value = parse_yaml(raw)
    except ValueError as error:
        raise UsageError(f"The value of {text!r} is no valid YAML; quote it.") from error
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return dict(value)


def _merge(
    into: dict[str, Any], new: Mapping[str, Any], origins: dict[str, str], where: str, at: str = ""
) -> None:
    for name, value in new.items():
        key = f"{at}{name}"
        origins[key] = where
        if not isinstance(value, dict):
            into[name] = value
            continue
        if not isinstance(into.get(name), dict):
            into[name] = {}
        _merge(into[name], value, origins, where, f"{key}.")


def _origin(key: str, origins: Mapping[str, str]) -> str | None:
    """Where a key, or the section it stands in, was set."""
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return origins.get(key)


def _advice(names: Sequence[str], model: type[BaseModel]) -> str:
    """The nearest key: beside the wrong one, or of the same name elsewhere."""
    every = list(_keys(model))
    section = ".".join(names[:-1])
    beside = [key.rpartition(".")[2] for key in every if key.rpartition(".")[0] == section]
    near = difflib.get_close_matches(names[-1], beside, n=1)
    if near:
        return f"did you mean {'.'.join([*names[:-1], near[0]])!r}"
    elsewhere = [key for key in every if key.rpartition(".")[2] == names[-1]]
    if elsewhere:
        return f"did you mean {elsewhere[0]!r}"
    return f"the keys {'of ' + repr(section) if section else 'here'} are {', '.join(beside)}"


def _keys(model: type[BaseModel], at: str = "") -> Iterator[str]:
    """All dotted keys of a recipe, sections included."""
    for name, field in model.model_fields.items():
        yield f"{at}{name}"
        annotation = field.annotation
        for part in (annotation, *get_args(annotation)):
            if isinstance(part, type) and hasattr(part, "model_fields"):
                yield from _keys(part, f"{at}{name}.")
