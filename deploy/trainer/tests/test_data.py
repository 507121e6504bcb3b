"""From files to held-out rows."""

import json
import tempfile
import unittest
from pathlib import Path

from hone_trainer.errors import DataError, MissingInput
from hone_trainer.rows import Row, convert, detect, read_channel
from hone_trainer.split import split

ANSWERED = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})


def chat(question: str, answer: str = "a") -> Row:
    return Row(messages=({"role": "user", "content": question}, {"role": "assistant", "content": answer}))


class Formats(unittest.TestCase):
    def row(self, value: dict) -> Row:
        return convert(value, detect(value), "here")

    def test_the_four_shapes_of_a_question_and_its_answer_are_one(self) -> None:
        shapes = (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            {"instruction": "q", "input": "", "output": "a"},
            {"instruction": "q", "response": "a"},
            {"prompt": "q", "completion": "a"},
            {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "q"}]},
                    {"role": "assistant", "content": "a"},
                ]
            },
        )
        for shape in shapes:
            with self.subTest(shape):
                self.assertEqual(self.row(shape).messages, ANSWERED)

    def test_alpaca_joins_input_system_and_history(self) -> None:
        row = self.row({"instruction": "i", "input": "x", "output": "o", "system": "s", "history": [["h", "k"]]})
        self.assertEqual([m["role"] for m in row.messages], ["system", "user", "assistant", "user", "assistant"])
        self.assertEqual(row.messages[3]["content"], "i\n\nx")

    def test_text_stays_text(self) -> None:
        self.assertEqual(self.row({"text": "t"}), Row(text="t"))

    def test_what_no_format_has_is_refused(self) -> None:
        for value in ({"chosen": "x"}, [], "text", {}):
            with self.subTest(value), self.assertRaises(DataError):
                detect(value)

    def test_wrong_rows_are_refused(self) -> None:
        wrong = (
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
            ({"messages": [{"role": "user"}]}, "messages"),
            ({"messages": "x"}, "messages"),
            ({"conversations": [{"from": 1, "value": "x"}]}, "sharegpt"),
            ({"instruction": "x", "output": 3}, "alpaca"),
            ({"instruction": "x", "output": "y", "history": ["z"]}, "alpaca"),
            ({"prompt": "x"}, "prompt_completion"),
            ({"text": None}, "text"),
            (["x"], "text"),
        )
        for value, kind in wrong:
            with self.subTest(value), self.assertRaises(DataError):
                convert(value, kind, "here")


class Files(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.directory = Path(holder.name)
        (self.directory / "train").mkdir()

    def write(self, name: str, content: str | bytes) -> None:
        path = self.directory / "train" / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def test_json_and_jsonl_files_are_read_in_name_order(self) -> None:
        self.write("b.jsonl", '\ufeff{"text": "2"}\n\n  {"text": "3"}')
        self.write("a.json", json.dumps([{"text": "0"}, {"text": "1"}]))
        self.write(".hidden", "not read")
        channel = read_channel(self.directory, "train", "auto")
        self.assertEqual([row.text for row in channel.rows], ["0", "1", "2", "3"])
        self.assertEqual([(f["name"], f["rows"]) for f in channel.files], [("a.json", 2), ("b.jsonl", 2)])
        self.assertEqual(channel.format, "text")

    def test_an_error_names_file_and_line(self) -> None:
        for content, place in (
            ('{"text": "x"}\n{"text": ', "t.jsonl:2"),
            (b'{"text": "\xff"}', "t.jsonl:1"),
            ('{"text": "x"}\n{"prompt": "x"}', "t.jsonl:2"),
        ):
            with self.subTest(content):
                self.write("t.jsonl", content)
                with self.assertRaisesRegex(DataError, place):
                    read_channel(self.directory, "train", "auto")

    def test_an_absent_or_empty_channel_is_a_missing_input(self) -> None:
        for name in ("train", "eval"):
            with self.subTest(name), self.assertRaises(MissingInput):
                read_channel(self.directory, name, "auto")


class HeldOut(unittest.TestCase):
    rows = [chat(str(number)) for number in range(100)]

    def test_the_choice_depends_on_content_and_seed_alone(self) -> None:
        one = split(self.rows, None, 0.1, seed=7)
        other = split(self.rows[::-1], None, 0.1, seed=7)
        self.assertEqual(len(one.held_out), 10)
        self.assertEqual({r.content_hash() for r in one.held_out}, {r.content_hash() for r in other.held_out})
        self.assertNotEqual(one.held_out, split(self.rows, None, 0.1, seed=8).held_out)
        self.assertEqual(len(one.train) + len(one.held_out), 100)

    def test_copies_of_held_out_rows_never_reach_training(self) -> None:
        result = split(self.rows * 3, None, 0.1, seed=7)
        self.assertEqual((len(result.held_out), result.overlap, len(result.train)), (10, 20, 270))
        self.assertFalse({r.content_hash() for r in result.train} & {r.content_hash() for r in result.held_out})

    def test_a_given_channel_is_held_out_and_its_rows_dropped_from_train(self) -> None:
        result = split(self.rows, self.rows[:5], 0.5, seed=7)
        self.assertEqual((len(result.held_out), result.overlap, len(result.train)), (5, 5, 95))

    def test_a_small_fraction_still_holds_one_row_out(self) -> None:
        self.assertEqual(len(split(self.rows[:3], None, 0.01, seed=7).held_out), 1)

    def test_empty_rows_are_counted(self) -> None:
        empty = [chat("q", " "), Row(text=" \n"), Row(messages=ANSWERED[:1])]
        result = split(self.rows + empty, None, 0.0, seed=7)
        self.assertEqual((result.empty, len(result.train), result.held_out), (3, 100, []))

    def test_nothing_to_train_on_is_a_data_error(self) -> None:
        for train, given, fraction in (
            ([chat("q", "")], None, 0.0),
            (self.rows[:1], None, 0.5),
            (self.rows[:1], self.rows[:1], 0.0),
            (self.rows, [chat("q", "")], 0.0),
        ):
            with self.subTest(train), self.assertRaises(DataError):
                split(train, given, fraction, seed=7)


if __name__ == "__main__":
    unittest.main()
