"""Two processes that train together, over gloo on a CPU: the sums of one, one stop, one word, exact continuation."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from test_loop import Gradients
from training import BATCH, Training, base, rows

from hone_trainer import ranks
from hone_trainer.batches import EpochBatches
from hone_trainer.contract import Controls, Exit, newest_checkpoint, verify_checkpoint
from hone_trainer.errors import GpuMissing, exit_code, retryable
from hone_trainer.group import Group, require_gpus, share
from hone_trainer.loop import Loop
from hone_trainer.make_task import rows as task
from hone_trainer.progress import Progress
from hone_trainer.train import _notice_changes

RANKS = 2
# Of a whole attempt: more than two passes over 180 rows, 18 at a time.
STEPS = 24
# The last of three updates has a single row, so that one rank has none.
ROWS, UPDATES = 2 * BATCH + 1, 3
THIS = {"precision": "fp32", "group": Group(), "sharding": "none"}
MOVED = "ranks was 2 in the checkpoint and is 1 now"
TOLD = ("loss", "grad_norm", "loss_tokens", "samples_seen", "tokens_seen", "learning_rate")


class Worker(Training):
    """What each rank, or one process alone, does for the test of gradients."""

    def trained(self, micro: int) -> dict:
        # Without a learning rate the weights stay, and all updates can be compared.
        session = self.session(micro, train={"optimizer": {"lr": 0.0}})
        loop, gradients = Loop(session, rows(ROWS), "fp32", UPDATES), Gradients()
        loop.add_callback(gradients)
        loop.train()
        records = [record["values"] for record in self.records(session, "metrics")]
        told = [[values[name] for name in TOLD] for values in records]
        return {"gradients": [found for _, found in gradients.seen], "told": told}


def worker(directory: str, *micros: str) -> None:
    """In a rank: leaves what it has seen."""
    test, group = Worker(), Group()
    test.setUp()
    # Among several ranks, transformers would save it on the first alone.
    base()
    group.join()
    for micro in micros:
        torch.save(test.trained(int(micro)), Path(directory) / f"{micro}-{group.rank}.pt")
    test.doCleanups()
    group.leave()


def launch(count: str, directory: str, *arguments: str) -> None:
    """In a process of its own: it takes signals and sets variables."""
    endings = ranks.launch(int(count), Path(directory), [__file__, *arguments], Controls(Path(directory)))
    sys.exit(1 if endings else 0)


class Sums(Training):
    def test_gradients_and_records_are_those_of_one_process(self) -> None:
        alone = Worker()
        alone.setUp()
        self.addCleanup(alone.doCleanups)
        one = alone.trained(micro=BATCH)
        self.assertEqual([values[TOLD.index("samples_seen")] for values in one["told"]], [8, 16, 17])
        directory = str(self.directory())
        command = [sys.executable, __file__, "launch", str(RANKS), directory, "worker", directory, "4", "1"]
        subprocess.run(command, check=True, timeout=120)
        for micro in (4, 1):
            for rank in range(RANKS):
                with self.subTest(f"{micro} rows at a time on rank {rank}"):
                    found = torch.load(Path(directory) / f"{micro}-{rank}.pt")
                    self.assertEqual(len(found["gradients"]), UPDATES)
                    torch.testing.assert_close(found["gradients"], one["gradients"], rtol=1e-4, atol=1e-7)
                    torch.testing.assert_close(found["told"], one["told"], rtol=1e-5, atol=1e-7)


class Shares(unittest.TestCase):
    def test_every_update_has_the_rows_of_one_process(self) -> None:
        cases = (17, 4, 2, 2), (50, 1, 6, 4), (40, 5, 2, 4), (33, 8, 2, 3), (7, 2, 1, 4)
        for total, micro, accumulation, count in cases:
            with self.subTest((total, micro, accumulation, count)):
                effective, parts = micro * accumulation, share(micro, accumulation, count)[1]
                alone = [row for batch in EpochBatches(total, micro, 1, accumulation) for row in batch]
                samplers = [EpochBatches(total, micro, 1, accumulation, rank, count) for rank in range(count)]
                batches = [list(sampler) for sampler in samplers]
                self.assertEqual({len(found) for found in batches}, {len(samplers[0])})
                self.assertLessEqual(max(len(batch) for found in batches for batch in found), micro)
                updates = -(-total // effective)
                self.assertEqual(-(-len(samplers[0]) // parts), updates)
                for update in range(updates):
                    own = [row for found in batches for batch in found[update * parts :][:parts] for row in batch]
                    self.assertCountEqual(own, alone[update * effective :][:effective])


class Promised(unittest.TestCase):
    def test_an_attempt_without_its_gpus_ends_for_another_node(self) -> None:
        def told(**names: str) -> BaseException | None:
            with mock.patch.dict(os.environ, names):
                try:
                    require_gpus()
                except GpuMissing as error:
                    return error
            return None

        error = told(HONE_GPU_COUNT="2", HONE_PROCESSES="")
        self.assertIn("has 2 GPUs, and PyTorch", str(error))
        self.assertEqual(exit_code(error), Exit.GPU_FAULT)
        self.assertTrue(retryable(exit_code(error)))
        self.assertIsNone(told(HONE_GPU_COUNT="0", HONE_PROCESSES=""))
        self.assertIsNone(told(HONE_GPU_COUNT="2", HONE_PROCESSES="2"), "tried on a CPU on purpose")
        with mock.patch("torch.cuda.is_available", return_value=True), mock.patch(
            "torch.cuda.device_count", return_value=2
        ):
            self.assertIsNone(told(HONE_GPU_COUNT="2", HONE_PROCESSES=""))


class Verdicts(unittest.TestCase):
    """One word out of several."""

    def word(self, ended: float, reason: str, status: str = "failed", code: int = 70, abandoned: bool = False) -> dict:
        error = {"type": "RuntimeError", "message": reason, "trace": ""} if status == "failed" else None
        word = {"status": status, "code": code, "reason": reason, "retryable": True, "error": error, "step": 3}
        return word | {"ended": ended, "abandoned": abandoned}

    def test_the_first_failure_counts_and_names_its_rank(self) -> None:
        words = {0: self.word(2.0, "connection closed"), 1: self.word(1.0, "no memory", code=81)}
        told = ranks.verdict(words, {0: 70, 1: 81})
        self.assertEqual((told["code"], told["reason"], told["step"]), (81, "rank 1: no memory", 3))
        self.assertEqual(told["error"]["message"], "no memory")
        self.assertNotIn("ended", told)

    def test_where_memory_ran_out_is_told_of_the_rank_that_ran_out(self) -> None:
        shape = {"micro_batch": 4, "accumulation": 2, "seq_len": 512}
        first, second = shape | {"probe_peak_bytes": 5, "peak_bytes": 7}, shape | {"peak_bytes": 9}
        failed = self.word(1.0, "no memory", code=81) | first
        told = ranks.verdict({0: self.word(2.0, "connection closed"), 1: failed}, {1: 81})
        self.assertEqual({name: told.get(name) for name in first}, first)
        told = ranks.verdict({0: self.word(2.0, "no memory", code=81) | second, 1: failed}, {1: 81})
        self.assertEqual({name: told.get(name) for name in first}, first)
        # Rank 0's own want of memory is not the cause here.
        words = {0: self.word(2.0, "no memory", code=81) | first, 1: self.word(1.0, "bad", code=78)}
        self.assertFalse(set(first) & set(ranks.verdict(words, {1: 78})))
        self.assertFalse(set(first) & set(ranks.verdict({0: words[0]}, {0: 81, 1: -9})))

    def test_what_all_find_alike_is_told_of_none(self) -> None:
        words = {0: self.word(2.0, "the loss is nan", code=82), 1: self.word(1.0, "the loss is nan", code=82)}
        told = ranks.verdict(words, {1: 82})
        self.assertEqual((told["code"], told["reason"]), (82, "the loss is nan"))

    def test_a_rank_that_was_ended_is_not_the_cause(self) -> None:
        words = {0: self.word(1.0, "another rank ended", abandoned=True), 1: self.word(2.0, "bad", code=78)}
        told = ranks.verdict(words, {1: 78})
        self.assertEqual((told["code"], told["reason"], told["retryable"]), (78, "rank 1: bad", False))

    def test_a_rank_that_died_without_a_word_is_the_cause(self) -> None:
        told = ranks.verdict({0: self.word(1.0, "connection closed")}, {0: 70, 1: -9})
        self.assertEqual((told["status"], told["code"]), ("failed", Exit.INTERNAL))
        self.assertEqual((told["reason"], told["error"]["type"]), ("rank 1 was killed by SIGKILL", "RankLost"))
        self.assertEqual(ranks.verdict({}, {1: 3})["reason"], "rank 1 ended with code 3 and left no word")

    def test_a_stop_or_an_end_of_rank_0_is_the_end_of_all(self) -> None:
        for status, code in (("interrupted", 75), ("completed", 0)):
            words = {0: self.word(1.0, "as asked", status, code), 1: self.word(0.5, "connection closed")}
            told = ranks.verdict(words, {0: code, 1: 70})
            self.assertEqual((told["status"], told["code"], told["reason"]), (status, code, "as asked"))


class Continuations(unittest.TestCase):
    def test_another_number_of_ranks_is_told(self) -> None:
        now = {"threads": torch.get_num_threads(), "precision": "fp32", "torch": torch.__version__}
        for before, told in ((1, 0), (2, 1)):
            with self.subTest(before):
                notices: list[tuple] = []
                session = SimpleNamespace(progress=Progress(**now, ranks=before), **THIS)
                session.notice = lambda *notice: notices.append(notice)
                _notice_changes(session)
                self.assertEqual(notices, [("warning", "inexact_resume", MOVED)] * told)


class Attempts(unittest.TestCase):
    """Whole attempts, as the container's entry runs them."""

    sharding = "none"

    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.directory = Path(holder.name)

    def job(self, name: str, sharding: str | None = None) -> SimpleNamespace:
        directory = self.directory / name
        train = directory / "data" / "train"
        train.mkdir(parents=True)
        (train / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in task(200, 1, "prompt_completion")))
        spec = {"version": 1, "model": {"name": "tiny"}, "data": {"eval": {"fraction": 0.1}}}
        spec["method"] = {"type": "lora", "lora": {"r": 4, "dropout": 0.2}}
        spec["train"] = {"max_steps": STEPS, "seq_len": 96, "micro_batch": 6, "accumulation": 3, "eval_every": 10}
        spec["train"] |= {"optimizer": {"lr": 0.003}, "precision": "fp32"}
        spec["train"]["sharding"] = sharding or self.sharding
        spec["checkpoint"] = {"every_steps": 4}
        (directory / "spec.json").write_text(json.dumps(spec))
        parts = {name: directory / name for name in ("output", "metrics", "control")}
        return SimpleNamespace(directory=directory, processes=[], **parts)

    def start(self, job: SimpleNamespace, resume: Path | None = None, processes: int = RANKS) -> subprocess.Popen:
        names = {f"HONE_{name.name.upper()}_DIR": str(name) for name in (job.output, job.metrics, job.control)}
        names |= {"HONE_SPEC": str(job.directory / "spec.json"), "HONE_MODEL_DIR": str(base(hidden=64, layers=2))}
        names |= {"HONE_DATA_DIR": str(job.directory / "data"), "HONE_CACHE_DIR": str(job.directory / "cache")}
        names |= {"HONE_ATTEMPT": str(len(job.processes) + 1), "HONE_RESUME_FROM": str(resume or "")}
        names |= {"HONE_PROCESSES": str(processes), "OMP_NUM_THREADS": "1", "HONE_GRACE_SECONDS": "60"}
        names["TMPDIR"] = str(job.directory / f"tmp-{len(job.processes) + 1}")
        Path(names["TMPDIR"]).mkdir()
        command = [sys.executable, "-m", "hone_trainer"]
        process = subprocess.Popen(command, env=os.environ | names, stderr=subprocess.PIPE)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        job.processes.append(process)
        return process

    def ends(self, process: subprocess.Popen, code: int) -> None:
        _, told = process.communicate(timeout=120)
        self.assertEqual(process.returncode, code, told.decode())

    def result(self, job: SimpleNamespace) -> dict:
        return json.loads((job.metrics / "result.json").read_text())

    def records(self, job: SimpleNamespace, attempt: int) -> list[dict]:
        try:
            lines = (job.metrics / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:  # still being written
                continue
        return [record for record in found if record["attempt"] == attempt]

    def reached(self, job: SimpleNamespace, step: int) -> None:
        """Waits until the newest attempt has trained so many steps."""
        deadline = time.monotonic() + 120
        while not any(
            record["type"] == "metrics" and record["split"] == "train" and record["step"] >= step
            for record in self.records(job, len(job.processes))
        ):
            self.assertIsNone(job.processes[-1].poll(), "it ended before")
            self.assertLess(time.monotonic(), deadline, f"step {step} was never reached")
            time.sleep(0.01)

    def ranks_started(self, job: SimpleNamespace) -> list[int]:
        """The process ids of the newest attempt's ranks, by rank, once all are there."""
        deadline = time.monotonic() + 120
        while len(found := sorted(job.directory.glob(f"tmp-{len(job.processes)}/hone-ranks-*/*.pid"))) < RANKS:
            self.assertLess(time.monotonic(), deadline, "the ranks never started")
            time.sleep(0.01)
        return [int(path.read_text()) for path in found]

    def weights(self, job: SimpleNamespace) -> bytes:
        return (job.output / "package" / "adapter_model.safetensors").read_bytes()

    def test_stopped_and_killed_in_every_way_it_ends_as_if_left_alone(self) -> None:
        alone, torn = self.job("alone"), self.job("torn")
        self.ends(self.start(alone), Exit.COMPLETED)
        self.assertEqual(self.result(alone)["status"], "completed")
        self.one_writer(alone)

        torn.control.mkdir()
        (torn.control / "checkpoint").touch()
        first = self.start(torn)
        self.reached(torn, 3)
        first.send_signal(signal.SIGTERM)
        self.ends(first, Exit.INTERRUPTED)
        saved = self.stopped_at_one_step(torn)

        second = self.start(torn, saved)
        self.reached(torn, saved_step(saved) + 2)
        os.kill(self.ranks_started(torn)[1], signal.SIGKILL)
        self.ends(second, Exit.INTERNAL)
        told = self.result(torn)
        self.assertEqual((told["status"], told["reason"]), ("failed", "rank 1 was killed by SIGKILL"))
        self.assertEqual((told["attempt"], told["retryable"], told["error"]["type"]), (2, True, "RankLost"))
        self.assertGreater(told["step"], saved_step(saved))

        third = self.start(torn, newest_checkpoint(torn.output))
        started = self.ranks_started(torn)
        third.kill()
        third.communicate(timeout=60)
        self.all_gone(started)

        self.ends(self.start(torn, newest_checkpoint(torn.output)), Exit.COMPLETED)
        self.assertEqual(self.weights(torn), self.weights(alone))

    def one_writer(self, job: SimpleNamespace) -> None:
        records = self.records(job, 1)
        self.assertEqual([record["seq"] for record in records], list(range(1, len(records) + 1)))
        kinds = [record["type"] for record in records]
        self.assertEqual([kinds.count(kind) for kind in ("start", "end")], [1, 1])
        self.assertEqual(next(record["world_size"] for record in records if record["type"] == "start"), RANKS)
        seen = [r["values"]["samples_seen"] for r in records if r["type"] == "metrics" and r["split"] == "train"]
        self.assertEqual(seen, [18 * step for step in range(1, STEPS + 1)])
        self.assertEqual(verify_checkpoint(job.output / f"checkpoint-{STEPS}")["world_size"], RANKS)

    def stopped_at_one_step(self, job: SimpleNamespace) -> Path:
        told, saved = self.result(job), newest_checkpoint(job.output)
        self.assertEqual((told["status"], told["reason"]), ("interrupted", "stopped on request (signal)"))
        self.assertEqual((told["step"], told["last_checkpoint"]), (saved_step(saved), str(saved)))
        names = {file["path"] for file in verify_checkpoint(saved)["files"]}
        self.assertLessEqual({f"rng_state_{rank}.pth" for rank in range(RANKS)}, names)
        saves = [record for record in self.records(job, 1) if record["type"] == "checkpoint"]
        saves = [(record["step"], record["reason"]) for record in saves]
        self.assertEqual((saves[0], saves[-1]), ((1, "control"), (saved_step(saved), "signal")))
        self.assertEqual(self.records(job, 1)[-1]["type"], "end")
        return saved

    def all_gone(self, pids: list[int]) -> None:
        deadline = time.monotonic() + 30
        while any(_runs(pid) for pid in pids):
            self.assertLess(time.monotonic(), deadline, "ranks outlived the process that started them")
            time.sleep(0.01)


def saved_step(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


if __name__ == "__main__":
    if sys.argv[1:2] in (["launch"], ["worker"]):
        {"launch": launch, "worker": worker}[sys.argv[1]](*sys.argv[2:])
    else:
        unittest.main()
