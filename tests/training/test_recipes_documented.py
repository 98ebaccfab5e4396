"""The recipes of the paper's experiments: the page changes keys that they have."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from piclip.cli import app, train
from piclip.training.recipe import load_recipe
from world.comparison import PRIORS

ROOT = Path(__file__).parents[2]
VALUES = {
    "dataset": "pascal", "name": "pascal-5i", "backbone": "resnet50", "decoder": "hdmnet",
    "prior": "piclip", "fold": "1", "shot": "5", "row": "vtp", "@": "prior=none",
}  # fmt: skip


def documented(beginning="piclip "):
    text = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if line.startswith("    "))
    for line in code.replace("\\\n", " ").splitlines():
        if line.strip().startswith(beginning):
            yield re.sub(r"\$\{?(\w+|@)\}?", lambda found: VALUES[found[1]], line.strip())


@pytest.mark.parametrize("line", [*documented("piclip train ")])
def test_a_documented_training_has_its_recipe_and_changes_keys_of_it(line):
    command = get_command(app).commands["train"]
    given = command.make_context("train", shlex.split(line)[2:]).params
    recipe = load_recipe(ROOT / given["config"], given["overrides"])
    photographs = "photographs" in given["config"].parts
    assert recipe.dataset.name == ("voc-photos" if photographs else "pascal-5i")


def test_the_first_example_of_a_training_needs_no_file_that_a_fresh_checkout_lacks():
    line = train.train.__doc__.split("piclip train ")[1]
    given = get_command(app).commands["train"].make_context("train", shlex.split(line)).params
    recipe = load_recipe(ROOT / given["config"], given["overrides"])
    assert recipe.dataset.root is recipe.decoder.backbone_weights is recipe.base.folder is None
    assert recipe.clip.model == "builtin" and recipe.base.train_backbone


def priors_of(file, changes):
    recipe = load_recipe(ROOT / "recipes" / file, changes)
    # The papers' HDMNet takes cosines for its visual prior, that of the built-in world does not.
    return recipe.prior, recipe.clip.text, recipe.clip.visual.replace("raw", "plain")


def test_the_rows_of_the_ablation_are_those_of_the_built_in_world():
    rows = {}
    for line in documented("ablate "):
        _, row, *changes = line.split()
        rows[row.replace("-", "+")] = priors_of("pascal/hdmnet_resnet50.yaml", changes)
    assert rows == {n: priors_of("scenes/hdmnet.yaml", c) for n, c in PRIORS.items() if n in rows}
    assert len(rows) == 5


def test_every_kind_of_command_is_documented():
    kinds = {line.split()[1] for line in documented()}
    assert kinds == {"convert", "data", "train", "evaluate", "table", "figure"}
