"""Recipes: inheritance, overrides, and what is said about a wrong one."""

from pathlib import Path

import pytest
import yaml

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.decoders.networks import build_decoder
from piclip.errors import UsageError
from piclip.training.base_learner import BaseImages
from piclip.training.episodic import TrainingEpisodes, parameter_groups
from piclip.training.loop import build_optimizer
from piclip.training.recipe import PhaseRecipe, Recipe, load_recipe
from sentences import one_sentence

RECIPES = Path(__file__).parents[2] / "recipes"
COMPLETE = sorted(f for f in RECIPES.rglob("*.yaml") if not f.name.startswith("_"))
PAPERS = [file for file in COMPLETE if file.parent.name in ("pascal", "coco")]
MINIMAL = {"dataset": {"name": "scenes"}, "decoder": {"name": "bam"}, "episodic": {"steps": 5}}


def write(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("file", COMPLETE, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_recipe_is_valid_and_names_what_its_file_says(file):
    recipe = load_recipe(file)
    decoder, _, backbone = file.stem.partition("_")
    assert recipe.decoder.name == decoder
    group = file.parent.name
    assert recipe.decoder.backbone == (backbone or {"scenes": "tiny", "photographs": "vit"}[group])
    names = {"pascal": "pascal-5i", "coco": "coco-20i", "photographs": "voc-photos"}
    assert recipe.dataset.name == names.get(group, "scenes")
    assert recipe.select == ("base-val" if group in ("photographs", "scenes") else "last")
    assert recipe.prior == "piclip"
    assert (recipe.base is None) == (decoder == "pfenet" and file in PAPERS)
    assert load_recipe(file, ["prior=imagenet", "fold=3", "shot=5"]).shot == 5


# Decoder and dataset to (optimizer, learning rate, weight decay, batch, novel pixels). Public
# configurations; the rates of SGD are ten times those written there, as their schedules make them.
PUBLISHED = {
    ("hdmnet", "pascal"): ("adamw", 1e-4, 0.01, 8, "drop"),
    ("hdmnet", "coco"): ("adamw", 1e-4, 0.01, 8, "drop"),
    ("bam", "pascal"): ("sgd", 0.05, 1e-4, 8, "drop"),
    ("bam", "coco"): ("sgd", 0.05, 1e-4, 8, "drop"),
    ("pfenet", "pascal"): ("sgd", 0.025, 1e-4, 4, "background"),
    ("pfenet", "coco"): ("sgd", 0.05, 1e-4, 8, "background"),
}


@pytest.mark.parametrize("file", PAPERS, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_the_papers_recipes_have_the_published_settings(file):
    recipe = load_recipe(file)
    dataset, decoder = file.parent.name, recipe.decoder.name
    coco = dataset == "coco"
    phase, optimizer = recipe.episodic, recipe.episodic.optimizer
    visual = "raw" if decoder == "hdmnet" else "plain"
    assert (recipe.clip.text, recipe.clip.visual) == ("refined", visual)
    assert PUBLISHED[decoder, dataset] == (
        optimizer.name, optimizer.lr, optimizer.weight_decay, phase.batch, recipe.novel_pixels,
    )  # fmt: skip
    assert (optimizer.power, optimizer.momentum) == (0.9, 0.9)
    assert phase.epochs == (50 if coco else 200)
    seen = recipe.augmentation
    assert (seen.size, seen.rotation, seen.blur, seen.flip) == (473, 10, 0.5, 0.5)
    assert seen.scale == ((0.8, 1.25) if coco else (0.9, 1.1))
    assert recipe.decoder.backbone_weights.stem == {
        "vgg16bn": "vgg16_bn", "resnet50": "resnet50_v2", "resnet101": "resnet101_v2",
    }[recipe.decoder.backbone]  # fmt: skip
    if decoder != "pfenet":
        base = recipe.base
        assert (base.epochs, base.batch) == (20 if coco else 100, 12)
        assert (base.augmentation.size, base.augmentation.scale) == (417, (0.5, 2.0))
        assert base.optimizer.name == "sgd" and base.optimizer.weight_decay == 1e-4
        rates = base.optimizer.lr, base.optimizer.lr * base.head_factor
        assert rates == pytest.approx((2.5e-3, 2.5e-3) if coco else (2.5e-4, 2.5e-3))


@pytest.mark.parametrize("dataset", ["pascal", "coco"])
def test_hdmnets_matching_learns_at_a_tenth_of_the_others_rate(dataset):
    recipe = load_recipe(RECIPES / dataset / "hdmnet_resnet50.yaml")
    small = {"matching_width": 8, "width": 8, "base_width": 8, "heads": [1, 1, 1]}
    decoder = build_decoder("hdmnet", backbone="tiny", prior="piclip", **small)
    groups = parameter_groups(decoder, recipe.episodic.factors)
    rates = {}
    for group in build_optimizer(groups, recipe.episodic.optimizer).param_groups:
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    found = {}
    for name, parameter in decoder.named_parameters():
        if parameter.requires_grad:
            found.setdefault(name.partition(".")[0], set()).add(rates.pop(id(parameter)))
        else:
            assert id(parameter) not in rates
    fast = ("reduce_query", "reduce_support", "merge_query", "merge_support", "ensemble")
    assert not rates
    assert {name for name, own in found.items() if own == {1e-4}} == {"matching", "shot_weights"}
    assert {name for name, own in found.items() if own == {1e-3}} == set(fast)


def test_a_factor_of_a_part_that_is_not_trained_is_refused():
    decoder = build_decoder("pfenet", backbone="tiny", width=8)
    with pytest.raises(UsageError, match="trains no part 'backbone'; its parts are reduce_query"):
        parameter_groups(decoder, {"backbone": 2.0})


def test_the_base_learner_has_an_augmentation_of_its_own_where_the_recipe_says_so():
    dataset = open_dataset("scenes", train_images=30, val_images=4, size=32)
    view = FewShotView(
        dataset, fold=0, split="train", classes="base", minimum_pixels=4, minimum_images=2
    )
    values = {**MINIMAL, "base": {"steps": 1}, "augmentation": {"size": 33}}
    assert BaseImages(view, Recipe.model_validate(values))[0][0].shape == (3, 33, 33)
    values["base"] = {"steps": 1, "augmentation": {"size": 25, "scale": [0.5, 2.0]}}
    recipe = Recipe.model_validate(values)
    assert BaseImages(view, recipe)[0][0].shape == (3, 25, 25)
    assert TrainingEpisodes(view, recipe, 0)[0].inputs["query"].shape == (3, 33, 33)


def test_there_is_a_recipe_for_every_decoder_backbone_and_dataset():
    names = {f"{file.parent.name}/{file.stem}" for file in COMPLETE}
    decoders = ("pfenet", "bam", "hdmnet")
    wanted = {
        f"{dataset}/{decoder}_{backbone}"
        for dataset in ("pascal", "coco")
        for decoder in decoders
        for backbone in ("vgg16bn", "resnet50", "resnet101")
    }
    small = {f"{group}/{decoder}" for group in ("scenes", "photographs") for decoder in decoders}
    assert names == wanted | small


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
        ("episodic.optimizer.lr=.inf", "optimizer.lr = inf is not valid"),
        ("augmentation.scale=[1, .inf]", "scale"),
        ("augmentation.scale=[2, 1]", "scale is .smallest, largest."),
        ("episodic.epochs=3", "either steps or epochs"),
        ("clip.cache=here", "sees: plain, or augmentation.whole"),
        ("clip={text: none, visual: none}", "set prior: none"),
        ("fold", "'fold' is no key=value"),
        ("fold=[", "no valid YAML"),
    ],
)
def test_a_wrong_override_is_told_in_one_sentence(tmp_path, override, message):
    file = write(tmp_path / "recipe.yaml", MINIMAL)
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(file, [override])
    text = one_sentence(caught)
    elsewhere = ("YAML", "no key=value", "the recipe is not valid")
    assert text.startswith("the command line: ") or any(words in text for words in elsewhere)


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


def test_a_base_learner_that_is_trained_already_needs_no_length():
    pfenet = RECIPES / "pascal" / "pfenet_resnet50.yaml"  # trains none of its own
    recipe = load_recipe(pfenet, ["base.folder=runs/base-0/base"])
    assert recipe.base.folder == Path("runs/base-0/base")
    for wrong in ("base.batch=4", "base={folder: there, steps: 3, epochs: 4}"):
        with pytest.raises(UsageError, match="either steps or epochs"):
            load_recipe(pfenet, [wrong])


def test_length_in_steps_or_epochs():
    assert PhaseRecipe(steps=0).steps_for(100) == 0
    assert PhaseRecipe(epochs=2, batch=8).steps_for(100) == 25
    with pytest.raises(ValueError, match="either"):
        PhaseRecipe()
    assert Recipe.model_validate(MINIMAL).episodic.steps == 5
