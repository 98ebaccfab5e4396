"""Each protocol against the published procedure, written down plainly with its own generators."""

import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.episode_files import episodes_hash, read_episodes, write_episodes
from piclip.datasets.few_shot import EpisodeKeys, FewShotView
from piclip.datasets.protocols import HSNET, OURS, PFENET, PROTOCOLS, protocol_named
from piclip.errors import DatasetError, UsageError

SHOTS = 2


@pytest.fixture
def named(toy):
    """A toy dataset of 8 classes and 4 folds under the name of a benchmark."""

    def make(name, **options):
        dataset = toy(5, images=80, **options)
        dataset.name = name
        return dataset

    return make


def novel(dataset, fold=1, **options):
    return FewShotView(dataset, fold=fold, split="val", classes="novel", **options)


def test_ours_asks_what_a_view_draws(toy):
    view = novel(toy())
    assert OURS.episodes(view, 3, 20, 2) == tuple(view.episode(3, i, 2) for i in range(20))
    assert OURS.seeds(3) == (0, 1, 2)


class PlainPfenet:
    """What the published data sets do when they are asked for an image, by Python's generator."""

    def __init__(self, view):
        self.dataset, self.novel = view.dataset, view.classes
        maps = {key: view.dataset.class_map(key) for key in view.dataset.keys("val")}
        self.shown = {key: sorted({*np.unique(m).tolist()}) for key, m in maps.items()}
        self.files = {
            c: [key for key, m in maps.items() if (m == c + 1).sum() >= view.minimum_pixels]
            for c in self.novel
        }
        counted = {key for files in self.files.values() for key in files}
        self.images = [key for key in maps if key in counted]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        query = self.images[index]
        classes = [value - 1 for value in self.shown[query] if value - 1 in self.novel]
        chosen = classes[random.randint(1, len(classes)) - 1]
        files, taken = self.files[chosen], []
        for _ in range(SHOTS):
            place = random.randint(1, len(files)) - 1
            support = query
            while support == query or place in taken:
                place = random.randint(1, len(files)) - 1
                support = files[place]
            taken.append(place)
        return chosen, query, [files[place] for place in taken]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker processes")
def test_pfenet_draws_the_very_numbers_of_its_data_loader(toy):
    view = novel(toy(2))
    plain = PlainPfenet(view)
    torch.manual_seed(365)
    expected = []
    for _ in range(2):
        for row in DataLoader(plain, num_workers=8, collate_fn=lambda rows: rows[0]):
            expected.append(EpisodeKeys(row[0], row[1], tuple(row[2])))
    count = len(plain) + 7
    assert PFENET.episodes(view, 365, count, SHOTS) == tuple(expected[:count])
    # A class of few pixels in the query is asked for, too, which ours never does.
    assert any(e.query not in view.images_of[e.class_index] for e in expected)


def test_pfenet_takes_the_published_seeds_and_counts():
    np.random.seed(123)
    assert PFENET.seeds(10) == tuple(np.random.randint(0, 1000, 10).tolist())
    assert PFENET.seeds(5) == (510, 365, 382, 322, 988)
    assert [PFENET.count(name) for name in ("pascal-5i", "coco-20i")] == [1000, 10000]


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 3))
def test_pfenet_supports_differ_and_count_for_the_class(toy, seed, count, shots):
    view = novel(toy(1))
    episodes = PFENET.episodes(view, seed, count, shots)
    assert episodes == PFENET.episodes(view, seed, count + 90, shots)[:count]
    for episode in episodes:
        assert len({episode.query, *episode.supports}) == shots + 1
        assert {*episode.supports} <= {*view.images_of[episode.class_index]}


@pytest.fixture
def pascal(named, tmp_path):
    """The view of a fold and HSNet's list for it, in an order of its own."""
    view = novel(named("pascal-5i"))
    pairs = [(key, index) for index in view.classes[::-1] for key in view.images_of[index][::-1]]
    folder = tmp_path / "pascal" / "val"
    folder.mkdir(parents=True)
    text = "".join(f"{key}__{index + 1:02d}\n" for key, index in pairs)
    (folder / "fold1.txt").write_text(text)
    return view, pairs, tmp_path


