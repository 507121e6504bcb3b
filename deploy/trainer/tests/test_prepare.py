"""From a folder of files to rows of tokens, and the report on what is wrong with them."""

import json
import tempfile
import unittest
from pathlib import Path

import numpy

from hone_trainer.contract import Paths
from hone_trainer.data.prepare import REPORT_FILE, Prepared, prepare
from hone_trainer.data.store import INDEX, MANIFEST, TOKENS, Store
from hone_trainer.errors import DataError, Stopped
from hone_trainer.make_base import train_tokenizer
from hone_trainer.render import IGNORED, prepare_tokenizer
from hone_trainer.spec import parse

# Refuses a conversation with the word "tea" in it, and hides the answer of one with "hidden".
TEMPLATE = (
    "{% for m in messages %}{% if 'tea' in m['content'] %}{{ raise_exception('no tea') }}{% endif %}"
    "{% if 'hidden' in m['content'] and messages|length > 1 %}x{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chat(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


class Preparing(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.directory = Path(holder.name)
        self.notices: list[tuple[str, str, str, dict]] = []
        for name in ("data/train", "data/eval", "metrics"):
            (self.directory / name).mkdir(parents=True)
        self.tokenizer = train_tokenizer(["the cat sees the dog"])
        self.tokenizer.chat_template = TEMPLATE
        prepare_tokenizer(self.tokenizer, "tokenizer")

    def write(self, name: str, lines: list) -> None:
        content = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (self.directory / "data" / name).write_text(content, errors="surrogateescape")

    def prepared(self, pause=lambda: None, **data: object) -> Prepared:
        self.notices.clear()
        values = {"version": 1, "model": {"name": "m"}, "data": data, "train": {"max_steps": 1, "seq_len": 48}}
        names = {f"HONE_{name}_DIR": str(self.directory / name.lower()) for name in ("DATA", "METRICS", "CACHE")}
        return prepare(parse(values), Paths.from_env(names), self.tokenizer, set(), pause, self.notice)

    def notice(self, level: str, code: str, message: str, **fields: object) -> None:
        self.notices.append((level, code, message, fields))

    def report(self) -> dict:
        return json.loads((self.directory / "metrics" / REPORT_FILE).read_bytes())

    def store(self) -> Path:
        (found,) = (path for path in (self.directory / "cache" / "data").glob("train-*") if path.is_dir())
        return found


BAD = [
    chat("q1", "a"),  # 1
    '{"messages": ',  # 2 not_json
    '{"text": "\udcff"}',  # 3 not_utf8
    {"messages": "x"},  # 4 wrong_type
    {"messages": [{"role": "robot", "content": "x"}]},  # 5 unknown_role
    ["x"],  # 6 not_object
    chat("a cup of tea", "no"),  # 7 template_refuses
    chat(" ", ""),  # 8 empty_rows
    chat("q", " "),  # 9 no_answer
    chat("the cat " * 40, "a"),  # 10 fully_masked
    chat("q2", "the dog " * 40),  # 11 overlong_truncated, no_stop
    chat("hidden", "a"),  # 12 template_mismatch
    chat("held", "out"),  # 13 overlap
    chat("q3", "a"),  # 14
]
TORN = '{"messages": [{"role": "user", "con'  # 15
PLACES = {
    "not_json": [2],
    "not_utf8": [3],
    "wrong_type": [4],
    "unknown_role": [5],
    "not_object": [6],
    "template_refuses": [7],
    "empty_rows": [8],
    "no_answer": [9],
    "fully_masked": [10],
    "overlong_truncated": [11],
    "no_stop": [11],
    "template_mismatch": [12],
    "overlap": [13],
    "torn": [15],
}
UNREADABLE = {"not_json", "not_utf8", "wrong_type", "unknown_role", "not_object", "template_refuses", "torn"}


class BadRows(Preparing):
    def setUp(self) -> None:
        super().setUp()
        self.write("train/t.jsonl", BAD)
        path = self.directory / "data/train/t.jsonl"
        path.write_bytes(path.read_bytes() + TORN.encode())
        self.write("eval/e.jsonl", [chat("held", "out")])

    def test_every_kind_is_counted_and_named_by_line_before_training(self) -> None:
        data = self.prepared(bad_rows="skip", eval={"channel": "eval"})
        told = {code: fields for _, code, _, fields in self.notices}
        wanted = {kind: [f"t.jsonl:{line}" for line in lines] for kind, lines in PLACES.items()}
        self.assertEqual({code: fields["places"] for code, fields in told.items()}, wanted)
        self.assertEqual((len(data.train), len(data.held_out)), (3, 1))
        problems = self.report()["channels"]["train"]["problems"]
        found = {item["kind"]: [first["place"] for first in item["first"]] for item in problems}
        self.assertEqual(found, wanted)
        self.assertTrue(self.report()["usable"])

    def test_an_error_names_every_kind_at_once(self) -> None:
        with self.assertRaises(DataError) as caught:
            self.prepared(eval={"channel": "eval"})
        for kind in UNREADABLE:
            self.assertIn(f"t.jsonl:{PLACES[kind][0]}", str(caught.exception))
        self.assertIn("set data.bad_rows to skip", str(caught.exception))
        self.assertFalse(self.report()["usable"])
        self.assertLessEqual(UNREADABLE, {code for _, code, _, _ in self.notices})

    def test_the_report_is_bounded_whatever_the_data(self) -> None:
        self.write("train/t.jsonl", [chat("q", "a"), *([["x" * 1000]] * 5000), *([{"messages": "y" * 9999}] * 5000)])
        with self.assertRaises(DataError):
            self.prepared()
        self.assertLess((self.directory / "metrics" / REPORT_FILE).stat().st_size, 32 * 1024)
        counts = {item["kind"]: item["count"] for item in self.report()["channels"]["train"]["problems"]}
        self.assertEqual(counts, {"not_object": 5000, "wrong_type": 5000})

    def test_overlong_rows_are_refused_together_if_the_spec_says_so(self) -> None:
        self.write("train/t.jsonl", [chat("q", "the dog " * 40), chat("q", "a"), chat("r", "the dog " * 50)])
        with self.assertRaisesRegex(DataError, r"2 rows longer .*t\.jsonl:1.*t\.jsonl:3.*data\.overlong"):
            self.prepared(overlong="error")

    def test_a_file_whose_rest_is_lost_is_an_error_even_with_skip(self) -> None:
        (self.directory / "data/train/u.json").write_text('[{"text": "x"} nonsense and more of it]')
        with self.assertRaisesRegex(DataError, "bring it again"):
            self.prepared(bad_rows="skip")


class Stores(Preparing):
    def setUp(self) -> None:
        super().setUp()
        self.lines = [chat(f"q{number}", f"the dog {number}") for number in range(40)]
        self.write("train/t.jsonl", self.lines)

    def test_rows_come_back_as_they_were_rendered(self) -> None:
        example = self.prepared().train[3]
        learned = [int(label) for label in example.labels if label != IGNORED]
        self.assertEqual(self.tokenizer.decode(learned), "the dog 3<eos>")
        whole = self.tokenizer.decode([int(token) for token in example.ids])
        self.assertEqual(whole, "<|user|>q3<eos><|assistant|>the dog 3<eos>")

    def test_who_comes_later_finds_it_ready(self) -> None:
        first = self.prepared().train
        made = (self.store() / TOKENS).stat().st_ino
        again = self.prepared().train
        self.assertEqual((self.store() / TOKENS).stat().st_ino, made)
        self.assertEqual(first.digest(), again.digest())

    def test_a_found_store_still_tells_what_was_wrong(self) -> None:
        self.write("train/t.jsonl", [*self.lines, chat("q", "")])
        self.prepared()
        before = list(self.notices)
        self.prepared()
        self.assertEqual(self.notices, before)
        self.assertEqual([code for _, code, _, _ in before], ["no_answer"])

    def test_what_is_not_whole_is_made_again(self) -> None:
        wanted = self.prepared().train.digest()
        for damage in (
            lambda store: (store / MANIFEST).unlink(),
            lambda store: (store / MANIFEST).write_text('{"v": 1'),
            lambda store: (store / TOKENS).write_bytes(b"torn"),
            lambda store: (store / INDEX).write_bytes(b""),
        ):
            damage(self.store())
            self.assertIsNone(Store.open(self.store()))
            self.assertEqual(self.prepared().train.digest(), wanted)
            self.assertIsNotNone(Store.open(self.store()))

    def test_a_stop_leaves_no_half_store_and_no_old_one_stays(self) -> None:
        self.prepared()

        def stop() -> None:
            raise Stopped("signal", saved=False)

        with self.assertRaises(Stopped):
            self.prepared(pause=stop, loss_on="all")
        self.prepared(loss_on="all")
        self.assertIsNotNone(Store.open(self.store()))

    def test_the_digest_tells_order_and_content_apart(self) -> None:
        digests = {self.prepared().train.digest()}
        for lines, data in (
            (self.lines[::-1], {}),
            (self.lines[:-1], {}),
            ([*self.lines[:-1], chat("q39", "the dog 38")], {}),
            (self.lines, {"loss_on": "all"}),
            (self.lines, {"system": "the cat"}),
            (self.lines, {"eval": {"fraction": 0.1, "seed": 1}}),
            (self.lines, {"eval": {"fraction": 0.1, "seed": 2}}),
        ):
            self.write("train/t.jsonl", lines)
            digests.add(self.prepared(**data).train.digest())
        self.assertEqual(len(digests), 8)
        self.write("train/t.jsonl", self.lines)
        self.assertIn(self.prepared().train.digest(), digests)

    def test_held_out_rows_come_from_the_same_store(self) -> None:
        data = self.prepared(eval={"fraction": 0.1, "seed": 7})
        self.assertEqual((len(data.train), len(data.held_out)), (36, 4))
        self.assertIs(data.train.store, data.held_out.store)
        self.assertFalse(set(data.train.numbers.tolist()) & set(data.held_out.numbers.tolist()))

    def test_rows_are_mapped_and_not_held(self) -> None:
        rows = self.prepared().train
        self.assertIsInstance(rows.store.tokens, numpy.memmap)
        self.assertEqual([len(example.ids) for example in rows.longest(2)], sorted(rows.lengths())[-2:])


if __name__ == "__main__":
    unittest.main()
