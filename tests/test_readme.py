"""The Python of the README and of the first pages runs as printed; figures are those measured."""

import ast
import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from piclip.clip.checkpoints import BUILTIN_FOLDER
from piclip.datasets.scenes import make_scene
from piclip.evaluation.records import read_result
from piclip.evaluation.tables import make_tables, render

ROOT = Path(__file__).parents[1]
MODEL = "openai/clip-vit-base-patch16"


AFTER_PYTHON_3_10 = {
    *{"Self", "Unpack", "Never", "assert_never", "Required", "NotRequired", "LiteralString"},
    "get_type_hints",  # is there, but wraps what has the default None in Optional
}


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


def in_the_hubs_cache(cache, name):
    """The built-in model where the hub would have put the named one."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir()
    snapshot.symlink_to(BUILTIN_FOLDER)


@pytest.fixture
def run_page(tmp_path):
    """Run the Python of a page where the files are that it names; what it prints comes back."""

    def run(page, more=""):
        code = blocks(page)
        assert f'from_pretrained("{MODEL}")' in code[0]
        in_the_hubs_cache(tmp_path / "cache", MODEL)
        (tmp_path / "photos").mkdir()
        for name in set(re.findall(r'"([\w/]+\.(?:jpg|png))"', "".join(code))):
            scene = make_scene(0, len(name), include="cat")
            mask = scene.mask("cat").astype(np.uint8) * 255
            Image.fromarray(mask if name.endswith("png") else scene.image).save(tmp_path / name)
        Image.fromarray(make_scene(1, 0).image).save(tmp_path / "photos" / "one.jpg")
        (tmp_path / "photos" / "two.jpg").write_bytes(b"no picture")
        (tmp_path / "page.py").write_text("\n".join([*code, more]))
        environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
        ran = subprocess.run(
            [sys.executable, "page.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["a.png", "b.png"]
        return ran.stdout

    return run


def test_the_python_of_the_readme_runs_as_printed(run_page, tmp_path):
    (code,) = blocks("README.md")
    assert len(code.splitlines()) <= 11
    run_page("README.md")
    assert (tmp_path / "my-animals" / "segmenter.json").is_file()


@pytest.mark.slow
def test_the_python_of_the_first_page_runs_as_printed(run_page):
    assert len(blocks("docs/index.md")) == 1
    run_page("docs/index.md")


@pytest.mark.slow
def test_the_how_to_from_python_runs_as_printed(run_page, tmp_path):
    assert len(blocks("docs/how-to-python.md")) == 3
    printed = run_page("docs/how-to-python.md", "print(coco['images'], vvp.shape)")
    assert "two.jpg: this is not an image" in printed
    assert "'file_name': 'one.jpg'" in printed and "[1, 2, 1, 256]" in printed
    assert (tmp_path / "my-animals" / "segmenter.json").is_file()


# Figures: rows of tables as the files of results have them.


def measured(name):
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def miou(entries, shot, **wanted):
    """One figure with its interval."""
    (found,) = (entry for entry in entries if {"shot": shot, **wanted}.items() <= entry.items())
    return f"{found['miou']:.1f} ± {found['ci95']:.1f}"


def share(results, shot, field):
    """A percentage of the episodes without the class, or with it."""
    (found,) = (m for m in results["modes"] if (m["mode"], m["shot"]) == ("absent", shot))
    return f"{100 * found[field]:.0f} %"


def cells(page):
    """The rows of all tables of a page, without emphasis."""
    lines = (ROOT / page).read_text(encoding="utf-8").replace("**", "").splitlines()
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]


def row(page, start):
    """The cells beside the one that starts so."""
    (found,) = (cells[1:] for cells in cells(page) if cells[0].startswith(start))
    return found


def scene_rows():
    results = measured("scenes")
    maps = {
        "VTP": "VTP",
        "VTP + PIR": "VTP+PIR",
        "VVP": "VVP",
        "VVP + PIR": "VVP+PIR",
        "contrast, on the patch grid": "contrast",
        "fused, on the patch grid": "fused",
        "final mask": "final",
    }
    rows = {
        title: [miou(results["rows"], k, map=name) for k in (1, 5)] for title, name in maps.items()
    }
    modes = {
        "under a name that no model knows": "nameless",
        "with supports of another class": "wrong-support",
    }
    rows |= {
        title: [miou(results["modes"], k, mode=mode) for k in (1, 5)]
        for title, mode in modes.items()
    }
    return rows | {
        "scenes without the class that get a mask": [
            share(results, k, "absent_masked") for k in (1, 5)
        ],
        "scenes with the class that get none": [share(results, k, "present_lost") for k in (1, 5)],
    }


def titled(page, title):
    """The one row whose first cell is the title, whatever explanation follows it."""
    found = [
        cells[1:]
        for cells in cells(page)
        if re.fullmatch(rf"{re.escape(title)}( \(.*\)|, last .*)?", cells[0])
    ]
    assert found, f"{page} has no row {title!r}"
    return found


@pytest.mark.parametrize("page", ["docs/measured.md", "src/piclip/clip/builtin/MODEL_CARD.md"])
def test_the_figures_on_drawn_scenes_are_those_of_the_file(page):
    for title, expected in scene_rows().items():
        assert expected in titled(page, title), (title, expected)


def test_the_figures_on_photographs_are_those_of_the_files():
    voc, coco = measured("photos"), measured("photos-coco")
    runs = ((voc, 1), (voc, 5), (coco, 1), (coco, 5))
    rows = {
        "final mask": [miou(run["rows"], k, map="final") for run, k in runs],
        "with supports of another class": [
            miou(run["modes"], k, mode="wrong-support") for run, k in runs
        ],
        "images without the class that get a mask": [
            share(run, k, "absent_masked") for run, k in runs
        ],
        "images with the class that get none": [share(run, k, "present_lost") for run, k in runs],
    }
    for title, expected in rows.items():
        assert expected in titled("docs/measured.md", title), (title, expected)
        on_voc = titled("docs/photographs.md", "mIoU" if title == "final mask" else title)
        assert expected[:2] in on_voc, (title, expected)
    assert (voc["images"], coco["images"]) == (221, 356)
    one, five = (miou(voc["rows"], k, map="final").split()[0] for k in (1, 5))
    first_page = " ".join((ROOT / "docs/index.md").read_text(encoding="utf-8").split())
    assert f"with one labelled photograph {one} mIoU, with five {five}," in first_page


def test_the_table_of_the_readme_is_that_of_the_files():
    voc, coco, scenes = (measured(name) for name in ("photos", "photos-coco", "scenes"))
    for title, run in (
        ("221 VOC photographs", voc),
        ("356 COCO photographs", coco),
        ("drawn scenes, built-in model", scenes),
    ):
        figures = [miou(run["rows"], k, map="final") for k in (1, 5)]
        drawn = " / ".join(share(run, k, "absent_masked") for k in (1, 5))
        assert row("README.md", title) == [*figures, drawn]


def test_the_figures_of_speed_are_those_of_the_file():
    speed = measured("speed")
    fields = {
        "one class": "one_class",
        "each further class": "extra_class",
        "20 classes": "twenty_classes",
        "in the order of the published code, one": "reference_one_class",
        "in the order of the published code, 20": "reference_twenty_classes",
        "`fit`": "fit",
        "bfloat16": "bf16_over_fp32",
        "`predict`, one class": "predict_one_class",
        "`predict`, 20 classes": "predict_twenty_classes",
        "`predict` of 12 megapixels": "predict_large",
        "peak memory": "memory",
    }
    for title, field in fields.items():
        assert row("docs/measured.md", title)[0] == f"{speed[field]:.2f}", title
    one, twenty = (f"{speed[f'predict_{n}']:.2f}" for n in ("one_class", "twenty_classes"))
    assert [row("docs/models.md", "one class"), row("docs/models.md", "20 classes")] == [
        [one],
        [twenty],
    ]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"one class costs {one} plain passes of ViT-B/16 and twenty cost {twenty}" in readme
    page = " ".join((ROOT / "docs/measured.md").read_text(encoding="utf-8").split())
    assert f"takes {speed['memory_mib']['predict_large']:.0f} MiB above" in page
    assert f"PNG masks at {speed['segment_per_second']:.2f} a second" in page
    assert f"takes {speed['plain_seconds']:.2f} s" in (ROOT / "docs/models.md").read_text()


def test_the_figures_of_the_engine_are_those_of_the_file():
    for found in measured("engine")["rows"]:
        figures = [found[k] for k in ("run_ms_per_image", "again_s_per_50000", "bytes_per_image")]
        assert row("docs/many-images.md", f"{found['images']:,} images") == [
            str(each) for each in figures
        ]


def test_the_figures_of_workers_are_those_of_the_file():
    titles = {
        "one_process_one_thread": "one process, one",
        "one_process_two_threads": "one process, two",
        "two_workers": "`--workers 2`",
        "shards_one_process": "shards, one",
        "ray_two_actors": "shards, Ray",
    }
    for way, found in measured("workers")["ways"].items():
        figures = [str(found[key]) for key in ("images_per_second", "start_seconds")]
        assert row("docs/many-images.md", titles[way]) == figures
        assert found["differing_images"] == 0


COMPARISONS = {
    "photos5i": (
        {"named": "segmenter, stand-in texts", "nameless": "segmenter, no text"},
        range(200, 1001, 200),
    ),
    "scenes5i": (
        {"named": "segmenter, named", "nameless": "segmenter, no text"},
        range(300, 1501, 300),
    ),
}
"""Rows of the segmenter, and the steps of the trainings' course, of each comparison."""
DECODERS = ("PFENet", "BAM", "HDMNet")


