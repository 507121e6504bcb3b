"""Every container that rows come in, whole and broken."""

import csv
import gzip
import io
import json
import tempfile
import tracemalloc
import unittest
from pathlib import Path

import pyarrow
import pyarrow.parquet

from hone_trainer.contract import Exit
from hone_trainer.data.files import DataFile, channel_files, place, read
from hone_trainer.data.problems import BadRow
from hone_trainer.data.text_files import MAX_ROW_BYTES, json_array, json_lines
from hone_trainer.errors import DataError, MissingInput, exit_code
from hone_trainer.rows import convert, detect

# One row of each format, with what every container must give back.
ROWS = {
    "alpaca": {"instruction": "q", "input": "", "output": "a", "system": "s"},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "messages": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "prompt_completion": {"prompt": "q", "completion": "a"},
    "text": {"text": "t, with a comma\nand a line"},
}


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.directory = Path(holder.name)
        self.train = self.directory / "train"
        self.train.mkdir()

    def write(self, name: str, content: str | bytes) -> DataFile:
        path = self.train / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return DataFile(path, name)

    def rows(self, file: DataFile) -> list:
        return [value for _, value in read(file)[1]]

    def told(self, file: DataFile) -> list[tuple[str, str]]:
        """Places and kinds of the bad rows."""
        kind, rows = read(file)
        return [(place(file.name, kind, number), bad.kind) for number, bad in rows if isinstance(bad, BadRow)]