def test_hsnet_asks_for_the_pairs_of_its_list_and_draws_supports_as_numpy_does(pascal):
    view, pairs, splits = pascal
    np.random.seed(0)
    expected = []
    for number in range(1000):
        query, index = pairs[number % len(pairs)]
        same, supports = [key for key, c in pairs if c == index], []
        while len(supports) < SHOTS:
            support = np.random.choice(same, 1, replace=False)[0]
            if support != query:
                supports.append(str(support))
        expected.append(EpisodeKeys(index, query, tuple(supports)))
    hsnet = protocol_named("hsnet", splits)
    drawn = hsnet.episodes(view, hsnet.seeds(1)[0], hsnet.count("pascal-5i"), SHOTS)
    assert drawn == tuple(expected)
    # Supports are drawn with replacement, only never the query.
    assert any(len({*e.supports}) < SHOTS for e in drawn)
    assert protocol_named("hsnet", splits / "pascal").episodes(view, 0, 5, SHOTS) == drawn[:5]
    assert protocol_named("hsnet", splits / "pascal" / "val").episodes(view, 0, 5, 2) == drawn[:5]


@pytest.fixture
def coco(named, tmp_path):
    view = novel(named("coco-20i", convention="interleaved"))
    lists = {c: [f"val2014/{key}.jpg" for key in view.images_of[c]] for c in view.classes[::-1]}
    (tmp_path / "coco" / "val").mkdir(parents=True)
    return view, lists, tmp_path


@pytest.mark.parametrize("protocol", range(5))
def test_hsnet_draws_a_class_and_then_an_image_of_coco(coco, protocol):
    view, lists, splits = coco
    file = splits / "coco" / "val" / "fold1.pkl"
    file.write_bytes(pickle.dumps(lists, protocol))
    np.random.seed(0)
    expected = []
    for _ in range(300):
        index = np.random.choice([1, 5], 1, replace=False)[0]
        query = np.random.choice(lists[index], 1, replace=False)[0]
        supports = []
        while len(supports) < SHOTS:
            support = np.random.choice(lists[index], 1, replace=False)[0]
            if support != query:
                supports.append(support)
        keys = [name.split("/")[1].split(".")[0] for name in (query, *supports)]
        expected.append(EpisodeKeys(int(index), keys[0], tuple(keys[1:])))
    assert protocol_named("hsnet", splits).episodes(view, 0, 300, SHOTS) == tuple(expected)
    # The class is uniform, however many images it has.
    share = Counter(episode.class_index for episode in expected)[1] / 300
    assert 0.4 < share < 0.6


def test_hsnet_asks_for_every_test_image_of_fss_once(tmp_path):
    for name in ("b", "a_2", "a-1", "c"):
        (tmp_path / name).mkdir()
        for number in range(1, 11):
            Image.new("L", (4, 4), 255).save(tmp_path / name / f"{number}.png")
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.jpg")
    for part, names in {"trn": "c\n", "val": "", "test": "b\na_2\na-1\n"}.items():
        (tmp_path / f"{part}.txt").write_text(names)
    view = novel(open_dataset("fss-1000", tmp_path), fold=0)
    np.random.seed(0)
    expected = []
    for name in ("a-1", "a_2", "b"):
        for number in sorted(map(str, range(1, 11))):
            supports = []
            while len(supports) < SHOTS:
                support = np.random.choice(range(1, 11), 1, replace=False)[0]
                if str(support) != number:
                    supports.append(f"{name}/{support}")
            index = view.dataset.class_names.index(name)
            expected.append(EpisodeKeys(index, f"{name}/{number}", tuple(supports)))
    assert HSNET.count("fss-1000") == 2400
    assert HSNET.episodes(view, 0, len(expected), SHOTS) == tuple(expected)
    (tmp_path / "b" / "7.jpg").unlink()
    with pytest.raises(DatasetError, match="b/7 is missing"):
        HSNET.episodes(novel(open_dataset("fss-1000", tmp_path), fold=0), 0, 1, 1)


def test_hsnet_is_measured_as_its_code_measures():
    assert HSNET.measure("pascal-5i").ignore and not HSNET.measure("coco-20i").ignore
    assert {HSNET.measure(name).side for name in ("pascal-5i", "coco-20i", "fss-1000")} == {400}
    for protocol in (OURS, PFENET):
        assert protocol.measure("coco-20i").ignore and protocol.measure("coco-20i").side is None
    assert [p.unseen_is_zero for p in PROTOCOLS.values()] == [False, True, True]


