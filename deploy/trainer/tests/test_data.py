"""Rows in one form, and which of them are held out."""

import unittest

import numpy

from hone_trainer.data.problems import BadRow
from hone_trainer.errors import DataError
from hone_trainer.rows import Row, convert, detect
from hone_trainer.split import split

ANSWERED = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})


def chat(question: str, answer: str = "a") -> Row:
    return Row(messages=({"role": "user", "content": question}, {"role": "assistant", "content": answer}))


class Formats(unittest.TestCase):
    def row(self, value: dict) -> Row:
        return convert(value, detect(value))

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

    def test_fields_of_messages_that_templates_print_are_kept_and_others_named(self) -> None:
        kept = {"reasoning_content": "r", "thinking": "t", "name": "n", "tool_call_id": "c"}
        other = {"weight": 0, "role": "x", "content": "y", "name": 3, "absent": None}
        row = self.row({"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": "a", **kept}]})
        self.assertEqual(row, Row(messages=(ANSWERED[0], {"role": "tool", "content": "a", **kept})))
        self.assertNotEqual(row.content(), Row(messages=(ANSWERED[0], {"role": "tool", "content": "a"})).content())
        turns = [{"from": "human", "value": "q", **kept}, {"from": "gpt", "value": "a", **other}]
        row = self.row({"conversations": turns})
        self.assertEqual(row.messages, (ANSWERED[0] | kept, ANSWERED[1]))
        self.assertEqual(row.ignored, ("content", "name", "role", "weight"))
        self.assertEqual(row.with_system("s").ignored, row.ignored)
        asked = [{"role": "user", "content": "q", "id": 1, "tool_calls": []}]
        row = self.row({"prompt": asked, "completion": [{"role": "assistant", "content": "a", "weight": 1}]})
        self.assertEqual((row.messages, row.ignored), (ANSWERED, ("id", "weight")))

    def test_what_no_format_has_is_refused(self) -> None:
        for value in ({"chosen": "x"}, [], "text", {}):
            with self.subTest(value), self.assertRaises(BadRow) as caught:
                detect(value)
            self.assertEqual(caught.exception.kind, "unknown_format")

    def test_tables_of_text_may_hold_lists_as_json(self) -> None:
        row = self.row({"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'})
        self.assertEqual(row.messages, ANSWERED)

    def test_wrong_rows_are_refused(self) -> None:
        wrong = (
            ({"messages": []}, "messages", "wrong_type"),
            ({"messages": [{"role": "robot", "content": "x"}]}, "messages", "unknown_role"),
            ({"messages": [{"role": "user"}]}, "messages", "wrong_type"),
            ({"messages": "x"}, "messages", "wrong_type"),
            ({"messages": [{"role": "user", "content": "x"}], "tools": 3}, "messages", "wrong_type"),
            ({"conversations": [{"from": 1, "value": "x"}]}, "sharegpt", "unknown_role"),
            ({"instruction": "x", "output": 3}, "alpaca", "wrong_type"),
            ({"instruction": "x", "output": "y", "history": ["z"]}, "alpaca", "wrong_type"),
            ({"prompt": "x"}, "prompt_completion", "wrong_type"),
            ({"text": None}, "text", "wrong_type"),
            (["x"], "text", "not_object"),
        )
        for value, form, kind in wrong:
            with self.subTest(value), self.assertRaises(BadRow) as caught:
                convert(value, form)
            self.assertEqual(caught.exception.kind, kind)

    def test_what_there_is_nothing_to_learn_from_says_why(self) -> None:
        for row, lack in (
            (chat("q", " "), "no_answer"),
            (chat(" ", ""), "empty_rows"),
            (Row(text=" \n"), "empty_rows"),
            (Row(messages=ANSWERED[:1]), "no_answer"),
            (chat(" "), None),
            (Row(text="t"), None),
        ):
            with self.subTest(row):
                self.assertEqual(row.lack(), lack)

    def test_a_system_prompt_is_added_where_there_is_none(self) -> None:
        row = chat("q").with_system("s")
        self.assertEqual([message["role"] for message in row.messages], ["system", "user", "assistant"])
        self.assertEqual(row.with_system("t"), row)
        self.assertEqual(Row(text="t").with_system("s"), Row(text="t"))


class HeldOut(unittest.TestCase):
    rows = numpy.array([chat(str(number)).content() for number in range(100)], dtype=numpy.uint64)

    def test_the_choice_depends_on_content_and_seed_alone(self) -> None:
        one = split(self.rows, None, 0.1, seed=7)
        backwards = self.rows[::-1].copy()
        other = split(backwards, None, 0.1, seed=7)
        chosen = set(self.rows[one.held_out].tolist())
        self.assertEqual(len(chosen), 10)
        self.assertEqual(chosen, set(backwards[other.held_out].tolist()))
        self.assertNotEqual(chosen, set(self.rows[split(self.rows, None, 0.1, seed=8).held_out].tolist()))
        self.assertEqual(sorted([*one.train, *one.held_out]), list(range(100)))

    def test_copies_of_held_out_rows_never_reach_training(self) -> None:
        rows = numpy.tile(self.rows, 3)
        result = split(rows, None, 0.1, seed=7)
        self.assertEqual((len(result.held_out), result.overlap, len(result.train)), (10, 20, 270))
        self.assertFalse(set(rows[result.train].tolist()) & set(rows[result.held_out].tolist()))
        self.assertEqual(set(rows[result.copies].tolist()), set(rows[result.held_out].tolist()))

    def test_a_given_channel_is_held_out_and_its_rows_dropped_from_train(self) -> None:
        result = split(self.rows, self.rows[:5], 0.5, seed=7)
        self.assertEqual((len(result.held_out), result.overlap, len(result.train)), (5, 5, 95))

    def test_a_small_fraction_still_holds_one_row_out(self) -> None:
        self.assertEqual(len(split(self.rows[:3], None, 0.01, seed=7).held_out), 1)

    def test_nothing_to_train_on_is_a_data_error(self) -> None:
        for train, given, fraction in (
            (self.rows[:0], None, 0.0),
            (self.rows[:1], None, 0.5),
            (self.rows[:1], self.rows[:1], 0.0),
            (self.rows, self.rows[:0], 0.0),
        ):
            with self.subTest(train), self.assertRaises(DataError):
                split(train, given, fraction, seed=7)


if __name__ == "__main__":
    unittest.main()
