"""The comparisons that the documentation shows: figures come from an attempt's own records, and are told alike."""

import json
import subprocess
import sys
import unittest
from pathlib import Path

from training import Training, base

from hone_trainer.compare import METHODS, figures, made, spec, table, trained
from hone_trainer.spec import parse

RECORDS = [
    {"type": "notice", "code": "other"},
    {"type": "notice", "code": "model_loaded", "model_bytes": 40, "host_mem_before_bytes": 300_000_000},
    {"type": "start", "trainable_params": 5, "total_params": 1000},
    {"type": "metrics", "split": "eval_base", "values": {}},
    *(
        {"type": "metrics", "split": "train", "values": {"step_time_s": seconds, "host_mem_peak_bytes": peak}}
        for seconds, peak in ((9.0, 400_000_000), (1.0, 450_000_000), (3.0, 512_000_000))
    ),
    {"type": "checkpoint", "bytes": 7_600_000},
]
RESULT = {"metrics": {"base_eval_perplexity": 4.5, "eval_perplexity": 2.25}}


class Figures(unittest.TestCase):
    def test_they_are_those_of_the_records(self) -> None:
        found = figures(RECORDS, RESULT)
        self.assertEqual(found["host_mem_beyond_libraries_bytes"], 212_000_000)
        self.assertEqual((found["seconds_per_step"], found["checkpoint_bytes"]), (1.0, 7_600_000))
        self.assertEqual((found["base_perplexity"], found["perplexity"]), (4.5, 2.25))
        row = table([{"method": "lora", **found}]).splitlines()[-1]
        self.assertEqual(row, "| lora | 5 (0.5 %) | 212 | 7.6 | 1.00 | 4.50 | 2.25 |")

    def test_with_a_gpu_its_peak_is_the_one_that_is_shown(self) -> None:
        found = {"method": "lora", **figures(RECORDS, RESULT), "gpu_mem_peak_bytes": 9_000_000}
        self.assertIn("peak GPU, MB", table([found]))
        self.assertIn("| 9 |", table([found]))

    def test_every_method_is_a_spec_that_the_trainer_takes(self) -> None:
        names = {name: parse(spec(name, 3)).method.name() for name in METHODS}
        self.assertEqual(names["8bit+lora"], "lora 8-bit")
        self.assertEqual(names["nf4+lora"], "lora 4-bit")
        self.assertEqual({name for name in METHODS if names[name] != name}, {"8bit+lora", "nf4+lora"})


class Runs(Training):
    def test_a_method_is_measured_in_a_process_of_its_own(self) -> None:
        work = self.directory()
        (work / "data/train").mkdir(parents=True)
        made("make_task", work / "data/train/task.jsonl", "--rows", 60)
        found = trained("nf4+lora", 2, base(), work / "data", work / "job")
        self.assertEqual(found["method"], "nf4+lora")
        self.assertTrue(0 < found["trainable_params"] < found["total_params"])
        self.assertTrue(0 < found["host_mem_beyond_libraries_bytes"] < found["host_mem_peak_bytes"])
        checkpoint = work / "job/output/checkpoint-2"
        # The manifest lists the files, and so is not one of them.
        files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != "hone_manifest.json"]
        self.assertEqual(found["checkpoint_bytes"], sum(path.stat().st_size for path in files))

    def test_the_loss_in_chunks_takes_less_and_is_the_same(self) -> None:
        command = [sys.executable, "-m", "hone_trainer.compare_loss", "--json"]
        command += ["--vocabulary", "32000", "--hidden", "64"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path("/"))
        self.assertEqual(done.returncode, 0, done.stderr)
        plain, chunked = json.loads(done.stdout)["ways"]
        self.assertEqual((plain["way"], chunked["way"]), ("plain", "chunked"))
        self.assertAlmostEqual(plain["loss"], chunked["loss"], places=4)
        # Logits, their softmax and their gradient, at least.
        self.assertGreater(plain["peak_bytes"], 3 * 2048 * 32000 * 4)
        self.assertLess(chunked["peak_bytes"], plain["peak_bytes"] * 0.7)


if __name__ == "__main__":
    unittest.main()
