"""Packed rows: computed as if each were alone, and arranged alike every time."""

import contextlib
import unittest

import numpy
import torch
from training import summed_nll

from hone_trainer.batches import collate
from hone_trainer.errors import SpecError
from hone_trainer.make_base import new_model, train_tokenizer
from hone_trainer.packing import Packs, arrange, counted, pack, require_apart
from hone_trainer.render import IGNORED, Example

TOKENIZER = train_tokenizer(["the cat sees the dog"])


def rows(count: int, seed: int = 0) -> list[Example]:
    """Rows of very unequal length, with prompts that are not learned."""
    rng = numpy.random.default_rng(seed)
    found = []
    for length in rng.integers(2, 40, count):
        ids = rng.integers(2, 250, length)
        labels = ids.copy()
        labels[: rng.integers(0, length)] = IGNORED
        found.append(Example(ids, labels, int(length)))
    return found


def packs(examples: list[Example], capacity: int) -> list:
    order, bounds = arrange(numpy.array([len(row.ids) for row in examples]), capacity, 0)
    parts = [order[start:stop].tolist() for start, stop in zip(bounds, bounds[1:])]
    return [pack([examples[number] for number in part]) for part in parts]


class Arranging(unittest.TestCase):
    def test_every_row_is_in_one_sequence_that_has_room_for_it(self) -> None:
        for seed in range(20):
            lengths = numpy.random.default_rng(seed).integers(1, 65, 200)
            order, bounds = arrange(lengths, 64, seed)
            self.assertEqual(sorted(order.tolist()), list(range(200)))
            sums = numpy.add.reduceat(lengths[order], bounds[:-1])
            self.assertLessEqual(int(sums.max()), 64)
            # No two sequences would fit into one: else one of them was opened needlessly.
            self.assertLessEqual(len(sums), 1.5 * lengths.sum() / 64 + 1)

    def test_best_fit_leaves_the_least_room(self) -> None:
        order, bounds = arrange(numpy.array([6, 7, 3, 4]), 10, 0)
        parts = [set(order[start:stop].tolist()) for start, stop in zip(bounds, bounds[1:])]
        self.assertEqual(parts, [{1, 2}, {0, 3}])

    def test_the_same_lengths_and_seed_give_the_same_sequences(self) -> None:
        lengths = numpy.random.default_rng(1).integers(2, 20, 300)
        first, again, other = arrange(lengths, 64, 3), arrange(lengths, 64, 3), arrange(lengths, 64, 4)
        for one, two in zip(first, again):
            self.assertTrue(numpy.array_equal(one, two))
        self.assertFalse(numpy.array_equal(first[0], other[0]))


class Sequences(unittest.TestCase):
    """Packs of a store's rows; the store is stood in for by a list."""

    class Listed(list):
        def lengths(self) -> numpy.ndarray:
            return numpy.array([len(row.ids) for row in self])

        def digest(self) -> str:
            return str([row.ids.tolist() for row in self])

    def packs(self, examples: list[Example], capacity: int = 64, seed: int = 0) -> Packs:
        return Packs(self.Listed(examples), capacity, seed)

    def test_each_is_made_when_it_is_asked_for(self) -> None:
        found = self.packs(rows(40))
        self.assertEqual([len(one.ids) for one in found], found.lengths().tolist())
        self.assertEqual(sum(one.rows for one in found), 40)
        self.assertEqual([len(one.ids) for one in found[1:3]], found.lengths()[1:3].tolist())
        self.assertEqual([len(one.ids) for one in found.longest(2)], sorted(found.lengths())[-2:])
        self.assertGreater(found.full(), 0.85)
        self.assertLessEqual(found.full(), 1.0)

    def test_the_digest_tells_every_other_arrangement(self) -> None:
        examples = rows(40)
        others = (
            self.packs(examples),
            self.packs(examples, seed=1),
            self.packs(examples, capacity=80),
            self.packs(examples[::-1]),
            self.packs(rows(40, seed=1)),
        )
        self.assertEqual(len({one.digest() for one in others}), 5)
        self.assertEqual(others[0].digest(), self.packs(examples).digest())