class Trap:
    def __reduce__(self):
        return (print, ("a pickle was executed",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Trap()), "more than lists"),
        (pickle.dumps({1: ["val2014/val3.jpg"], 5: [Trap()]}), "more than lists"),
        (b"}r\xff\xff\xff\xff.", "out of range"),
        (pickle.dumps({1: "val2014/val3.jpg", 5: []}), "does not hold lists"),
        (pickle.dumps({1: [1], 5: []}), "does not hold lists"),
        (pickle.dumps([1]), r"lists the classes \[\], but fold 1"),
        (pickle.dumps({1: ["a/val3.jpg"]}), r"lists the classes \[1\], but fold 1"),
        (pickle.dumps({1: ["a/elsewhere.jpg"] * 2, 5: []}), "names 1 images that are not in"),
        (pickle.dumps({1: ["a/val3.jpg"] * 2, 5: []}), "fewer than two images of the class"),
        (pickle.dumps({1: ["a"]})[:-3], "no pickle"),
        (b"", "no pickle"),
        (b"(.", "cannot be read"),
        (b"]]K\x01s.", "cannot be read"),
    ],
)
def test_lists_that_hsnet_never_wrote_are_refused_and_never_executed(
    coco, content, message, capsys
):
    view, _, splits = coco
    (splits / "coco" / "val" / "fold1.pkl").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as error:
        protocol_named("hsnet", splits).episodes(view, 0, 5, 1)
    assert "\n" not in str(error.value)
    assert "executed" not in capsys.readouterr().out


def test_lists_of_another_fold_or_form_are_refused(pascal):
    view, pairs, splits = pascal
    hsnet = protocol_named("hsnet", splits)
    path = splits / "pascal" / "val" / "fold1.txt"
    key = pairs[0][0]
    for text, message in {
        f"{key}__01\n{key}__02\n": r"lists the classes \[0, 1\], but fold 1 .* back \[2, 3\]",
        f"{key}\n": "the number of a class were expected",
        "nowhere__03\n": "names 1 images that are not in the val split",
        "": "lists the classes",
    }.items():
        path.write_text(text)
        with pytest.raises(DatasetError, match=message):
            hsnet.episodes(view, 0, 5, 1)
    path.unlink()
    with pytest.raises(DatasetError, match=r"holds no pascal/val/fold1\.txt"):
        hsnet.episodes(view, 0, 5, 1)


def test_protocols_that_do_not_fit_are_refused(toy, named):
    view = novel(named("pascal-5i"))
    with pytest.raises(UsageError, match=r"choose from ours, pfenet, hsnet"):
        protocol_named("panet")
    with pytest.raises(UsageError, match="needs no split files"):
        protocol_named("pfenet", "splits")
    with pytest.raises(UsageError, match="give the folder of its split files"):
        HSNET.episodes(view, 0, 1, 1)
    with pytest.raises(UsageError, match="is for pascal-5i, coco-20i, fss-1000, not for toy"):
        HSNET.episodes(novel(toy()), 0, 1, 1)
    with pytest.raises(UsageError, match="all novel classes of the val split"):
        train = FewShotView(view.dataset, fold=1, split="train", classes="novel")
        HSNET.episodes(train, 0, 1, 1)
    for protocol in PROTOCOLS.values():
        for seed, count, shots in ((-1, 1, 1), (2**32, 1, 1), (0, 0, 1), (0, 1, 0)):
            with pytest.raises(UsageError, match="Episodes need a seed"):
                protocol.episodes(view, seed, count, shots)
    with pytest.raises(DatasetError, match="60-shot"):
        PFENET.episodes(view, 0, 1, 60)


def test_a_file_keeps_its_protocol_and_a_support_twice_only_where_that_is_one_rule(
    pascal, tmp_path
):
    view, _, splits = pascal
    hsnet, path = protocol_named("hsnet", splits), tmp_path / "e.json"
    state = write_episodes(path, view, 0, 200, SHOTS, hsnet)
    file = read_episodes(path)
    file.check(view.dataset)
    assert (file.protocol, file.hash) == ("hsnet", state)
    assert file.episodes == hsnet.episodes(view, 0, 200, SHOTS)
    assert state == episodes_hash(file.episodes, view.dataset.class_names)
    text = path.read_text()
    path.write_text(text.replace('"hsnet"', '"pfenet"'))
    with pytest.raises(DatasetError, match="has not 2 different supports"):
        read_episodes(path)
    path.write_text(text.replace('"hsnet"', '"panet"'))
    with pytest.raises(UsageError, match="no protocol 'panet'"):
        read_episodes(path)
    write_episodes(path, view, 0, 5, SHOTS)
    old = path.read_text().replace('"protocol": "ours"', '"nothing": 0')
    path.write_text(old)
    assert read_episodes(path).protocol == "ours"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_go_to_other_processes(name):
    protocol = protocol_named(name)
    again = pickle.loads(pickle.dumps(protocol))
    assert again.seeds(3) == protocol.seeds(3)