def csv_of(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    return text.getvalue()


def arrow_of(rows: list[dict], stream: bool) -> bytes:
    table, sink = pyarrow.Table.from_pylist(rows), io.BytesIO()
    make = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def parquet_of(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink, row_group_size=2)
    return sink.getvalue()


CONTAINERS = {
    "t.jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "t.json": json.dumps,
    "t.jsonl.gz": lambda rows: gzip.compress("\n".join(map(json.dumps, rows)).encode()),
    "t.csv": csv_of,
    "t.parquet": parquet_of,
    "t.arrow": lambda rows: arrow_of(rows, stream=False),
    "stream.arrow": lambda rows: arrow_of(rows, stream=True),
}


class Containers(Folder):
    def test_every_format_comes_out_of_every_container(self) -> None:
        for form, row in ROWS.items():
            wanted = convert(row, form)
            for name, make in CONTAINERS.items():
                with self.subTest(format=form, container=name):
                    found = self.rows(self.write(name, make([row] * 5)))
                    self.assertEqual([detect(value) for value in found], [form] * 5)
                    self.assertEqual([convert(value, form) for value in found], [wanted] * 5)

    def test_columns_that_no_format_knows_are_not_read(self) -> None:
        file = self.write("t.parquet", parquet_of([{"text": "t", "vector": [1.0] * 99}]))
        self.assertEqual(self.rows(file), [{"text": "t"}])

    def test_what_a_file_is_counts_and_not_its_name(self) -> None:
        for name, content in (("t.jsonl", json.dumps([{"text": "x"}])), ("t.json", '{"text": "x"}\n')):
            with self.subTest(name):
                self.assertEqual(self.rows(self.write(name, content)), [{"text": "x"}])
        self.assertEqual(self.rows(self.write("t", "[]")), [])
        lines = self.write("t.json", '\ufeff{"text": "x"}\n\n  {"text": "y"}')
        self.assertEqual(self.rows(lines), [{"text": "x"}, {"text": "y"}])
        with self.assertRaisesRegex(DataError, "neither Parquet nor Arrow"):
            read(self.write("t.parquet", "text"))

    def test_tables_of_text_may_have_other_separators(self) -> None:
        for name, content in (("t.tsv", "prompt\tcompletion\nq, r\ta\n"), ("t.csv", "prompt;completion\nq, r;a\n")):
            with self.subTest(name):
                self.assertEqual(self.rows(self.write(name, content)), [{"prompt": "q, r", "completion": "a"}])


class Folders(Folder):
    def names(self) -> list[str]:
        return [file.name for file in channel_files(self.directory, "train")]

    def test_files_are_read_in_name_order_without_what_lies_beside(self) -> None:
        for name in ("b.jsonl", "a/z.json", ".hidden", "README.md", "LICENSE", "load.py", "dataset_infos.json"):
            self.write(name, "x")
        self.assertEqual(self.names(), ["a/z.json", "b.jsonl"])

    def saved(self, under: str = "") -> None:
        """A data set as `save_to_disk` leaves it; the state decides the order."""
        for index in (0, 1):
            self.write(f"{under}data-0000{index}-of-00002.arrow", arrow_of([{"text": str(index)}], stream=True))
        files = [{"filename": f"data-0000{index}-of-00002.arrow"} for index in (1, 0)]
        self.write(f"{under}state.json", json.dumps({"_data_files": files}))
        self.write(f"{under}dataset_info.json", "{}")
        self.write(f"{under}cache-1234.arrow", "left over")

    def test_a_saved_data_set_has_the_files_that_it_lists(self) -> None:
        self.saved()
        self.assertEqual(self.names(), ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"])
        (self.train / "data-00001-of-00002.arrow").unlink()
        with self.assertRaisesRegex(DataError, "data-00001-of-00002.arrow"):
            self.names()

    def test_a_saved_data_set_cannot_name_files_elsewhere(self) -> None:
        self.saved()
        self.write("state.json", json.dumps({"_data_files": [{"filename": "../../secret"}]}))
        with self.assertRaises(DataError):
            self.names()

    def test_of_saved_splits_only_the_channels_own_is_read(self) -> None:
        for split in ("train", "test"):
            self.saved(f"{split}/")
        self.write("dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
        self.assertEqual([name.split("/")[0] for name in self.names()], ["train", "train"])

    def test_an_absent_or_empty_channel_is_a_missing_input(self) -> None:
        for name in ("train", "eval"):
            with self.subTest(name), self.assertRaises(MissingInput):
                channel_files(self.directory, name)

    def test_so_is_one_that_may_not_be_read(self) -> None:
        for name in ("t.jsonl", "deep"):
            self.write("deep/u.jsonl", "{}")
            self.write("t.jsonl", "{}")
            path = self.train / name
            path.chmod(0)
            self.addCleanup(path.chmod, 0o700)
            with self.subTest(name), self.assertRaisesRegex(MissingInput, f"Permission denied: .*/{name}") as caught:
                channel_files(self.directory, "train")
            self.assertEqual(exit_code(caught.exception), Exit.MISSING_INPUT)
            path.chmod(0o700)


class Broken(Folder):
    def test_each_bad_line_is_named_and_the_rest_is_read(self) -> None:
        lines = (b'{"text": "x"}', b'{"text": ', b'{"text": "\xff"}', b"", b'{"text": "y"}', b'{"text": "torn')
        file = self.write("t.jsonl", b"\n".join(lines))
        self.assertEqual(self.told(file), [("t.jsonl:2", "not_json"), ("t.jsonl:3", "not_utf8"), ("t.jsonl:6", "torn")])
        self.assertEqual([row for row in self.rows(file) if isinstance(row, dict)], [{"text": "x"}, {"text": "y"}])

    def test_a_character_that_the_end_of_the_file_cuts_is_torn(self) -> None:
        self.assertEqual(self.told(self.write("t.jsonl", '{"text": "ä'.encode()[:-1])), [("t.jsonl:1", "torn")])

    def test_deep_nesting_is_a_bad_row_and_no_crash(self) -> None:
        self.assertEqual(self.told(self.write("t.jsonl", "[" * 100_000 + "\n")), [("t.jsonl[1]", "not_json")])
        self.assertEqual(self.told(self.write("t.jsonl", '{"a":' * 100_000 + "\n")), [("t.jsonl:1", "not_json")])

    def test_a_cut_array_gives_what_came_before(self) -> None:
        whole = json.dumps([{"text": "x"}, {"text": "y"}])
        for cut in range(2, len(whole)):
            with self.subTest(whole[:cut]):
                told = self.told(self.write("t.json", whole[:cut]))
                self.assertEqual([kind for _, kind in told], ["torn"])
        self.assertEqual(self.told(self.write("t.json", '[{"text": "x"}, nonsense, {}]')), [("t.json[2]", "not_json")])
        self.assertEqual(self.told(self.write("t.json", "[1 2]")), [("t.json[2]", "not_json")])
        self.assertEqual(self.told(self.write("t.json", "[1] 2")), [("t.json[2]", "not_json")])

    def test_rows_of_a_table_must_fit_its_header(self) -> None:
        file = self.write("t.csv", 'prompt,completion\nq,a\nq\n"q\n2",a\nq,"torn')
        self.assertEqual(self.told(file), [("t.csv:3", "not_csv"), ("t.csv:6", "torn")])
        self.assertEqual(self.told(self.write("t.csv", "text,text\nx,y\n")), [("t.csv:1", "not_csv")])

    def test_a_cut_file_of_a_binary_format_says_from_where_on(self) -> None:
        rows = [{"text": str(number) * 50} for number in range(100)]
        for name, make in CONTAINERS.items():
            if name in ("t.parquet", "t.arrow", "stream.arrow", "t.jsonl.gz"):
                content = make(rows)
                with self.subTest(name):
                    told = self.told(self.write(name, content[: len(content) * 2 // 3]))
                    self.assertEqual(told[-1][1], "unreadable_file")

    def test_a_table_with_bytes_that_are_no_text_names_the_row(self) -> None:
        wrong = pyarrow.array([b"x", b"\xff", b"y"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
        sink = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"text": wrong}), sink)
        self.assertEqual(self.told(self.write("t.parquet", sink.getvalue())), [("t.parquet row 2", "not_utf8")])


class Endless(io.RawIOBase):
    """So many bytes on one line, made as they are read."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = min(len(buffer), self._left)
        buffer[:count] = b"x" * count
        self._left -= count
        return count


class Memory(Folder):
    def peak(self, rows) -> tuple[int, list]:
        tracemalloc.start()
        bad = [value for _, value in rows if isinstance(value, BadRow)]
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, bad

    def test_a_line_without_an_end_is_refused_and_never_held(self) -> None:
        used, bad = self.peak(json_lines(io.BufferedReader(Endless(16 * MAX_ROW_BYTES))))
        self.assertEqual([row.kind for row in bad], ["too_large"])
        self.assertLess(used, 6 * MAX_ROW_BYTES)

    def test_an_array_is_not_held_whole(self) -> None:
        row = json.dumps({"text": "x" * 1000})
        file = self.write("t.json", "[" + ",".join([row] * 40_000) + "]")
        with open(file.path, "rb") as opened:
            used, bad = self.peak(json_array(opened))
        self.assertEqual(bad, [])
        self.assertLess(used, file.path.stat().st_size // 8)


if __name__ == "__main__":
    unittest.main()
