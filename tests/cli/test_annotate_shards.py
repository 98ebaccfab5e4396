"""``piclip annotate`` with URLs, lists, ``--engine`` and Parquet."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from piclip.annotation.parquet import read_rows
from piclip.annotation.sinks import Proposal
from piclip.formats import Labels, read_labels, write_labels
from piclip.io.storage import file_system, files_below, names, put_all


@pytest.fixture
def command(piclip, model):
    def run(images, labels, output, *more):
        return piclip(
            *("annotate", "--images", images, "--labels", labels, "--output", output),
            *("--model", model, "--device", "cpu", "--dtype", "float32", *more),
        )

    return run


def regions(files):
    return {file.path: file.regions for file in files}


def test_parquet_of_a_single_run_has_what_coco_has_and_the_failures(annotate, album):
    assert annotate("--min-score", 0.5).code == 0
    (album.photos / "photo3.png").write_bytes(b"no image")
    ran = annotate("--output-format", "parquet", "--min-score", 0.5, output="out.parquet")
    assert ran.code == 1
    rows = list(read_rows(album.folder / "out.parquet"))
    (failed,) = [row for row in rows if row["reason"]]
    assert (failed["path"], "no image" in failed["reason"]) == ("photo3.png", False)
    assert "photo3.png: this is not an image" in failed["reason"]
    found = [Proposal.of(row["path"], row) for row in rows if not row["reason"]]
    expected = regions(album.labels("out.json").images)
    assert sum(map(len, expected.values())) > 0
    assert regions(p.file for p in found) == {
        path: kept for path, kept in expected.items() if path != "photo3.png"
    }
    assert all(0 <= proposal.certainty <= 1 for proposal in found)
    ran = annotate("--output-format", "parquet", output=".")
    assert (ran.code, "labels.parquet" in ran.sentence) == (2, True)


@pytest.mark.parametrize("format", ["coco", "masks", "parquet", "yolo"])
def test_shards_in_this_process_end_as_a_single_run(annotate, album, format):
    target = "out.json" if format == "coco" else "out"
    all_kept = ("--min-area", 0) if format == "parquet" else ()  # as the shards keep all
    assert annotate("--batch-size", 1, *all_kept).code == 0
    expected = {path: file.regions for path, file in album.by_path("out.json").items()}
    ran = annotate(
        *("--engine", "local", "--output-format", format, "--batch-size", 1, "--json"),
        output=f"sharded-{target}",
    )
    assert (ran.code, json.loads(ran.out)["annotated"]) == (0, 4)
    assert "4 of 4 images annotated" in ran.err
    place = album.folder / f"sharded-{target}"
    if format == "parquet":
        rows = [row for file in (place / "shards").iterdir() for row in read_rows(file)]
        assert regions(Proposal.of(row["path"], row).file for row in rows) == expected
        assert json.loads(ran.out)["shards"] == f"{place}/shards"
    elif format == "coco":
        assert regions(read_labels(place).images) == expected
        assert album.json("sharded-out.json")["categories"] == album.json()["categories"]
    elif format == "yolo":
        assert annotate("--output-format", format, "--batch-size", 1, output="yolo").code == 0
        single = album.folder / "yolo"
        files = {file.relative_to(single) for file in single.rglob("*.*")}
        assert len(files) >= 6
        assert files == {file.relative_to(place) for file in place.rglob("*.*")}
        for file in files:
            lines = [sorted((top / file).read_text().splitlines()) for top in (single, place)]
            assert lines[0] == lines[1]
    else:
        for path, kept in expected.items():
            for name in {region.class_name for region in kept}:
                assert (place / name / path).is_file()
        assert Path(f"{place}.shards", "job.json").is_file()


def test_everything_in_a_bucket(annotate, command, album, memory):
    assert annotate("--batch-size", 1).code == 0
    for file in album.folder.rglob("*.*"):
        if file.is_file():
            memory.pipe(f"/bucket/{file.relative_to(album.folder)}", file.read_bytes())
    memory.pipe("/bucket/photos/broken.png", b"no image")
    ran = command(
        "memory://bucket/photos", "memory://bucket/labels.json", "memory://found/out.json",
        "--json", "--batch-size", 1,
    )  # fmt: skip
    assert ran.code == 1, ran.err
    said = json.loads(ran.out)
    assert (said["annotated"], said["failures"]) == (4, 1)
    assert said["failed"][0]["image"] == "broken.png"
    (album.folder / "copy.json").write_bytes(memory.cat_file("/found/out.json"))
    assert regions(album.labels("copy.json").images) == regions(album.labels("out.json").images)
    again = command(
        "memory://bucket/photos", "memory://bucket/labels.json", "memory://found/out.json",
        "--json", "--output-format", "masks",
    )  # fmt: skip
    assert (again.code, "is a file" in again.sentence) == (2, True)


def test_what_is_said_of_labels_that_were_fetched_names_their_url(command, album, memory):
    labels = album.json("labels.json")
    labels["annotations"][-1]["category_id"] = 77
    (album.photos / "photo1.png").write_bytes(b"no image")
    memory.pipe("/bucket/labels.json", json.dumps(labels).encode())
    for file in album.photos.iterdir():
        memory.pipe(f"/bucket/photos/{file.name}", file.read_bytes())
    places = ("memory://bucket/photos", "memory://bucket/labels.json", "memory://found/out.json")
    ran = command(*places)
    assert "memory://bucket/labels.json: annotation " in ran.err
    assert "memory://bucket/photos/photo1.png: this is not an image" in ran.err
    memory.pipe("/bucket/labels.json", b"{")
    damaged = command(*places)
    assert damaged.sentence.startswith("memory://bucket/labels.json: this is not ")
    assert "/piclip-" not in ran.err + damaged.err


@pytest.mark.parametrize("kind", ["path", "memory"])
def test_a_higher_min_score_takes_masks_away_and_nothing_else(annotate, album, memory, kind):
    top = {"path": str(album.folder), "memory": "memory://found"}[kind]
    options = ("--engine", "local", "--output-format", "masks", "--output", f"{top}/out/")
    assert annotate(*options, output=None).code == 0
    assert set(names(f"{top}/out")) <= {"cat", "sky"}
    assert names(f"{top}/out.shards") != []
    masks = set(files_below(f"{top}/out"))
    put_all(album.photos / "photo0.png", f"{top}/out/cat/theirs.png")
    scores = sorted(
        region["score"] for row in read_job(f"{top}/out.shards") for region in row["regions"]
    )
    assert annotate(*options, "--min-score", scores[-1], output=None).code == 0
    assert "cat/theirs.png" in (left := set(files_below(f"{top}/out")))
    assert 0 < len(left - {"cat/theirs.png"}) < len(masks)
    assert annotate(*options, output=None).code == 0
    assert set(files_below(f"{top}/out")) == masks | {"cat/theirs.png"}


def read_job(folder):
    for name in names(f"{folder}/shards"):
        system, path = file_system(f"{folder}/shards/{name}")
        with system.open(path, "rb") as file:
            yield from read_rows(file)


def test_images_of_coco_keep_their_numbers(annotate, album):
    for engine in ((), ("--engine", "local")):
        assert annotate(*engine, output=f"out{len(engine)}.json").code == 0
    alone, shards = (
        {file.path: file.id for file in album.labels(name).images}
        for name in ("out0.json", "out2.json")
    )
    assert shards == alone == {f"photo{number}.png": 100 + number for number in range(2, 6)}


def test_tasks_of_label_studio_keep_their_data(annotate, album):
    options = ("--output-format", "label-studio", "--min-score", 0.5, "--batch-size", 1)
    assert annotate(*options, "--with-labels", output="tasks.json").code == 0
    tasks = album.json("tasks.json")
    for number, task in enumerate(tasks):
        task["data"]["patient"] = f"number {number}"
        task["id"] = number + 7
        shapes = task.pop("predictions")[0]["result"]
        task["annotations"] = [{"result": shapes}] if number < 2 else []
    (album.folder / "tasks.json").write_text(json.dumps(tasks))
    found = []
    for more in ((), ("--engine", "local")):
        ran = annotate(*options, *more, labels="tasks.json", output=f"found{len(more)}.json")
        assert ran.code == 0, ran.err
        found.append(album.json(f"found{len(more)}.json"))
    alone, shards = ({task["data"]["image"]: task for task in tasks} for tasks in found)
    assert shards == alone
    assert all("patient" in task["data"] for task in found[1])


def test_labels_in_folders_of_a_bucket_find_their_images(annotate, command, album, memory):
    labels = album.labels()
    write_labels(Labels(labels.class_names, labels.labelled), album.folder / "m", format="masks")
    for file in [*album.photos.iterdir(), *(album.folder / "m").rglob("*.png")]:
        memory.pipe(f"/bucket/{file.relative_to(album.folder)}", file.read_bytes())
    options = ("--name", "sky", "--name", "cat", "--output-format", "coco", "--batch-size", 1)
    assert annotate(*options, "--format", "masks", labels="m").code == 0
    ran = command("memory://bucket/photos", "memory://bucket/m", album.folder / "b.json", *options)
    assert ran.code == 0, ran.err
    assert regions(album.labels("b.json").images) == regions(album.labels("out.json").images)


def test_a_list_and_label_files_that_stay_below_their_folder(command, album):
    listed = album.folder / "list.txt"
    listed.write_text(f"photos/photo2.png\n{album.photos}/photo3.png\nphotos/../photos/photo4.png")
    before = {file: file.read_bytes() for file in album.photos.iterdir()}
    labels = album.labels()
    files = tuple(f"photos/{file.path}" for file in labels.labelled)
    shown = [type(f)(p, *f.size, f.regions) for f, p in zip(labels.labelled, files, strict=True)]
    write_labels(Labels(labels.class_names, tuple(shown)), album.folder / "l.json", format="coco")
    out = album.folder / "out"
    ran = command(listed, album.folder / "l.json", out, "--output-format", "masks")
    assert ran.code == 0, ran.err
    assert before == {file: file.read_bytes() for file in album.photos.iterdir()}
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    below = f"{album.photos}".lstrip("/")
    allowed = {"photos/photo2.png", f"{below}/photo3.png", "photos/photos/photo4.png"}
    assert written
    assert written <= {f"{name}/{path}" for name in ("sky", "cat") for path in allowed}


def test_what_others_have_made_is_not_written_over(annotate, album):
    labels = (album.folder / "labels.json").read_bytes()
    ran = annotate("--engine", "local", output="labels.json")
    assert (ran.code, "must be different" in ran.sentence) == (2, True)
    (album.folder / "theirs").mkdir()
    (album.folder / "theirs" / "photo2.png").write_bytes(b"theirs")
    ran = annotate("--engine", "local", "--output-format", "masks", output="theirs")
    assert (ran.code, "no run of piclip annotate has made it" in ran.sentence) == (2, True)
    assert (album.folder / "theirs" / "photo2.png").read_bytes() == b"theirs"
    ran = annotate("--engine", "local", "--output-format", "masks", "--overwrite", output=".")
    assert (ran.code, "holds the images themselves" in ran.sentence) == (2, True)
    assert (album.folder / "labels.json").read_bytes() == labels
    for _ in range(2):
        assert annotate("--engine", "local").code == 0


def test_what_a_person_has_corrected_in_labelme_is_kept(annotate, album):
    options = ("--engine", "local", "--output-format", "labelme")
    for _ in range(2):
        assert annotate(*options, output="out").code == 0
    file = album.folder / "out" / "photo3.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=2))
    corrected = file.read_bytes()
    ran = annotate(*options, "--min-score", 0.5, output="out")
    assert (ran.code, "photo3.json was changed since" in ran.sentence) == (2, True)
    assert file.read_bytes() == corrected
    assert annotate(*options, "--overwrite", output="out").code == 0
    assert file.read_bytes() != corrected


def test_every_field_of_json_is_documented(annotate, piclip, album, model):
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    section = text.split("## What is printed as JSON")[1].split("\n## ")[0]
    (album.photos / "broken.png").write_bytes(b"no image")
    write_labels(album.labels(), album.folder / "masks", format="masks")
    for ran in (
        annotate("--json", "--holdout"),
        annotate("--json", "--engine", "local", output="shards.json"),
        piclip(
            *("segment", "--model", model, "--device", "cpu", "--overlay", "--json"),
            *("--support", album.photos / "photo0.png", "--name", "cat"),
            *("--mask", album.folder / "masks" / "cat" / "photo0.png"),
            *("--query", album.photos, "--output", album.folder / "out"),
        ),
    ):
        assert ran.code == 1, ran.err
        printed = json.loads(ran.out)
        items = [item for name in ("failed", "holdout", "images") for item in printed.get(name, [])]
        assert items
        for fields in [printed, *items]:
            assert [field for field in fields if f"`{field}`" not in section] == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--engine", "local", "--review", "r.csv"), "--review is for a folder on this computer"),
        (("--engine", "local", "--holdout", "--workers", 2), "--holdout, --workers is for"),
        (("--labels", "memory://nowhere/l.json"), "memory://nowhere/l.json: there is no such file"),
        (("--engine", "slurm"), "choose local or ray"),
        (("--actors", 2), "are for work in shards"),
        (("--engine", "local", "--actors", 2), "for the engine ray"),
        (("--engine", "local", "--output-format", "tiff"), "There is no label format 'tiff'"),
        (
            ("--engine", "local", "--output-format", "parquet", "--min-score", 0.5),
            "leave --min-score out",
        ),
    ],
)
def test_what_shards_cannot_do_is_refused(annotate, album, options, sentence):
    ran = annotate(*options)
    assert (ran.code, sentence in ran.sentence) == (2, True), ran.sentence
    assert not (album.folder / "out.json").exists()


@pytest.mark.parametrize("engine", [(), ("--engine", "local")])
def test_images_that_failed_earlier_are_none_of_those_annotated_earlier(annotate, album, engine):
    (album.photos / "photo3.png").write_bytes(b"no image")
    for earlier in (0, 3):
        ran = annotate(*engine, "--json")
        assert (ran.code, json.loads(ran.out)["earlier"]) == (1, earlier)
    assert "3 of 4 images annotated (3 from an earlier run)" in ran.err


@pytest.mark.parametrize("engine", [(), ("--engine", "local")])
def test_ctrl_c_while_labels_are_written_says_how_to_go_on(annotate, album, monkeypatch, engine):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("piclip.formats.coco.write", interrupted)
        ran = annotate(*engine)
    assert (ran.code, "run the same command again to go on" in ran.sentence) == (1, True)
    ran = annotate(*engine, "--json")
    assert (ran.code, json.loads(ran.out)["earlier"]) == (0, 4)
    assert len(album.labels("out.json").images) == 4


def test_ctrl_c_says_how_far_it_is(annotate, album, monkeypatch):
    from piclip.distributed.worker import Worker

    work, worked = Worker.work, []

    def interrupted(self, number, paths):
        if worked:
            raise KeyboardInterrupt
        worked.append(number)
        return work(self, number, paths)

    listed = album.photos / "list.txt"
    listed.write_text("\n".join(f"photo{number}.png" for number in range(2, 6)))
    monkeypatch.setattr("piclip.distributed.shards._IMAGES_EACH", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "work", interrupted)
        ran = annotate("--engine", "local")
    assert (ran.code, "images done; run the same command again" in ran.sentence) == (1, True)
    ran = annotate("--engine", "local", "--json")
    assert (ran.code, json.loads(ran.out)["annotated"]) == (0, 4)
    assert 0 < json.loads(ran.out)["earlier"] < 4
    shards = album.folder / "out.json.shards" / "shards"
    assert sum(pq.read_metadata(path).num_rows for path in shards.iterdir()) == 4


@pytest.mark.slow
def test_shards_and_label_files_on_ray_are_made_by_one_connection(annotate, album, monkeypatch):
    import ray

    init, connections = ray.init, []

    def counted(**options):
        connections.append(options)
        return init(**options)

    monkeypatch.setattr(ray, "init", counted)
    ran = annotate(*("--engine", "ray", "--actors", 1, "--output-format", "masks"), output="on-ray")
    assert ran.code == 0, ran.err
    assert list((album.folder / "on-ray").rglob("*.png"))
    assert len(connections) == 1
    assert not ray.is_initialized()
