"""Optimizers, precisions, the time of a step, and when checkpoints come."""

import unittest

import torch
from training import BATCH, STEPS, Training, base

from hone_trainer.errors import SpecError
from hone_trainer.intervals import FIRST_SECONDS, LONGEST_SECONDS, Intervals, auto_seconds
from hone_trainer.meter import PARTS
from hone_trainer.optimizers import trainer_name
from hone_trainer.progress import Progress
from hone_trainer.session import Session
from hone_trainer.spec import parse
from hone_trainer.spec_train import Every

# bf16 has 8 bits of mantissa, so each product is off by up to 1 part in 256; over a sum of tokens that averages out.
BF16_BOUND = 0.01


class Optimizers(Training):
    def trained(self, optimizer: dict, steps: int = STEPS, **parts: dict) -> Session:
        session = self.session(model=base(hidden=64), steps=steps, train={"optimizer": optimizer}, **parts)
        self.loop(session, steps=steps).train()
        return session

    def test_each_lowers_the_loss(self) -> None:
        for optimizer in ({"lr": 0.01}, {"lr": 0.01, "bits": 8}, {"lr": 0.01, "name": "adafactor"}):
            with self.subTest(optimizer):
                losses = self.losses(self.trained(optimizer, steps=12))
                self.assertLess(sum(losses[-3:]), sum(losses[:3]), losses)

    def test_each_continues_exactly(self) -> None:
        for optimizer in ({"lr": 0.01, "bits": 8}, {"lr": 0.01, "name": "adafactor"}):
            with self.subTest(optimizer):
                whole = self.trained(optimizer, checkpoint={"every_steps": 1})
                checkpoint = whole.paths.output / "checkpoint-1"
                follower = self.session(model=base(hidden=64), train={"optimizer": optimizer})
                follower.progress = Progress.load(checkpoint)
                self.loop(follower).train(resume_from_checkpoint=str(checkpoint))
                found = follower.model.state_dict()
                for key, value in whole.model.state_dict().items():
                    self.assertTrue(torch.equal(value, found[key]), key)

    def test_eight_bits_take_less_room_in_a_checkpoint(self) -> None:
        sizes = []
        for bits in (32, 8):
            session = self.trained({"lr": 0.01, "bits": bits})
            sizes.append((session.paths.output / f"checkpoint-{STEPS}" / "optimizer.pt").stat().st_size)
        self.assertLess(sizes[1], sizes[0] / 2)

    @unittest.skipIf(torch.cuda.is_available(), "there is something to page out of")
    def test_pages_without_a_gpu_are_refused(self) -> None:
        train = {"max_steps": 1, "optimizer": {"paged": True}}
        with self.assertRaisesRegex(SpecError, "train.optimizer.paged needs a GPU"):
            trainer_name(parse({"version": 1, "model": {"name": "m"}, "train": train}).train)


class Precision(Training):
    def test_bf16_losses_are_those_of_fp32_within_a_bound(self) -> None:
        for method in ({"type": "full"}, {"type": "lora"}):
            losses = []
            for precision in ("fp32", "bf16"):
                session = self.session(steps=8, method=method, train={"precision": precision})
                self.loop(session, steps=8).train()
                losses.append(self.losses(session))
            with self.subTest(method):
                self.assertNotEqual(losses[0], losses[1])
                for exact, rounded in zip(*losses, strict=True):
                    self.assertLess(abs(rounded / exact - 1), BF16_BOUND)


class Times(Training):
    def test_each_record_splits_the_time_since_the_one_before(self) -> None:
        session = self.session(train={"eval_every": 1}, checkpoint={"every_steps": 1})
        session.held_out = self.loop(session)._examples[:BATCH]
        self.loop(session).train()
        train = [record["values"] for record in self.records(session, "metrics") if record["split"] == "train"]
        self.assertEqual(len(train), STEPS)
        for values in train:
            self.assertGreater(values["compute_s"], 0.0)
            self.assertGreater(values["optimizer_s"], 0.0)
            parts = sum(values[f"{part}_s"] for part in ("data_wait", "compute", "optimizer"))
            self.assertLessEqual(parts, values["step_time_s"] * 1.05 + 1e-3)
        # What comes after a record is told by the next.
        self.assertEqual((train[0]["save_s"], train[0]["eval_s"]), (0.0, 0.0))
        self.assertTrue(all(values["save_s"] > 0 and values["eval_s"] > 0 for values in train[1:]))
        self.assertEqual(len(PARTS), 5)


class When(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 1000.0

    def due(self, every: Every, steps: int, per_epoch: int = 10, seconds: float = 1.0, save: float = 0.0) -> list[int]:
        """The steps after which a checkpoint comes."""
        intervals, found = Intervals(every, lambda: self.now), []
        intervals.begin(0.0)
        for step in range(1, steps + 1):
            self.now += seconds
            if intervals.due(step, step / per_epoch, save):
                found.append(step)
                self.now += save
                intervals.saved()
        return found

    def test_whichever_comes_first(self) -> None:
        for every, expected in (
            (Every(3, None, None, False), [3, 6, 9, 12]),
            (Every(None, 0.3, None, False), [3, 6, 9, 12]),
            (Every(None, 1.0, None, False), [10]),
            (Every(None, None, 5 / 60, False), [5, 10]),
            (Every(4, None, 3 / 60, False), [3, 4, 7, 8, 11, 12]),
            (Every(None, None, None, False), []),
        ):
            with self.subTest(every):
                self.assertEqual(self.due(every, 12), expected)

    def test_auto_spends_a_bounded_part_of_the_time_on_saves(self) -> None:
        self.assertEqual(auto_seconds(0.0), FIRST_SECONDS)
        self.assertAlmostEqual(auto_seconds(1.0), (2 * 6 * 3600.0) ** 0.5)
        self.assertEqual(auto_seconds(30.0), 1500.0)
        self.assertEqual(auto_seconds(1e4), LONGEST_SECONDS)
        saves = self.due(Every(None, None, None, True), 3600, save=2.0)
        self.assertGreater(len(saves), 5)
        self.assertLess(2.0 * len(saves), 0.02 * 3600)


if __name__ == "__main__":
    unittest.main()
