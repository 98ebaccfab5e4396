"""Recipes: inheritance, overrides, and what is said about a wrong one."""

from pathlib import Path

import pytest
import yaml

from piclip.errors import UsageError
from piclip.training.recipe import PhaseRecipe, Recipe, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
COMPLETE = sorted(f for f in RECIPES.rglob("*.yaml") if not f.name.startswith("_"))
MINIMAL = {"dataset": {"name": "scenes"}, "decoder": {"name": "bam"}, "episodic": {"steps": 5}}


def write(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("file", COMPLETE, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_recipe_is_valid_and_names_what_its_file_says(file):
    recipe = load_recipe(file)
    decoder, _, backbone = file.stem.partition("_")
    assert recipe.decoder.name == decoder
    assert recipe.decoder.backbone == (backbone or "tiny")
    assert recipe.dataset.name == {"pascal": "pascal-5i", "coco": "coco-20i"}.get(
        file.parent.name, "scenes"
    )
    assert recipe.select == "last" and recipe.prior == "piclip"
    assert (recipe.base is None) == (decoder == "pfenet" and file.parent.name != "scenes")
    if file.parent.name != "scenes":
        assert recipe.augmentation.size == 473 and recipe.episodic.batch == 8
        assert (
            recipe.augmentation.scale
            == {"pascal": (0.9, 1.1), "coco": (0.8, 1.25)}[file.parent.name]
        )
        optimizer = recipe.episodic.optimizer
        assert (optimizer.name, optimizer.lr, optimizer.weight_decay, optimizer.power) == (
            "adamw", 1e-4, 0.01, 0.9,
        )  # fmt: skip
    assert load_recipe(file, ["prior=imagenet", "fold=3", "shot=5"]).shot == 5


def test_there_is_a_recipe_for_every_decoder_backbone_and_dataset():
    names = {f"{file.parent.name}/{file.stem}" for file in COMPLETE}
    decoders = ("pfenet", "bam", "hdmnet")
    wanted = {
        f"{dataset}/{decoder}_{backbone}"
        for dataset in ("pascal", "coco")
        for decoder in decoders
        for backbone in ("vgg16bn", "resnet50", "resnet101")
    }
    assert names == wanted | {f"scenes/{decoder}" for decoder in decoders}


def test_a_recipe_extends_another_and_the_command_line_comes_last(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "root.yaml", {**MINIMAL, "fold": 1, "base": {"steps": 9, "batch": 3}})
    write(tmp_path / "sub" / "mid.yaml", {"extends": "../root.yaml", "base": {"steps": 7}})
    leaf = write(tmp_path / "sub" / "leaf.yaml", {"extends": "mid.yaml", "seed": 4})
    recipe = load_recipe(leaf, ["base.optimizer.lr=1e-3", "decoder.options.width=8", "shot=5"])
    assert (recipe.fold, recipe.seed, recipe.shot) == (1, 4, 5)
    assert (recipe.base.steps, recipe.base.batch, recipe.base.optimizer.lr) == (7, 3, 0.001)
    assert recipe.decoder.options == {"width": 8}
    assert load_recipe(leaf, ["base=null"]).base is None


def test_a_resolved_recipe_reads_back_as_itself(tmp_path):
    recipe = load_recipe(COMPLETE[0], ["fold=2"])
    file = tmp_path / "resolved.yaml"
    file.write_text(recipe.to_yaml())
    assert load_recipe(file) == recipe and "extends" not in file.read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("episodic.stepz=3", "there is no key 'episodic.stepz'; did you mean 'episodic.steps'"),
        ("flod=3", "there is no key 'flod'; did you mean 'fold'"),
        ("lr=3", "there is no key 'lr'; did you mean 'episodic.optimizer.lr'|base.optimizer.lr"),
        ("validation.q=3", "the keys of 'validation' are every, episodes"),
        ("select=best", "select = 'best' is not valid: Input should be 'last', 'base-val' or"),
        ("fold=-1", "fold = -1 is not valid"),
        ("fold.x=1", "fold is not valid"),
        ("augmentation.scale=[2, 1]", "scale is .smallest, largest."),
        ("episodic.epochs=3", "either steps or epochs"),
        ("clip.cache=here", "sees: plain"),
        ("fold", "'fold' is no key=value"),
        ("fold=[", "no valid YAML"),
    ],
)
def test_a_wrong_override_is_told_in_one_sentence(tmp_path, override, message):
    file = write(tmp_path / "recipe.yaml", MINIMAL)
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(file, [override])
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    assert text.startswith("the command line: ") or "YAML" in text or "no key=value" in text


def test_a_mistake_is_blamed_on_the_file_that_makes_it(tmp_path):
    write(tmp_path / "root.yaml", {**MINIMAL, "episodic": {"steps": 5, "bach": 3}})
    leaf = write(tmp_path / "leaf.yaml", {"extends": "root.yaml", "fold": 1})
    with pytest.raises(UsageError, match=r"root\.yaml: .*'episodic.bach'.*'episodic.batch'"):
        load_recipe(leaf)
    write(tmp_path / "root.yaml", MINIMAL)
    write(leaf, {"extends": "root.yaml", "fold": "one"})
    with pytest.raises(UsageError, match=r"leaf\.yaml: fold = 'one'"):
        load_recipe(leaf)
    write(tmp_path / "root.yaml", {"dataset": {"name": "scenes"}})
    with pytest.raises(UsageError, match="the key 'decoder' is missing"):
        load_recipe(leaf, ["fold=0"])


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(UsageError, match="no valid YAML"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("just words")
    with pytest.raises(UsageError, match="holds no keys"):
        load_recipe(tmp_path / "b.yaml")
    write(tmp_path / "c.yaml", {"extends": "c.yaml"})
    with pytest.raises(UsageError, match="circle"):
        load_recipe(tmp_path / "c.yaml")


def test_length_in_steps_or_epochs():
    assert PhaseRecipe(steps=0).steps_for(100) == 0
    assert PhaseRecipe(epochs=2, batch=8).steps_for(100) == 25
    with pytest.raises(ValueError, match="either"):
        PhaseRecipe()
    assert Recipe.model_validate(MINIMAL).episodic.steps == 5