@pytest.fixture(scope="module", params=COMPARISONS)
def comparison(request):
    """A comparison's name, and its results by the names of their files."""
    files = sorted((ROOT / "benchmarks" / request.param).glob("results/*.json"))
    return request.param, {file.stem: read_result(file) for file in files}


def test_the_tables_of_a_comparison_are_those_of_its_files(comparison):
    name, results = comparison
    for style in ("main", "priors"):
        page = (ROOT / "benchmarks" / name / f"{style}.md").read_text(encoding="utf-8")
        tables = make_tables([*results.items()], style)
        assert page == "\n".join(render(table, "markdown") for table in tables)


def test_the_figures_of_a_comparison_are_those_of_its_results(comparison):
    name, results = comparison
    page = f"benchmarks/{name}/README.md"
    folds = sorted({result.fold for result in results.values()})

    def figure(name, shots, minus=None):
        """Mean over the folds, and its interval over the seeds; or that of a difference."""
        seeds = np.zeros(5)
        for fold in folds:
            for sign, own in ((1, name), (-1, minus)):
                if own is not None and f"{own}-fold{fold}-{shots}shot" not in results:
                    return "-"
                if own is not None:
                    result = results[f"{own}-fold{fold}-{shots}shot"]
                    assert result.complete and result.episodes == 40
                    seeds += sign * np.array([one.miou for one in result.per_seed]) / len(folds)
        half = stats.t.ppf(0.975, 4) * seeds.std(ddof=1) / 5**0.5
        return f"{seeds.mean():{'+' if minus else ''}.1f} ± {half:.1f}"

    priors = ("none", "imagenet", "vtp", "vtp+pir", "vvp", "piclip")
    for title in (*DECODERS, "threshold"):
        for shots in (1, 5):
            names = [f"{title.lower()}-{prior}" for prior in priors]
            assert row(page, f"{title}, {shots} shot") == [figure(name, shots) for name in names]
            gains = [figure(name, shots, f"{title.lower()}-imagenet") for name in names]
            assert row(page, f"{title}, gain, {shots} shot") == gains
    segmenters, steps = COMPARISONS[name]
    for kind, title in segmenters.items():
        assert row(page, title) == [figure(f"segmenter-{kind}", shots) for shots in (1, 5)]
    file = ROOT / "benchmarks" / name / "trainings.json"
    trainings = json.loads(file.read_text(encoding="utf-8"))["trainings"]
    assert len(trainings) == 18 * len(folds)
    for title, (shown, prior) in product(
        DECODERS, {"none": "none", "previous": "imagenet", "PI-CLIP's": "piclip"}.items()
    ):
        own = [t for t in trainings if (t["decoder"], t["prior"]) == (title.lower(), prior)]
        expected = [np.mean([t["scores"][str(step)] for t in own]) for step in steps]
        assert row(page, f"{title}, {shown}") == [f"{score:.1f}" for score in expected]


