"""Proposals as rows of a Parquet file."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_masks

from piclip.annotation.parquet import counts_of, read_rows, row_of, write_rows
from piclip.annotation.queries import Failure
from piclip.annotation.sinks import Proposal
from piclip.errors import UsageError
from piclip.formats import LabelledFile, Region, RunLengthMask


def proposal(number):
    mask = np.random.default_rng(number).random((5, 7)) > 0.5
    regions = (
        Region("cat", RunLengthMask.from_array(mask), score=0.1234),
        Region("ünï", RunLengthMask.from_array(~mask), score=1 / 3),
    )
    presence = {"cat": 0.1 + 0.2, "ünï": 0.0} if number % 2 else None
    file = LabelledFile(f"a/{number}.png", 5, 7, regions[: number % 3], presence=presence)
    return Proposal(file, number / 7)


def test_rows_come_back_as_they_were_over_many_row_groups(tmp_path):
    given = [proposal(number) for number in range(2300)]
    failures = [Failure("b.png", "b.png: gone."), Failure("\udcff.png", "no \udcff text")]
    rows = [*map(row_of, given), *map(vars, failures)]
    write_rows(iter(rows), tmp_path / "rows.parquet")
    found = list(read_rows(tmp_path / "rows.parquet"))
    assert [Proposal.of(row["path"], row) for row in found[:-2]] == given
    assert [(row["path"], row["reason"]) for row in found[-2:]] == [
        ("b.png", "b.png: gone."),
        ("\\udcff.png", "no \\udcff text"),
    ]
    assert counts_of(tmp_path / "rows.parquet") == (2302, 2)
    assert pq.ParquetFile(tmp_path / "rows.parquet").num_row_groups == 3


def test_other_programs_decode_the_masks(tmp_path):
    given = proposal(2)
    write_rows([row_of(given)], tmp_path / "rows.parquet")
    (row,) = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    for found, region in zip(row["regions"], given.file.regions, strict=True):
        size = [row["height"], row["width"]]
        mask = coco_masks.decode({"size": size, "counts": found["counts"]})
        np.testing.assert_array_equal(mask, region.mask.to_array())


def test_no_rows_are_a_file_too(tmp_path):
    write_rows([], tmp_path / "rows.parquet")
    assert list(read_rows(tmp_path / "rows.parquet")) == []
    assert counts_of(tmp_path / "rows.parquet") == (0, 0)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(99) + b"PAR1"])
def test_damaged_files_are_told_in_a_sentence(tmp_path, content):
    (tmp_path / "bad.parquet").write_bytes(content)
    for read in (counts_of, lambda path: list(read_rows(path))):
        with pytest.raises(UsageError, match=r"bad\.parquet.*run the same command"):
            read(tmp_path / "bad.parquet")


def test_other_tables_are_told_in_a_sentence(tmp_path):
    pq.write_table(pa.table({"path": ["a"], "reason": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match="no Parquet file of proposals"):
        list(read_rows(tmp_path / "other.parquet"))
