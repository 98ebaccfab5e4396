"""Jobs in shards in one process: the images of an ordinary run, whatever comes between."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from piclip.annotation.answers import How, answers
from piclip.annotation.queries import Queries
from piclip.annotation.sinks import Proposal, Regions
from piclip.distributed import annotate
from piclip.distributed.catalogue import shard_of
from piclip.errors import OutputError, PiclipError, UsageError
from piclip.training_free.scorer import TrainingFreeScorer

NAMES = sorted(
    ["broken.jpg"] + [f"{'more/' if n % 4 == 3 else ''}photo{n:02}.png" for n in range(12)]
)


@pytest.fixture
def expected(segmenter, photos):
    """What the engine of single runs finds, by path."""
    entries = answers(segmenter, Queries(NAMES, str(photos)), Regions(), How(batch_size=1))
    return {
        entry.path: None if entry.reason else Proposal.of(entry.path, entry.found)
        for entry in entries
    }


def by_path(done):
    rows = list(done.shards.rows())
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def same(found, expected, root=""):
    assert sorted(found) == sorted(root + path for path in expected)
    for path, proposal in expected.items():
        row = found[root + path]
        if proposal is None:
            assert (row["reason"] is None, row["regions"]) == (False, None)
        else:
            assert row["reason"] is None
            given = Proposal.of(row["path"], row)
            assert replace(given.file, path=path) == proposal.file
            assert given.certainty == proposal.certainty


def run(segmenter, images, output, **more):
    return annotate(segmenter, images, output, **({"shards": 4, "batch_size": 1} | more))


def test_shards_hold_what_a_single_run_finds(segmenter, photos, tmp_path, expected):
    seen = []
    done = run(segmenter, photos, tmp_path / "out", on_progress=lambda n, of: seen.append((n, of)))
    same(by_path(done), expected)
    assert (done.images, done.failed, done.earlier) == (13, 1, 0)
    (failure,) = done.shards.failures()
    assert failure.path == "broken.jpg"
    assert failure.reason.startswith(f"{photos}/broken.jpg: this is not an image")
    assert sum(len(p.file.regions) for p in done.shards.proposals()) > 0
    assert (seen[0], seen[-1]) == ((0, 13), (13, 13))
    assert [n for n, _ in seen] == sorted(n for n, _ in seen)
    for number in done.shards.done():
        for path in pq.read_table(done.shards.place(number))["path"].to_pylist():
            assert shard_of(path, 4) == number


def test_images_of_one_size_are_seen_together(segmenter, photos, tmp_path, monkeypatch):
    for number in range(0, 12, 2):
        (path,) = photos.rglob(f"photo{number:02}.png")
        with Image.open(path) as image:
            image.resize((80, 50)).save(path)
    seen = []
    scored = TrainingFreeScorer._scored

    def counted(self, images, *others):
        seen.append(len(images))
        return scored(self, images, *others)

    monkeypatch.setattr(TrainingFreeScorer, "_scored", counted)
    done = run(segmenter, photos, tmp_path / "out", shards=1, batch_size=3)
    assert (done.images, done.failed) == (13, 1)
    assert sorted(seen) == [3, 3, 3, 3]


def test_other_programs_read_the_shards_as_one_table(segmenter, photos, tmp_path):
    run(segmenter, photos, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "shards")
    assert sorted(table["path"].to_pylist()) == NAMES
    assert table.schema.field("reason").type == pa.string()


@pytest.mark.parametrize("kind", ["list", "parquet", "file-url"])
def test_lists_parquet_and_file_urls_name_the_same_images(
    segmenter, photos, tmp_path, expected, kind
):
    listed = [*NAMES, NAMES[3], "gone.png"]  # one path twice, one of no file
    if kind == "list":
        images = photos / "list.txt"
        images.write_text("\n".join(listed))
    elif kind == "parquet":
        images = photos / "list.parquet"
        pq.write_table(pa.table({"path": [None, *listed], "more": range(16)}), images)
    else:
        images = f"file://{photos}"
        (photos / "gone.png").symlink_to("nowhere")
    output = f"file://{tmp_path}/out" if kind == "file-url" else tmp_path / "out"
    done = run(segmenter, images, output)
    found = by_path(done)
    gone = found.pop("gone.png")
    assert "no such file" in gone["reason"]
    same(found, expected)
    assert (done.images, done.failed) == (14, 2)
    assert (tmp_path / "out" / "job.json").is_file()


def test_a_bucket_to_a_bucket(segmenter, bucket, memory, expected):
    done = run(segmenter, bucket, "memory://found/here")
    same(by_path(done), expected)
    (failure,) = done.shards.failures()
    assert failure.reason.startswith("memory://bucket/broken.jpg: this is not an image")
    assert memory.isfile("/found/here/job.json")
    assert not [name for name in memory.find("/found") if "/." in name]
    assert run(segmenter, bucket, "memory://found/here").earlier == 13


def test_a_parquet_file_of_urls(segmenter, bucket, memory, expected):
    urls = [f"{bucket}/{name}" for name in NAMES] + [f"{bucket}/gone.png", "zip://a::b/c.png"]
    with memory.open("/lists/all.parquet", "wb") as file:
        pq.write_table(pa.table({"path": urls}), file)
    done = run(segmenter, "memory://lists/all.parquet", "memory://found")
    found = by_path(done)
    assert "check the address" in found.pop(f"{bucket}/gone.png")["reason"]
    assert "only URLs of s3" in found.pop("zip://a::b/c.png")["reason"]
    same(found, expected, f"{bucket}/")


def test_an_interrupted_job_goes_on_and_ends_the_same(segmenter, photos, tmp_path, predicted):
    whole = run(segmenter, photos, tmp_path / "whole")
    predicted.clear()
    counting = TrainingFreeScorer.score

    def interrupted(self, images, **options):
        if len(predicted) == 5:
            raise KeyboardInterrupt
        return counting(self, images, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingFreeScorer, "score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(segmenter, photos, tmp_path / "out")
    finished = sorted(path.name for path in (tmp_path / "out" / "shards").glob("part-*"))
    assert 0 < len(finished) < 4
    before = {name: (tmp_path / "out" / "shards" / name).stat().st_mtime_ns for name in finished}
    (tmp_path / "out" / "shards" / ".piclip-half.parquet").write_bytes(b"half")
    Image.new("RGB", (8, 8)).save(photos / "later.png")  # not there when the job was started
    predicted.clear()
    done = run(segmenter, photos, tmp_path / "out", shards=None)
    assert 0 < len(predicted) < 12
    shards = tmp_path / "out" / "shards"
    earlier = sum(pq.read_metadata(shards / name).num_rows for name in finished)
    assert (done.images, done.failed, done.earlier) == (13, 1, earlier)
    assert list(done.shards.rows()) == list(whole.shards.rows())
    for name, time in before.items():
        assert (tmp_path / "out" / "shards" / name).stat().st_mtime_ns == time
    assert sorted(p.name for p in (tmp_path / "out" / "shards").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole" / "shards").iterdir()
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threshold": 0.4}, "threshold"),
        ({"min_presence": 0.1}, "min_presence"),
        ({"shards": 5}, "shards"),
        ({"without": ["photo00.png"]}, "without"),
        ({"learned": "other"}, "labels"),
    ],
)
def test_other_settings_are_refused(segmenter, photos, tmp_path, change, named):
    run(segmenter, photos, tmp_path / "out")
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*"))
    with pytest.raises(UsageError, match=rf"other settings \({named}\); choose another --output"):
        run(segmenter, photos, tmp_path / "out", **change)
    assert before == sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*"))
    assert run(segmenter, photos, tmp_path / "out", **change, overwrite=True).earlier == 0


def test_other_images_are_refused(segmenter, photos, tmp_path):
    table = photos / "some.parquet"
    pq.write_table(pa.table({"path": NAMES[:4]}), table)
    run(segmenter, table, tmp_path / "out")
    pq.write_table(pa.table({"path": NAMES[:5]}), table)
    with pytest.raises(UsageError, match=r"other settings \(rows, bytes\)"):
        run(segmenter, table, tmp_path / "out")
    with pytest.raises(UsageError, match=r"\(images, "):
        run(segmenter, photos, tmp_path / "out")


def test_images_that_are_left_out(segmenter, photos, tmp_path):
    listed = photos / "list.txt"
    listed.write_text("\n".join([*NAMES[:3], f"{photos}/photo08.png"]))
    done = run(segmenter, listed, tmp_path / "out", without=["photo08.png", NAMES[1]])
    assert sorted(by_path(done)) == [NAMES[0], NAMES[2]]


def test_what_cannot_be_done_is_refused(segmenter, photos, tmp_path):
    def refused(match, images=photos, output=tmp_path / "out", error=UsageError, **options):
        with pytest.raises(error, match=match):
            annotate(segmenter, images, output, **options)

    refused("choose local or ray", engine="slurm")
    refused("are for the engine ray", actors=2)
    refused("one shard", shards=0)
    refused("1,000,000 shards at most", shards=1_000_001)
    refused("there are no images", images=tmp_path / "nowhere")
    refused("only URLs of s3", images="github://who/what")
    refused("known to this process alone", output="memory://out", engine="ray", actors=1)
    pq.write_table(pa.table({"file": ["a"]}), tmp_path / "other.parquet")
    refused("no column named path", images=tmp_path / "other.parquet")
    # As Ray writes what it would unpickle.
    unknown = {"ARROW:extension:name": "ray.data.arrow_pickled_object"}
    field = pa.field("path", pa.binary(), metadata=unknown)
    pq.write_table(pa.table({"path": [b"a"]}, pa.schema([field])), tmp_path / "hostile.parquet")
    refused("a type of a library", images=tmp_path / "hostile.parquet", engine="ray")
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    refused("no Parquet file of paths", images=tmp_path / "bad.parquet")
    refused("holds bad.parquet, which no run of piclip annotate has made", output=tmp_path)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "job.json").write_text(json.dumps({"settings": {}}))
    refused("no record of a job", output=tmp_path / "odd")
    segmenter.reset()
    refused("fit first")


def test_a_damaged_shard_is_told(segmenter, photos, tmp_path):
    done = run(segmenter, photos, tmp_path / "out")
    Path(done.shards.place(min(done.shards.done()))).write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="remove it and run the same command again"):
        run(segmenter, photos, tmp_path / "out")


def test_a_storage_that_is_gone_ends_the_run_and_not_its_images(segmenter, photos, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(f"memory://gone/{number}.png" for number in range(30)))
    with pytest.raises(PiclipError, match="of the 30 images of a shard can be opened"):
        run(segmenter, listed, tmp_path / "out", shards=1)
    assert not list((tmp_path / "out" / "shards").glob("part-*"))


def test_one_run_at_a_time(segmenter, photos, tmp_path):
    from piclip.io.ownership import owned

    with (
        owned(tmp_path / "out", tmp_path / "out" / ".piclip.lock"),
        pytest.raises(OutputError, match="is being written by"),
    ):
        run(segmenter, photos, tmp_path / "out")


@settings(max_examples=20)
@given(paths=st.sets(st.text(min_size=1), min_size=1), shards=st.integers(1, 1000))
def test_every_path_has_one_shard(paths, shards):
    for path in paths:
        assert 0 <= shard_of(path, shards) < shards
        assert shard_of(path, shards) == shard_of(str(path), shards)
    assert {shard_of(path, 1) for path in paths} == {0}


def test_the_shard_of_a_path_never_changes():
    # Of another version, an interrupted job would be taken up with images twice or not at all.
    assert [shard_of(path, 1000) for path in ("a.jpg", "s3://bucket/ä.png")] == [449, 578]
