"""Parquet files whose cells are large: how much is unpacked at once."""

from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tasks.sheets import batch_rows
from tests.tasks.test_readers import process_of, read


def rows_at_once(path: Path, **options: Any) -> int:
    columns = {"id": ["1", "2", "3"] * 100, "text": pyarrow.array(["x" * 2**20, "y", "z"] * 100), "queue": ["a"] * 300}
    parquet.write_table(pyarrow.table(columns), path, **options)
    with parquet.ParquetFile(path) as file:
        return batch_rows(file, path, ["id", "text"])


def test_fewer_rows_are_unpacked_at_once_where_one_value_may_stand_in_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_at_once(tmp_path / "a.parquet", compression="zstd") == 255  # 256 MiB of a text of 1 MiB and what is beside it
    monkeypatch.setattr("tasks.sheets.BATCH_BYTES", 4 * 2**20)
    assert rows_at_once(tmp_path / "a.parquet", compression="zstd") == 3
    assert rows_at_once(tmp_path / "a.parquet", use_dictionary=False) == 11  # a third of a MiB on average
    assert [record.line for record in read(tmp_path / "a.parquet", process_of(key="none"))[0]] == list(range(1, 301))


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_row_that_is_too_large_is_rejected_with_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_dictionary: bool
) -> None:
    for name, value in (("MAX_ROW_BYTES", 2_000), ("KEPT_BYTES", 300)):
        monkeypatch.setattr(f"tasks.sheets.{name}", value)
    rows = {"id": ["1", "2", "3"], "text": ["a", "订单" * 1_000, None], "queue": ["x", "y", "z"]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet", use_dictionary=use_dictionary)
    good, bad, _ = read(tmp_path / "a.parquet")
    assert [(record.id, record.line) for record in good] == [("1", 1), ("3", 3)]
    assert [row.line for row in bad] == [2] and "bytes, at most 2000 are read; its beginning is kept" in bad[0].reason
    assert "订单订单" in bad[0].content and len(bad[0].content) < 600
