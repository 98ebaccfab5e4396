import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piclip.datasets.dataset import IGNORE, fold_members
from piclip.datasets.few_shot import EpisodeKeys, FewShotView, base_class_map
from piclip.errors import DatasetError, UsageError

SEEDS = st.integers(0, 2**40)
INDICES = st.integers(0, 10**6)
EXPECTED = [
    EpisodeKeys(2, "image2", ("image18", "image66")),
    EpisodeKeys(2, "image18", ("image10", "image2")),
    EpisodeKeys(3, "image3", ("image35", "image19")),
]


def slowly_counts(class_map, index):
    return sum(int(value) == index + 1 for row in class_map for value in row)


@settings(max_examples=20)
@given(
    seed=SEEDS,
    index=INDICES,
    shots=st.integers(1, 3),
    world=st.integers(0, 5),
    fold=st.integers(0, 3),
    classes=st.sampled_from(["novel", "base"]),
)
def test_an_episode_is_a_pure_function_and_keeps_the_rules(
    toy, seed, index, shots, world, fold, classes
):
    def make():
        return FewShotView(
            toy(world, images=150),
            fold=fold,
            split="val",
            classes=classes,
            minimum_images=shots + 2,
        )

    view = make()
    episode = view.episode(seed, index, shots)
    other = make()
    other.episode(seed + 1, index + 7, 1)  # what was drawn before leaves no trace
    assert other.episode(seed, index, shots) == episode
    more = view.episode(seed, index, shots + 1)
    assert (more.query, more.class_index) == (episode.query, episode.class_index)
    assert more.supports[:shots] == episode.supports
    assert len({more.query, *more.supports}) == shots + 2
    assert set(view.classes) <= set(view.novel_classes if classes == "novel" else view.base_classes)
    for key in (more.query, *more.supports):
        class_map = view.dataset.class_map(key)
        assert slowly_counts(class_map, more.class_index) >= view.dataset.minimum_pixels
        if classes == "base":
            assert not any(slowly_counts(class_map, novel) for novel in view.novel_classes)


def test_the_same_episode_on_every_machine(toy):
    """Written down, so that no version of NumPy or of this package changes it unnoticed."""
    maps = {f"image{number}": np.full((2, 2), number % 8 + 1, np.uint8) for number in range(80)}
    dataset = type(toy(0))({"train": {}, "val": maps}, classes=8)
    view = FewShotView(dataset, fold=1, split="val", classes="novel")
    assert [view.episode(3, index, 2) for index in (0, 1, 1000)] == EXPECTED


@given(classes=st.integers(1, 90), data=st.data())
def test_folds_part_the_classes(classes, data):
    folds = data.draw(st.integers(1, classes))
    convention = data.draw(st.sampled_from(["contiguous", "interleaved"]))
    members = fold_members(classes, folds, convention)
    assert sorted(index for fold in members for index in fold) == list(range(classes))
    sizes = [len(fold) for fold in members]
    assert len(sizes) == folds and max(sizes) - min(sizes) <= 1


def test_the_published_folds():
    assert fold_members(20, 4, "contiguous")[2] == (10, 11, 12, 13, 14)
    assert fold_members(80, 4, "interleaved")[1] == tuple(4 * j + 1 for j in range(20))
    assert fold_members(80, 4, "contiguous")[3] == tuple(range(60, 80))


def test_the_images_of_a_class_are_those_with_enough_pixels(toy):
    dataset = toy(1)
    view = FewShotView(dataset, fold=2, split="train", classes="novel", minimum_pixels=6)
    assert view.classes == view.novel_classes == (4, 5)
    for index in view.classes:
        enough = [k for k, m in dataset.maps["train"].items() if slowly_counts(m, index) >= 6]
        assert list(view.images_of[index]) == enough and enough
    counting = {key for images in view.images_of.values() for key in images}
    assert list(view.keys) == [key for key in dataset.keys("train") if key in counting]


