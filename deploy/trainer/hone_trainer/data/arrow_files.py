"""Parquet and Arrow, mapped and a few rows at a time.

Only the columns that some format knows are read: what else a table holds costs
neither time nor memory.
"""

from collections.abc import Iterator
from pathlib import Path

from hone_trainer.data.problems import BadRow
from hone_trainer.data.text_files import MAX_ROW_BYTES, Numbered
from hone_trainer.rows import COLUMNS

# Rows that become Python objects at a time.
ROWS = 64


def parquet_rows(path: Path) -> Numbered:
    """The rows of a Parquet file."""
    import pyarrow.parquet

    def batches() -> Iterator:
        with pyarrow.parquet.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            columns = _known(file.schema_arrow.names)
            yield from file.iter_batches(batch_size=ROWS, columns=columns, use_threads=False)

    return _rows(batches())


def arrow_rows(path: Path, stream: bool) -> Numbered:
    """The rows of an Arrow IPC file, or of a stream in a file."""
    import pyarrow

    def batches() -> Iterator:
        with pyarrow.memory_map(str(path)) as source:
            if stream:
                reader = pyarrow.ipc.open_stream(source)
                found: Iterator = iter(reader)
            else:
                reader = pyarrow.ipc.open_file(source)
                found = (reader.get_batch(index) for index in range(reader.num_record_batches))
            columns = _known(reader.schema.names)
            for batch in found:
                batch = batch.select(columns)
                for start in range(0, batch.num_rows, ROWS):
                    yield batch.slice(start, ROWS)

    return _rows(batches())


def _known(names: list[str]) -> list[str]:
    return [name for name in names if name in COLUMNS] or names


def _rows(batches: Iterator) -> Numbered:
    import pyarrow

    number = 0
    try:
        for batch in batches:
            for value in _values(batch):
                number += 1
                yield number, value
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield number + 1, BadRow("unreadable_file", str(error).splitlines()[0], fatal=True)


def _values(batch) -> Iterator[object]:
    if batch.nbytes <= MAX_ROW_BYTES:
        try:
            yield from batch.to_pylist()
            return
        except UnicodeDecodeError:
            pass
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        if row.nbytes > MAX_ROW_BYTES:
            yield BadRow("too_large", f"more than {MAX_ROW_BYTES} bytes")
            continue
        try:
            yield row.to_pylist()[0]
        except UnicodeDecodeError as error:
            yield BadRow("not_utf8", str(error))