class Packing(unittest.TestCase):
    def setUp(self) -> None:
        torch.manual_seed(0)
        self.model = new_model(TOKENIZER, hidden=32, layers=2)

    def nll(self, examples: list, flat: bool = False) -> torch.Tensor:
        batch = collate(examples, 0, flat)
        counted(batch)
        return summed_nll(self.logits(batch), batch["labels"])

    def logits(self, batch: dict) -> torch.Tensor:
        return self.model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        self.model.zero_grad()
        loss.backward()
        return {name: value.grad.clone() for name, value in self.model.named_parameters()}

    def test_losses_and_gradients_are_those_of_the_rows_alone(self) -> None:
        examples = rows(40)
        tokens = sum(row.learned() for row in examples)
        alone = sum(self.nll([row]) for row in examples)
        expected = self.gradients(alone / tokens)
        sequences = packs(examples, 64)
        self.assertLess(len(sequences), 20)
        self.assertEqual(sum(pack.learned() for pack in sequences), tokens)
        together = self.nll(sequences)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=0.0)
        torch.testing.assert_close(self.gradients(together / tokens), expected, rtol=1e-3, atol=1e-6)

    def test_no_token_of_a_row_sees_another_row_or_padding(self) -> None:
        examples = rows(12, seed=3)
        (short, *_), changed = packs(examples, 500), [*examples]
        for number in range(0, 12, 2):
            changed[number] = Example((examples[number].ids + 7) % 250, examples[number].labels, 1)
        (other, *_) = packs(changed, 500)
        with torch.inference_mode():
            first, second = (self.logits(self.only(collate([one, pack(examples[:2])], 0))) for one in (short, other))
        same = torch.from_numpy(short.ids == other.ids)
        rows_of = torch.from_numpy(numpy.cumsum(short.positions == 0))
        changed_rows = set(rows_of[~same].tolist())
        self.assertEqual(len(changed_rows), 6)
        kept = torch.tensor([row not in changed_rows for row in rows_of.tolist()])
        width = len(short.ids)
        self.assertTrue(torch.equal(first[0, :width][kept], second[0, :width][kept]))
        self.assertFalse(torch.equal(first[0, :width][~kept], second[0, :width][~kept]))

    def only(self, batch: dict) -> dict:
        counted(batch)
        return batch

    def test_what_is_counted_is_what_was_in_the_rows(self) -> None:
        examples = rows(10)
        sequences = packs(examples, 64)
        for flat in (False, True):
            batch = collate(sequences, 0, flat)
            tokens, count = counted(batch)
            self.assertEqual((int(tokens), int(count)), (sum(len(row.ids) for row in examples), 10))
            self.assertEqual(int((batch["labels"][:, 1:] != IGNORED).sum()), sum(row.learned() for row in examples))
        self.assertEqual(batch["input_ids"].shape[0], 1)
        tokens, count = counted(collate(examples, 0))
        self.assertEqual((int(tokens), int(count)), (sum(len(row.ids) for row in examples), 10))

    def test_a_model_that_mixes_rows_is_refused(self) -> None:
        require_apart(self.model, [5, 6, 7, 8], contextlib.nullcontext)

        class Leaky(torch.nn.Module):
            """Carries a state along the sequence, whatever the positions say."""

            def __init__(self, model: torch.nn.Module, carry: bool) -> None:
                super().__init__()
                self.inner, self.config, self.carry = model, model.config, carry

            def forward(self, position_ids=None, **inputs):
                found = self.inner(position_ids=position_ids if self.carry else None, **inputs)
                if self.carry:
                    found.logits = found.logits + found.logits.cumsum(1)
                return found

        for carry in (True, False):
            with self.subTest(carry), self.assertRaisesRegex(SpecError, "set train.packing to false"):
                require_apart(Leaky(self.model, carry), [5, 6, 7, 8], contextlib.nullcontext)


if __name__ == "__main__":
    unittest.main()
