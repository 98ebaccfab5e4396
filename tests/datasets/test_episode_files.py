import json

import pytest

from piclip.datasets.dataset import Sample
from piclip.datasets.episode_files import episodes_hash, read_episodes, write_episodes
from piclip.datasets.few_shot import EpisodeKeys, FewShotView
from piclip.errors import DatasetError, OutputError, UsageError


@pytest.fixture
def view(toy):
    return FewShotView(toy(0), fold=1, split="val", classes="novel")


def test_what_is_written_is_what_was_drawn(view, tmp_path):
    path = tmp_path / "episodes.json"
    state = write_episodes(path, view, seed=3, count=20, shots=2)
    file = read_episodes(path)
    assert file.episodes == tuple(view.episode(3, index, 2) for index in range(20))
    assert file.hash == state == episodes_hash(file.episodes, view.dataset.class_names)
    assert (file.dataset, file.fold, file.split, file.classes) == ("toy", 1, "val", "novel")
    assert (file.seed, file.shots, file.minimum_pixels) == (3, 2, 4)
    file.check(view.dataset)
    assert isinstance(view.load(file.episodes[0]).query, Sample)
    assert write_episodes(tmp_path / "again.json", view, seed=3, count=20, shots=2) == state
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_the_hash_knows_class_query_supports_and_order():
    names = ["cat", "dog"]
    one, two = EpisodeKeys(0, "a", ("b", "c")), EpisodeKeys(1, "a", ("b", "c"))
    variants = [
        [one], [two], [one, two], [two, one], [EpisodeKeys(0, "b", ("a", "c"))],
        [EpisodeKeys(0, "a", ("c", "b"))], [EpisodeKeys(0, "a", ("b c",))], [],
    ]  # fmt: skip
    assert len({episodes_hash(variant, names) for variant in variants}) == len(variants)
    assert episodes_hash([one], names) == episodes_hash([two], ["x", "cat"])


def test_another_dataset_is_refused(view, toy, tmp_path):
    write_episodes(tmp_path / "e.json", view, seed=0, count=20, shots=2)
    file = read_episodes(tmp_path / "e.json")
    with pytest.raises(UsageError, match=r"of the \d+ images of the episodes are not in the val"):
        file.check(toy(0, images=5))
    with pytest.raises(UsageError, match=r"Class 2 is 'thing 2' in the episodes but None in toy"):
        file.check(toy(0, classes=2, folds=1))
    renamed = toy(0)
    renamed.name = "pet"
    with pytest.raises(UsageError, match="are of toy, not of pet"):
        file.check(renamed)


def test_damaged_and_changed_files_are_refused(view, tmp_path):
    path = tmp_path / "e.json"
    write_episodes(path, view, seed=0, count=5, shots=2)
    good = json.loads(path.read_text())

    def refused(message, text=None, **changes):
        path.write_text(json.dumps({**good, **changes}) if text is None else text)
        with pytest.raises(DatasetError, match=message):
            read_episodes(path)

    refused("not those that the hash was made of", episodes=good["episodes"][:-1])
    refused("no file of episodes", kind="evaluation")
    refused("has the format 2, not 1", format=2)
    refused("lacks a part", episodes=[[0]])
    refused("lacks a part", class_names={})
    refused("no intact JSON", text="{")
    refused("no file of episodes", text="[]")
    index, query, *supports = good["episodes"][0]
    leak = [[index, query, query, *supports[1:]]]
    keys = [EpisodeKeys(index, query, (query, *supports[1:]))]
    refused(
        "episode 0 has not 2 different supports beside its query",
        episodes=leak,
        hash=episodes_hash(keys, view.dataset.class_names),
    )
    path.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        read_episodes(path)


def test_wrong_arguments_leave_no_file(view, tmp_path):
    with pytest.raises(UsageError, match="one episode at least"):
        write_episodes(tmp_path / "e.json", view, seed=0, count=0, shots=1)
    with pytest.raises(DatasetError, match="60-shot"):
        write_episodes(tmp_path / "e.json", view, seed=0, count=1, shots=60)
    assert not (tmp_path / "e.json").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_episodes(tmp_path / "file" / "e.json", view, seed=0, count=1, shots=1)
