"""The how-to "From a bucket to a Parquet file", run as it is written, on a local Ray."""

import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to-bucket-to-parquet.md"


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_page_runs_and_ray_finds_what_one_process_finds(piclip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = {}
    blocks = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert [language for language, _ in blocks] == ["python", "bash", "python", "python"]
    for number, (language, text) in enumerate(blocks):
        if language == "python":
            capsys.readouterr()
            exec(compile(text, str(PAGE), "exec"), {})
            said[number] = capsys.readouterr().out
        else:
            command = shlex.split(text.replace("\\\n", " "))[1:]
            ran = piclip(*command)
            assert ran.code == 1
            assert "12 of 13 images annotated" in ran.err
            assert "broken.jpg: this is not an image" in ran.err

    by_ray = pq.read_table("bucket/found/shards").to_pylist()
    assert len({row["path"] for row in by_ray}) == len(by_ray) == 13
    # The page's last lines annotate the labelled images, too.
    by_one = {row["path"]: row for row in pq.read_table("found-in-python/shards").to_pylist()}
    assert len(by_one) == 16
    for row in by_ray:
        assert row["regions"] == by_one[row["path"]]["regions"]
    assert "'path': 'broken.jpg'" in said[2]
    assert len(re.findall(r"^photo\d\d\.png cat 0\.\d+ \d+ pixels$", said[2], re.M)) == sum(
        len(row["regions"] or ()) for row in by_ray
    )
    assert said[3].startswith("16 images, 1 failed, 0 from an earlier run")