@pytest.mark.parametrize(
    ("kind", "title", "steps"),
    [
        ("", "as above", 1000),
        ("-again", "another seed", 1000),
        ("-shorter", "400 steps", 400),
        ("-longer", "2000 steps", 2000),
    ],
)
def test_the_controls_of_photographs_are_those_of_their_files(kind, title, steps):
    folder = ROOT / "benchmarks" / f"photos5i{kind}"

    def shown(figures, sign=""):
        half = stats.t.ppf(0.975, 4) * figures.std(ddof=1) / 5**0.5
        return f"{figures.mean():{sign}.1f} ± {half:.1f}"

    for decoder, shots in product(DECODERS, (1, 5)):
        seeds = []
        for prior in ("none", "imagenet", "piclip"):
            file = folder / "results" / f"{decoder.lower()}-{prior}-fold0-{shots}shot.json"
            result = read_result(file)
            assert result.complete and result.recipe["seed"] == (kind == "-again")
            assert result.recipe["episodic"]["steps"] == steps
            seeds.append(np.array([one.miou for one in result.per_seed]))
        none, previous, ours = seeds
        expected = [*map(shown, seeds), shown(ours - previous, "+"), shown(ours - none, "+")]
        assert row("benchmarks/photos5i/README.md", f"{decoder}, {title}, {shots} shot") == expected