def test_novel_pixels_are_dropped_with_their_images_or_become_background(toy):
    dataset = toy(2)
    dropped = FewShotView(dataset, fold=0, split="train", classes="base")
    kept = FewShotView(dataset, fold=0, split="train", classes="base", novel_pixels="background")
    assert set(dropped.keys) < set(kept.keys)
    for key in set(kept.keys) - set(dropped.keys):
        truth, seen = dataset.class_map(key), kept.sample(key).class_map
        for y, x in np.ndindex(truth.shape):
            novel = int(truth[y, x]) - 1 in kept.novel_classes
            assert seen[y, x] == (0 if novel else truth[y, x])
    assert any((dataset.class_map(key) == 1).any() for key in kept.keys)


@settings(max_examples=15)
@given(world=st.integers(0, 50), fold=st.integers(0, 3))
def test_labels_of_the_base_learner_have_no_gaps(toy, world, fold):
    dataset = toy(world, convention="interleaved")
    view = FewShotView(dataset, fold=fold, split="val", classes="base")
    key = dataset.keys("val")[world % 60]
    truth = dataset.class_map(key)
    labels = base_class_map(view, truth)
    assert labels.dtype == np.uint8
    for y, x in np.ndindex(truth.shape):
        value = int(truth[y, x])
        if value in (0, IGNORE):
            expected = value
        elif value - 1 in view.base_classes:
            expected = sorted(view.base_classes).index(value - 1) + 1
        else:
            expected = 0
        assert labels[y, x] == expected


def test_every_image_is_a_query_once_in_a_turn(toy):
    view = FewShotView(toy(0), fold=0, split="val", classes="novel")
    count = len(view.keys)
    turns = [[view.episode(4, turn * count + i, 1).query for i in range(count)] for turn in (0, 1)]
    assert sorted(turns[0]) == sorted(turns[1]) == sorted(view.keys)
    assert turns[0] != turns[1]


def test_loading_gives_the_images_of_the_keys(toy):
    view = FewShotView(toy(0), fold=0, split="val", classes="novel")
    keys = view.episode(0, 0, 3)
    episode = view.load(keys)
    assert episode.name == view.dataset.class_names[keys.class_index]
    assert tuple(sample.key for sample in episode.supports) == keys.supports
    assert episode.query.key == keys.query
    mask = episode.query.mask(keys.class_index)
    assert np.array_equal(mask, view.dataset.class_map(keys.query) == keys.class_index + 1)
    assert mask.dtype == np.bool_ and mask.sum() >= 4


def test_too_few_images_for_the_shots_are_said_at_once(toy):
    view = FewShotView(toy(0), fold=0, split="val", classes="novel")
    scarcest = min(len(images) for images in view.images_of.values())
    view.episode(0, 0, scarcest - 1)
    with pytest.raises(DatasetError, match=f"has {scarcest} images .* need {scarcest + 1}"):
        view.episode(0, 0, scarcest)
    fewer = FewShotView(toy(0), fold=0, split="val", classes="novel", minimum_images=scarcest + 1)
    assert len(fewer.classes) == 1
    assert len({fewer.episode(0, 0, scarcest).query}) == 1


def test_wrong_arguments_are_named(toy):
    dataset = toy(0)

    def view(**options):
        return FewShotView(dataset, **{"fold": 0, "split": "val", "classes": "novel", **options})

    for options, message in [
        ({"fold": 4}, "no fold 4 of toy; choose 0 to 3"),
        ({"split": "test"}, "no split 'test'; choose from train, val"),
        ({"classes": "all"}, "no kind of classes 'all'; choose from novel, base"),
        ({"novel_pixels": "keep"}, "no rule of novel_pixels 'keep'; choose from drop, background"),
        ({"minimum_pixels": 0}, "must be 1 or more"),
    ]:
        with pytest.raises(UsageError, match=message):
            view(**options)
    for arguments in [(-1, 0, 1), (0, -1, 1), (0, 0, 0)]:
        with pytest.raises(UsageError, match="An episode needs"):
            view().episode(*arguments)
    with pytest.raises(DatasetError, match="No image of the val split of toy counts"):
        view(minimum_pixels=43)
    most = max(map(len, view().images_of.values()))
    with pytest.raises(DatasetError, match=f"has {most + 1} images .* has {most}; lower minimum_i"):
        view(minimum_images=most + 1)
    with pytest.raises(DatasetError, match="lower minimum_pixels"):
        view(minimum_pixels=43, minimum_images=most + 1)
    with pytest.raises(UsageError, match="no base class"):
        FewShotView(toy(0, folds=1), fold=0, split="train", classes="base")
