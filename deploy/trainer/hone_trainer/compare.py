"""Compares the methods on one task: memory, checkpoint, speed and what they learn, as the trainer's records tell.

    python -m hone_trainer.compare [--methods full,lora,…] [--steps N] [--base DIR] [--json]

Makes a base model and a task (`make_base`, `make_task`), and trains each method in a process of its own: peaks are the
method's, and not those of one before it. Prints a table in Markdown, or JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hone_trainer.contract import METRICS_FILE, RESULT_FILE
from hone_trainer.environment import allowed_cpus

SHAPE = {"r": 16, "alpha": 32}
# Each with a learning rate of its own: what moves the weights themselves must move them less.
METHODS = {
    "full": ({"type": "full"}, 0.001),
    "freeze": ({"type": "freeze", "freeze": {"last_layers": 2}}, 0.001),
    "lora": ({"type": "lora", "lora": SHAPE}, 0.005),
    "rslora": ({"type": "lora", "lora": {**SHAPE, "rslora": True}}, 0.002),
    "dora": ({"type": "lora", "lora": {**SHAPE, "dora": True}}, 0.005),
    "8bit+lora": ({"type": "lora", "lora": SHAPE, "quant": {"bits": 8}}, 0.005),
    "nf4+lora": ({"type": "lora", "lora": SHAPE, "quant": {"bits": 4, "type": "nf4", "double": True}}, 0.005),
}
TRAIN = {"seq_len": 128, "micro_batch": 2, "accumulation": 4, "precision": "fp32"}
# Libraries that only some methods use are loaded by all: what is compared is what the methods take.
ATTEMPT = """
import sys
from hone_trainer import __main__ as trainer
from hone_trainer import environment
environment.prepare(trainer.Paths.from_env())
import bitsandbytes, peft, hone_trainer.train
sys.argv = ["hone_trainer"]
sys.exit(trainer.main())
"""


def spec(method: str, steps: int) -> dict:
    """One job; the checkpoint of its last step is the only one."""
    what, rate = METHODS[method]
    return {
        "version": 1,
        "model": {"name": "base"},
        "data": {"eval": {"fraction": 0.1}},
        "method": what,
        "train": {**TRAIN, "max_steps": steps, "optimizer": {"lr": rate}},
        "log_level": "warning",
    }


def trained(method: str, steps: int, base: Path, data: Path, job: Path) -> dict:
    """The figures of one method, from a process of its own."""
    job.mkdir()
    (job / "spec.json").write_text(json.dumps(spec(method, steps)))
    places = {f"HONE_{name.upper()}_DIR": str(job / name) for name in ("output", "metrics", "control", "cache")}
    places |= {"HONE_SPEC": str(job / "spec.json"), "HONE_MODEL_DIR": str(base), "HONE_DATA_DIR": str(data)}
    threads = os.environ.get("OMP_NUM_THREADS") or str(allowed_cpus())
    environment = {**os.environ, **places, "OMP_NUM_THREADS": threads, "HONE_RESUME_FROM": ""}
    done = subprocess.run([sys.executable, "-c", ATTEMPT], env=environment, check=False)
    if done.returncode != 0:
        sys.exit(f"{method} ended with exit code {done.returncode}")
    lines = (job / "metrics" / METRICS_FILE).read_text().splitlines()
    result = json.loads((job / "metrics" / RESULT_FILE).read_text())
    return {"method": method} | figures([json.loads(line) for line in lines], result)


def figures(records: list[dict], result: dict) -> dict:
    """What the table shows, out of an attempt's records and its last word."""

    def of(kind: str) -> list[dict]:
        return [record for record in records if record["type"] == kind]

    start, loaded = of("start")[0], next(record for record in of("notice") if record["code"] == "model_loaded")
    steps = [record["values"] for record in of("metrics") if record["split"] == "train"]
    # A quarter was faster: the slow ones tell what else the machine had to do.
    times = sorted(values["step_time_s"] for values in steps)
    peak = {name: value for name, value in steps[-1].items() if name.endswith("mem_peak_bytes")}
    return {
        "trainable_params": start["trainable_params"],
        "total_params": start["total_params"],
        "model_bytes": loaded["model_bytes"],
        **peak,
        "host_mem_beyond_libraries_bytes": peak["host_mem_peak_bytes"] - loaded["host_mem_before_bytes"],
        "checkpoint_bytes": of("checkpoint")[-1]["bytes"],
        "seconds_per_step": times[len(times) // 4],
        "base_perplexity": result["metrics"]["base_eval_perplexity"],
        "perplexity": result["metrics"]["eval_perplexity"],
    }


def table(rows: Iterable[dict]) -> str:
    """In Markdown; with a GPU its peak is shown, else that of this process beyond what the libraries take."""
    rows = list(rows)
    gpu = "gpu_mem_peak_bytes" in rows[0]
    peak = "gpu_mem_peak_bytes" if gpu else "host_mem_beyond_libraries_bytes"
    where = "GPU" if gpu else "RAM"
    head = ["method", "trained weights", f"peak {where}, MB", "checkpoint, MB", "s a step", "perplexity: base", "tuned"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [
            row["method"],
            f"{row['trainable_params']:,} ({100 * row['trainable_params'] / row['total_params']:.1f} %)",
            f"{row[peak] / 1e6:.0f}",
            f"{row['checkpoint_bytes'] / 1e6:.1f}",
            f"{row['seconds_per_step']:.2f}",
            f"{row['base_perplexity']:.2f}",
            f"{row['perplexity']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def made(what: str, *arguments: object) -> None:
    """Runs another module of this package; what it says goes to stderr."""
    command = [sys.executable, "-m", f"hone_trainer.{what}", *map(str, arguments)]
    subprocess.run(command, stdout=sys.stderr, check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS), help="which, separated by commas (default: all)")
    parser.add_argument("--steps", type=int, default=40, help="training steps of each method")
    parser.add_argument("--base", type=Path, help="directory of a base model; else one is made")
    parser.add_argument("--base-steps", type=int, default=60, help="training steps of the base that is made")
    parser.add_argument("--hidden", type=int, default=384, help="its width, a multiple of 32")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--json", action="store_true", help="JSON in place of the table")
    options = parser.parse_args()
    methods = options.methods.split(",")
    unknown = [name for name in methods if name not in METHODS]
    if unknown or options.steps < 1:
        parser.error(f"unknown: {', '.join(unknown)}" if unknown else "--steps must be at least 1")
    with tempfile.TemporaryDirectory() as holder:
        work = Path(holder)
        base = options.base or work / "base"
        if options.base is None:
            size = ("--hidden", options.hidden, "--layers", options.layers)
            made("make_base", base, "--steps", options.base_steps, *size)
        data = work / "data"
        (data / "train").mkdir(parents=True)
        made("make_task", data / "train" / "task.jsonl")
        rows = [trained(name, options.steps, base.resolve(), data, work / name) for name in methods]
    settings = {**TRAIN, "steps": options.steps}
    print(json.dumps({"v": 1, "train": settings, "methods": rows}, indent=2) if options.json else table(rows))


if __name__ == "__main__":
    main()