def test_the_overview_of_decoders_is_that_of_their_pages():
    for title in DECODERS:
        for name, world in (("photos5i", "photographs"), ("scenes5i", "scenes")):
            page = f"benchmarks/{name}/README.md"
            for shots in (1, 5):
                none, previous, *_, ours = row(page, f"{title}, {shots} shot")
                expected = [none, previous, ours]
                assert row("docs/measured.md", f"{title}, {world}, {shots} shot") == expected


def test_what_the_backbone_of_scenes_has_learned_is_that_of_its_record():
    folder = ROOT / "benchmarks" / "scenes5i"
    record = json.loads((folder / "backbone.json").read_text(encoding="utf-8"))
    page = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    assert f"mean average precision is {record['held_out_map']} (`backbone.json`)" in page
    assert f"({record['scenes']} other scenes, ten times each, no mask)" in page
    assert record["epochs"] == 10


def imported_for_types_alone(tree):
    """What stands in the blocks of a module that only a type checker reads."""
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            yield from (node for line in block.body for node in ast.walk(line))


@pytest.mark.parametrize("package", ["src", "world"])
def test_nothing_runs_that_the_oldest_python_lacks(package):
    assert "(Python 3.10 or newer)" in (ROOT / "README.md").read_text(encoding="utf-8")
    for file in (ROOT / package).rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 10))
        unread = set(imported_for_types_alone(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "typing" and node not in unread:
                names = {alias.name for alias in node.names}
                assert not names & AFTER_PYTHON_3_10, file
