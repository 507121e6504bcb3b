"""Optimizers, precisions, the time of a step, and when checkpoints come."""

import unittest
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from training import BATCH, STEPS, Training, base
from transformers import TrainerCallback

from hone_trainer.errors import NotFinite, SpecError
from hone_trainer.intervals import FIRST_SECONDS, LONGEST_SECONDS, Intervals, auto_seconds
from hone_trainer.meter import PARTS
from hone_trainer.optimizers import trainer_name
from hone_trainer.progress import Progress
from hone_trainer.session import Session
from hone_trainer.spec import parse
from hone_trainer.spec_train import Every

# bf16 has 8 bits of mantissa, so each product is off by up to 1 part in 256; over a sum of tokens that averages out.
BF16_BOUND = 0.01
# fp16 has 11 bits.
FP16_BOUND = 0.002


class Spoiled(TrainerCallback):
    """Makes the gradients of one update infinite, as an overflow would, before they are looked at."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        """The n-th update begins: a hook on one trained tensor, for that update alone."""
        trained = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        if state.global_step + 1 == self.update:
            self.hook = trained.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """That update is over."""
        if state.global_step == self.update:
            self.hook.remove()


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
            trainer_name(parse({"version": 1, "model": {"name": "m"}, "train": train}).train, "fp32")


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


class HalfPrecision(Training):
    """fp16 with its loss scaling; on a CPU it is slow, and the same."""

    def trained(self, steps: int = STEPS, spoil: int = 0, source: Path | None = None, **parts: dict) -> Session:
        """A session after its training; the gradients of one update may be made infinite."""
        parts["train"] = {"precision": "fp16", **parts.get("train", {})}
        session = self.session(steps=steps, **parts)
        loop = self.loop(session, steps=steps)
        if spoil:
            loop.add_callback(Spoiled(spoil))
        if source:
            session.progress = Progress.load(source)
        loop.train(resume_from_checkpoint=str(source) if source else None)
        return session

    def values(self, session: Session, name: str) -> list:
        return [record["values"][name] for record in self.records(session, "metrics")]

    def test_losses_are_those_of_fp32_within_a_bound(self) -> None:
        for method in ({"type": "full"}, {"type": "lora"}):
            exact, rounded = (
                self.trained(8, method=method, train={"precision": name}) for name in ("fp32", "fp16")
            )
            with self.subTest(method):
                self.assertEqual(self.values(rounded, "skipped_steps")[-1], 0)
                self.assertNotEqual(self.losses(exact), self.losses(rounded))
                for one, other in zip(self.losses(exact), self.losses(rounded), strict=True):
                    self.assertLess(abs(other / one - 1), FP16_BOUND)

    def test_an_update_with_infinite_gradients_is_skipped_and_counted(self) -> None:
        for optimizer in ({"lr": 0.01}, {"lr": 0.01, "bits": 8}, {"lr": 0.01, "name": "adafactor"}):
            with self.subTest(optimizer):
                parts = {"checkpoint": {"every_steps": 1}, "train": {"optimizer": optimizer}, "model": base(hidden=64)}
                session = self.trained(spoil=2, **parts)
                self.assertEqual(self.values(session, "skipped_steps"), [0, 1, 1])
                scales = self.values(session, "loss_scale")
                self.assertEqual(scales, [scales[0], scales[0] / 2, scales[0] / 2])
                saved = [
                    load_file(session.paths.output / f"checkpoint-{step}" / "model.safetensors")
                    for step in range(1, STEPS + 1)
                ]
                same = [all(torch.equal(one[key], two[key]) for key in one) for one, two in pairwise(saved)]
                self.assertEqual(same, [True, False])
                self.assertEqual(session.progress.skipped_steps, 1)

    def test_gradients_that_always_overflow_end_the_job(self) -> None:
        # The scale begins at 65536 and is halved by each update that is skipped.
        for steps, ended in ((4, 4), (30, 17)):
            with self.subTest(steps):
                session = self.session(steps=steps, train={"precision": "fp16"})
                loop = self.loop(session, steps=steps)
                trained = next(parameter for parameter in session.model.parameters() if parameter.requires_grad)
                trained.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
                with self.assertRaisesRegex(NotFinite, f"overflow in fp16 at step {ended},"):
                    loop.train()
                self.assertEqual(session.progress.skipped_steps, ended)
                self.assertIsNone(session.saved_step)

    def test_it_continues_exactly_with_the_scale_that_it_had(self) -> None:
        parts = {"method": {"type": "lora", "lora": {"r": 2, "dropout": 0.3}}, "checkpoint": {"every_steps": 1}}
        whole = self.trained(spoil=1, **parts)
        checkpoint = whole.paths.output / "checkpoint-1"
        kept = torch.load(checkpoint / "scaler.pt", weights_only=True)
        self.assertEqual(kept["scale"], self.values(whole, "loss_scale")[0])
        self.assertLess(kept["scale"], torch.amp.GradScaler("cpu").get_scale())
        follower = self.trained(source=checkpoint, **parts)
        self.assertEqual(self.losses(follower), self.losses(whole)[1:])
        self.assertEqual(self.values(follower, "loss_scale"), self.values(whole, "loss_scale")[1:])
        self.assertEqual(self.values(follower, "skipped_steps"), [1, 1])
        for key, value in whole.model.state_dict().items():
            self.assertTrue(torch.equal(value, follower.model.state_dict()[key]), key)

    def test_a_checkpoint_may_go_on_in_another_precision(self) -> None:
        checkpoint = self.trained(checkpoint={"every_steps": 1}).paths.output / "checkpoint-1"
        follower = self.trained(source=checkpoint, train={"precision": "fp32"})
        self.assertEqual(follower.progress.step, STEPS)


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
