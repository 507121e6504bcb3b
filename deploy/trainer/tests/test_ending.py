"""The last word of an attempt, and the scores that it tells, whatever they are."""

import json
import logging
import math
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

from hone_trainer.__main__ import Attempt
from hone_trainer.contract import (
    MANIFEST,
    RESULT_FILE,
    CheckpointStage,
    Controls,
    Exit,
    MetricsWriter,
    Paths,
    encode,
)
from hone_trainer.errors import MissingInput
from hone_trainer.evaluate import Score
from hone_trainer.progress import Progress
from hone_trainer.ranks import verdict
from hone_trainer.session import Session
from hone_trainer.spec import parse

TRAIN = {"max_steps": 5, "micro_batch": 4, "accumulation": 2, "seq_len": 256}
SPEC = parse({"version": 1, "model": {"name": "m"}, "train": TRAIN})


class Ending(unittest.TestCase):
    """An attempt in a directory of its own, with a session but no model."""

    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        logging.disable()
        self.addCleanup(logging.disable, logging.NOTSET)
        self.directory = Path(holder.name)
        self.paths = Paths.from_env({f"HONE_{name}_DIR": holder.name for name in ("METRICS", "OUTPUT", "CONTROL")})
        self.attempt = Attempt(self.paths)
        self.attempt.metrics = MetricsWriter(self.paths.metrics, self.paths.attempt)
        self.addCleanup(self.attempt.metrics._file.close)
        self.session = Session(SPEC, self.paths, self.attempt.metrics, Controls(self.paths.control))
        self.attempt.session = self.session

    def result(self) -> dict:
        return json.loads((self.directory / RESULT_FILE).read_text(), parse_constant=self.fail)

    def resumed(self, progress: Progress) -> Progress:
        with CheckpointStage(self.directory, progress.step, self.paths.attempt) as stage:
            progress.save(stage.path)
            return Progress.load(stage.commit())

    def test_without_a_manifest_a_checkpoint_is_not_complete(self) -> None:
        progress = self.resumed(Progress(step=3))
        self.assertEqual(progress.step, 3)
        checkpoint = self.directory / "checkpoint-3"
        (checkpoint / MANIFEST).unlink()
        with self.assertRaisesRegex(MissingInput, f"cannot resume from {checkpoint}: .*{MANIFEST}"):
            Progress.load(checkpoint)

    def evaluate(self, loss: float) -> None:
        self.session.score = lambda base: Score(nll_sum=loss, tokens=1)
        self.session.evaluate_tuned()

    def test_scores_that_are_not_finite_survive_a_checkpoint(self) -> None:
        for bad in (math.nan, math.inf, -math.inf):
            with self.subTest(bad):
                before = Score(nll_sum=bad, tokens=3)
                self.session.progress = self.resumed(Progress(base=before.as_dict()))
                self.assertEqual(str(self.session.base().values()), str(before.values()))

    def test_a_checkpoint_that_calls_such_a_score_the_best_has_none(self) -> None:
        self.assertIsNone(self.resumed(Progress(best={"step": 1, "eval_loss": math.nan})).best)
        kept = {"step": 1, "eval_loss": 0.5}
        self.assertEqual(self.resumed(Progress(best=kept)).best, kept)

    def test_a_loss_that_is_not_finite_is_never_the_best(self) -> None:
        for step, loss, best in ((1, math.nan, None), (2, 2.0, 2), (3, math.nan, 2), (4, -math.inf, 2), (5, 1.0, 5)):
            self.session.progress.step = step
            self.evaluate(loss)
            found = self.session.progress.best
            self.assertEqual(found and found["step"], best, f"after {loss}")

    def test_of_a_rank_0_that_was_killed_the_records_tell_how_far_it_came(self) -> None:
        write = self.attempt.metrics.write
        write("start", 2, max_steps=9)
        for step in (3, 4):
            write("metrics", step, split="train", epoch=0.5, values={"loss": 1.0, "tokens_seen": 10 * step})
        write("checkpoint", 4, path="/output/checkpoint-4")
        write("phase", 5, name="eval", state="begin")
        self.attempt.metrics._file.write(b'{"attempt": 1, "step": 7, "ty')
        self.attempt.word = verdict({1: {"status": "failed"}}, {0: -9})
        self.assertEqual(self.attempt.finish(None), Exit.INTERNAL)
        told = self.result()
        self.assertEqual((told["step"], told["max_steps"], told["epoch"], told["tokens_seen"]), (5, 9, 0.5, 40))
        self.assertEqual(told["last_checkpoint"], "/output/checkpoint-4")
        self.assertEqual(told["reason"], "rank 0 was killed by SIGKILL")

    def test_what_rank_0_said_itself_counts_more(self) -> None:
        self.attempt.metrics.write("phase", 5, name="eval", state="begin")
        own = {"status": "completed", "code": 0, "reason": "finished as specified", "step": 4}
        self.attempt.word = verdict({0: own}, {})
        self.attempt.finish(None)
        self.assertEqual(self.result()["step"], 4)

    def test_the_result_tells_such_scores_as_words(self) -> None:
        self.session.progress = self.resumed(Progress(step=3, base=Score(nll_sum=math.nan, tokens=3).as_dict()))
        self.session.last_loss = math.inf
        self.assertEqual(self.attempt.finish(None), Exit.COMPLETED)
        self.assertEqual(self.result()["metrics"]["base_eval_perplexity"], "nan")
        self.assertEqual((self.result()["step"], self.result()["metrics"]["loss"]), (3, "inf"))

    def test_a_word_is_left_even_where_the_counters_cannot_be_told(self) -> None:
        for broken in ({"base": {"nll_sum": "x", "tokens": 3}}, {"base": {"unknown": 1}}, {"best": {}}):
            with self.subTest(broken):
                self.attempt.session = SimpleNamespace(
                    progress=Progress(**broken), base=lambda: Score(**broken["base"]), tuned=None, last_loss=1.0
                )
                self.assertEqual(self.attempt.finish(RuntimeError("why")), Exit.INTERNAL)
                told = self.result()
                self.assertEqual((told["status"], told["code"], told["reason"]), ("failed", 70, "why"))
                self.assertEqual(told["error"]["type"], "RuntimeError")
                (self.directory / RESULT_FILE).unlink()

    def test_where_memory_runs_out_the_word_says_at_which_shape(self) -> None:
        self.attempt.spec = SPEC
        self.session.probed = {"host_mem_peak_bytes": 7_000_000, "gpu_mem_peak_bytes": 9_000_000}
        shape = "micro_batch 4, accumulation 2, seq_len 256"
        on_the_gpu = type("OutOfMemoryError", (RuntimeError,), {})("CUDA: no")
        for error, code, reason, probed in (
            (on_the_gpu, 80, f"out of GPU memory at {shape}: ", 9_000_000),
            (MemoryError("no"), 81, f"out of memory at {shape}: ", 7_000_000),
        ):
            with self.subTest(code):
                self.assertEqual(self.attempt.finish(error), code)
                told = self.result()
                self.assertEqual([told[name] for name in ("micro_batch", "accumulation", "seq_len")], [4, 2, 256])
                self.assertEqual((told["reason"], told["retryable"]), (reason + str(error), True))
                self.assertEqual(told["probe_peak_bytes"], probed)
                self.attempt.metrics = None
        self.assertGreater(told["peak_bytes"], 1_000_000)

    def test_before_a_probe_its_peak_is_null_and_other_endings_say_nothing_of_memory(self) -> None:
        self.attempt.spec = SPEC
        self.attempt.finish(MemoryError())
        self.assertIsNone(self.result()["probe_peak_bytes"])
        self.attempt.metrics = None
        self.attempt.finish(RuntimeError("why"))
        self.assertNotIn("micro_batch", self.result())
        self.assertEqual(self.result()["reason"], "why")

    def test_a_failure_fits_what_the_agent_passes_on(self) -> None:
        for text in ("long ", "\x01", '"', "ü", "\U0001f600"):
            with self.subTest(text):
                try:
                    raise RuntimeError(text * 50_000 + "the end")
                except RuntimeError as error:
                    self.attempt.finish(error)
                told = (self.directory / RESULT_FILE).read_bytes()
                self.assertLess(len(told), 8192)
                error = json.loads(told)["error"]
                self.assertTrue(error["trace"].endswith("the end\n"))
                self.assertGreater(len(encode(error["trace"])), 4000)
                self.assertTrue(error["message"].startswith(text))
                self.attempt.metrics = None

    def test_a_short_failure_is_told_whole(self) -> None:
        self.attempt.finish(RuntimeError("why"))
        self.assertEqual(self.result()["error"]["message"], "why")
        self.assertEqual(self.result()["error"]["trace"], "RuntimeError: why\n")


if __name__ == "__main__":
    unittest.main()
