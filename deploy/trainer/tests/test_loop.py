"""The training loop itself: exact sums however a batch is cut up, and orderly stops."""

import copy
import signal
import unittest
from pathlib import Path
from unittest import mock

import torch
from training import BATCH, SEED, STEPS, TOKENIZER, Training, rows, summed_nll
from transformers import TrainerCallback

from hone_trainer.batches import EpochBatches
from hone_trainer.contract import Controls, newest_checkpoint, verify_checkpoint
from hone_trainer.errors import Stopped
from hone_trainer.grace import Grace, Pace
from hone_trainer.make_base import new_model
from hone_trainer.packing import pack
from hone_trainer.progress import Progress
from hone_trainer.render import IGNORED
from hone_trainer.session import Session

LORA = {"type": "lora", "lora": {"r": 2, "dropout": 0.3}}


class Gradients(TrainerCallback):
    """Keeps weights and gradients as they are just before each update."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict, dict]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        """Runs after the last micro-batch of an update."""
        weights = copy.deepcopy(model.state_dict())
        self.seen.append((weights, {name: value.grad.clone() for name, value in model.named_parameters()}))


class Accumulation(Training):
    def by_hand(self, weights: dict, step: int) -> tuple[float, dict]:
        """Loss and gradients of one update: summed loss over counted tokens, row by row."""
        model = new_model(TOKENIZER, hidden=32, layers=1)
        model.load_state_dict(weights)
        total, tokens = 0.0, 0
        for row in [rows()[number] for number in list(EpochBatches(STEPS * BATCH, BATCH, SEED))[step]]:
            total = total + summed_nll(model(torch.tensor([row.ids])).logits, torch.tensor([row.labels]))
            tokens += sum(label != IGNORED for label in row.labels[1:])
        (total / tokens).backward()
        return float(total) / tokens, {name: value.grad for name, value in model.named_parameters()}

    def test_gradients_and_losses_are_those_of_the_whole_batch_however_it_is_cut(self) -> None:
        for micro in (8, 4, 2, 1):
            with self.subTest(f"{micro} rows at a time"):
                session, gradients = self.session(micro), Gradients()
                loop = self.loop(session)
                loop.add_callback(gradients)
                loop.train()
                losses = [record["values"]["loss"] for record in self.records(session, "metrics")]
                self.assertEqual((loop.begun, len(losses)), (STEPS * BATCH // micro, STEPS))
                for step, (weights, found) in enumerate(gradients.seen):
                    loss, expected = self.by_hand(weights, step)
                    self.assertAlmostEqual(losses[step], loss, places=5)
                    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


class Stopping(Training):
    """Of three updates of four micro-batches, a stop comes in the second one."""

    def stopped(self, grace: float | None, micro_batch_seconds: float = 0.0, stop_at: int = 6) -> tuple:
        session = self.session(micro=2, method=LORA, grace=grace)
        loop = self.loop(session, stop_at)
        loop._pace.seconds_for = lambda micro_batches: micro_batches * micro_batch_seconds
        try:
            loop.train()
        except Stopped as error:
            return session, loop, error
        return session, loop, session.stopped("signal")

    def continued(self, session: Session) -> dict:
        """The weights after going on from the newest checkpoint, if there is one."""
        follower = self.session(micro=2, method=LORA)
        source = newest_checkpoint(session.paths.output)
        if source:
            verify_checkpoint(source)
            follower.progress = Progress.load(source)
        self.loop(follower).train(resume_from_checkpoint=str(source) if source else None)
        return follower.model.state_dict()

    def test_packed_rows_are_counted_as_rows_and_continue_exactly(self) -> None:
        packed = [pack(rows()[number : number + 2]) for number in range(0, len(rows()), 2)]
        with mock.patch("training.rows", lambda count: packed):
            session, _, error = self.stopped(grace=1000, micro_batch_seconds=1e9)
            self.assertTrue(error.saved)
            self.assertEqual(session.progress.samples_seen, 2 * BATCH)
            undisturbed = self.continued(self.session(micro=2))
            for name, value in self.continued(session).items():
                self.assertTrue(torch.equal(value, undisturbed[name]), name)

    def test_with_time_left_the_update_is_completed_and_saved(self) -> None:
        session, loop, error = self.stopped(grace=1000)
        self.assertEqual((loop.begun, session.saved_step, error.saved), (8, 2, True))
        self.assertEqual(str(error), "stopped on request (signal)")

    def test_without_a_bound_there_is_always_time(self) -> None:
        session, loop, error = self.stopped(grace=None, micro_batch_seconds=1e9)
        self.assertEqual((loop.begun, session.saved_step, error.saved), (8, 2, True))

    def test_an_update_that_would_take_too_long_is_given_up_and_the_one_before_saved(self) -> None:
        session, loop, error = self.stopped(grace=1000, micro_batch_seconds=1e9)
        self.assertEqual((loop.begun, session.saved_step, error.saved), (6, 1, True))
        self.assertTrue(all(value.grad is None for value in session.model.parameters()))
        self.assertEqual(session.progress.samples_seen, BATCH)
        undisturbed = self.continued(self.session(micro=2))
        for name, value in self.continued(session).items():
            self.assertTrue(torch.equal(value, undisturbed[name]), name)

    def test_in_the_first_update_there_is_nothing_to_save(self) -> None:
        session, loop, error = self.stopped(grace=1000, micro_batch_seconds=1e9, stop_at=2)
        self.assertEqual((loop.begun, session.saved_step, error.saved), (2, None, False))
        self.assertEqual(str(error), "stopped on request (signal); no checkpoint was saved")

    def test_without_time_to_save_nothing_is_begun_and_the_outcome_says_so(self) -> None:
        session, _, error = self.stopped(grace=0)
        self.assertIsNone(newest_checkpoint(session.paths.output))
        self.assertEqual((session.saved_step, error.saved), (None, False))
        self.assertRegex(str(error), r"no checkpoint was saved: 0\.0 s were left, and the save before took 0\.0 s")
        self.assertEqual([record["code"] for record in self.records(session, "notice")], ["not_saved"])


class Clock:
    """Time that passes by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Time(unittest.TestCase):
    def test_the_grace_counts_from_the_first_wish_to_stop(self) -> None:
        clock, controls = Clock(), Controls(Path("/nonexistent"))
        grace = Grace(10.0, controls, clock)
        self.assertTrue(grace.allows(1e9))
        controls._on_stop(signal.SIGINT, None)
        controls.stopped_at = clock.now
        clock.now += 4.0
        self.assertEqual(grace.left(), 6.0)
        self.assertTrue(grace.allows(5.0))
        self.assertFalse(grace.allows(6.0))
        clock.now += 100.0
        self.assertEqual(grace.left(), 0.0)

    def test_the_pace_is_that_of_the_slowest_recent_micro_batch(self) -> None:
        clock = Clock()
        pace = Pace(clock)
        self.assertEqual(pace.seconds_for(9), 0.0)
        for seconds in (2.0, 5.0, 1.0):
            pace.begin()
            clock.now += seconds
        self.assertEqual((pace.begun, pace.seconds_for(2)), (3, 10.0))
        pace.end_update()
        self.assertEqual((pace.begun, pace.seconds_for(1)), (0, 5.0))
        pace.begin()
        clock.now += 3.0
        pace.end_update()
        self.assertEqual(pace.seconds_for(1), 3.0)


if __name__ == "__main__":
    unittest.main()
