"""Docstrings explain the arguments that there are: all of them, in their order."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def explained(docstring):
    """The names under `Args`, without stars."""
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", docstring, re.M)
    lines = re.findall(r"^ {4}([\w*]+(?:, [\w*]+)*):", section[1], re.M) if section else []
    return [name.strip(" *") for line in lines for name in line.split(",")]


def taken(node):
    """What a function, or a class when it is made, takes by name."""
    if isinstance(node, ast.ClassDef):
        made = [x for x in node.body if isinstance(x, FUNCTIONS) and x.name == "__init__"]
        if not made:
            return [x.target.id for x in node.body if isinstance(x, ast.AnnAssign)]
        (node,) = made
    a = node.args
    every = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    return [one.arg for one in every if one is not None and one.arg not in {"self", "cls"}]


def wrong(text):
    """The names of what explains other arguments than it takes."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names = explained(ast.get_docstring(node) or "")
            if names and names != taken(node):
                yield node.name


@pytest.mark.parametrize("folder", ["src", "world"])
def test_arguments_are_explained_in_their_order(folder):
    for file in (ROOT / folder).rglob("*.py"):
        assert list(wrong(file.read_text(encoding="utf-8"))) == [], file


def test_an_argument_of_another_name_is_noticed():
    text = 'def f(a, *, b):\n    """Does.\n\n    Args:\n        a: One.\n        c: Other.\n    """'
    assert list(wrong(text)) == ["f"]
    assert list(wrong(text.replace("c:", "b:"))) == []
