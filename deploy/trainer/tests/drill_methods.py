"""Every method in one closed container: trained whole, then killed without warning and continued, and compared.

drill_methods.py WORK METHOD…    in WORK: model/ and task.jsonl; makes a folder for each method

An attempt is a process of its own that runs the trainer's `main`; all are forked from this one, which has the
libraries loaded, so that they are read once and not once for each attempt. For the container that loads the packages
afterwards (`loaded.py`), each method's folder gets the trainer's own logits.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import bitsandbytes  # noqa: F401  (loaded before the forks, as peft and hone_trainer.train)
import peft  # noqa: F401
import torch
from check import losses_of
from safetensors.torch import load_file, save_file

import hone_trainer.train  # noqa: F401
from hone_trainer import __main__ as trainer
from hone_trainer.contract import MetricsWriter, Paths, newest_checkpoint, verify_checkpoint
from hone_trainer.loading import load_model

STEPS, EVERY, KILLED_AT = 10, 3, 8
# A checkpoint that came long before the kill, so that the continuation has steps to repeat.
CONTINUED_FROM = "checkpoint-6"
SHAPE = {"r": 4, "alpha": 8, "dropout": 0.1}
METHODS = {
    "full": {"type": "full"},
    "freeze": {"type": "freeze", "freeze": {"last_layers": 1}},
    "lora": {"type": "lora", "lora": SHAPE},
    "dora": {"type": "lora", "lora": {**SHAPE, "dora": True, "rslora": True}},
    "int8": {"type": "lora", "lora": SHAPE, "quant": {"bits": 8}},
    "nf4": {"type": "lora", "lora": SHAPE, "quant": {"bits": 4, "type": "nf4", "double": True}},
}
# Rows of tokens that no training saw.
PROMPTS = torch.arange(2, 2 + 4 * 24).view(4, 24)


def spec(method: str) -> dict:
    """A few steps, and an evaluation before and after."""
    rate = 0.002 if method in ("full", "freeze") else 0.02
    train = {"max_steps": STEPS, "seq_len": 96, "micro_batch": 4, "accumulation": 2, "precision": "fp32"}
    train |= {"optimizer": {"lr": rate}}
    return {
        "version": 1,
        "model": {"name": "tiny"},
        "data": {"eval": {"fraction": 0.1, "seed": 7}},
        "method": METHODS[method],
        "train": train,
        "checkpoint": {"every_steps": EVERY},
        "log_level": "warning",
    }


class Shown(trainer.Attempt):
    """An attempt that leaves what its model is and says, beside its package."""

    def finish(self, error: BaseException | None):
        """The last word, and then what only this process can tell."""
        code = super().finish(error)
        if error is None:
            leave(self.session, self.paths.output.parent)
        return code


def leave(session, directory: Path) -> None:
    """The trainer's logits; fails where a tensor moved that is not trained, or none moved that is."""
    model = session.model.eval()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    fresh = load_model(session.paths.model, session.spec, session.precision).state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, fresh[name])}
    # A tied tensor is one parameter with two names.
    tied = {"lm_head.weight"} if "model.embed_tokens.weight" in trained else set()
    if moved != trained | tied:
        sys.exit(f"{directory.name}: trained {sorted(trained - moved)} as before, or moved {sorted(moved - trained)}")
    if session.head.way != "chunked":
        sys.exit(f"{directory.name}: the loss was {session.head.way}")
    with torch.inference_mode():
        logits = model(input_ids=PROMPTS).logits.contiguous()
    save_file({"ids": PROMPTS, "logits": logits}, directory / "logits.safetensors")


class Killed(MetricsWriter):
    """Ends this process as a power cut would, as soon as the record of a step is out."""

    def write(self, kind: str, step: int, /, **fields: object) -> None:
        super().write(kind, step, **fields)
        if kind == "metrics" and fields["split"] == "train" and step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def attempt(work: Path, name: str, method: str, number: int, resume: str = "", die: bool = False) -> None:
    """One attempt at a job, in the process that this is called in."""
    job = work / name
    for folder in ("output", "metrics", "control", "cache", "data/train"):
        (job / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(work / "task.jsonl", job / "data/train")
    (job / "spec.json").write_text(json.dumps(spec(method)))
    folders = {f"HONE_{folder.upper()}_DIR": str(job / folder) for folder in ("output", "metrics", "control", "cache")}
    os.environ |= folders | {"HONE_SPEC": f"{job}/spec.json", "HONE_DATA_DIR": f"{job}/data"}
    os.environ |= {"HONE_MODEL_DIR": f"{work}/model", "HONE_ATTEMPT": str(number)}
    os.environ["HONE_RESUME_FROM"] = f"{job}/output/{resume}" if resume else ""
    writer = mock.patch.object(trainer, "MetricsWriter", Killed) if die else contextlib.nullcontext()
    with mock.patch.object(trainer, "Attempt", Shown), mock.patch.object(sys, "argv", ["hone_trainer"]), writer:
        sys.exit(trainer.main())


def side_by_side(*wanted: tuple[int, Callable, tuple]) -> None:
    """Runs processes beside each other: exit code expected of each, what it calls, with what."""
    running = []
    for code, call, arguments in wanted:
        process = multiprocessing.get_context("fork").Process(target=call, args=arguments)
        process.start()
        running.append((code, arguments, process))
    for code, arguments, process in running:
        process.join()
        if process.exitcode != code:
            sys.exit(f"{arguments[1]}, attempt {arguments[3]}: exit code {process.exitcode}, expected {code}")


def require_same(work: Path, method: str) -> None:
    """What was killed ends as what was left alone: weights, losses and logits."""
    whole, killed = work / method, work / f"{method}-killed"
    verify_checkpoint(whole / "output/package")
    word = json.loads((killed / "metrics/result.json").read_text())
    if not word["metrics"]["eval_loss"] < word["metrics"]["base_eval_loss"]:
        sys.exit(f"{method}: the loss did not fall: {word['metrics']}")
    expected, found = (losses_of(str(job / "metrics")) for job in (whole, killed))
    if expected != found or len(expected) < STEPS:
        sys.exit(f"{method}: killed and continued, the losses are {found} and not {expected}")
    for name in ("output/package/adapter_model.safetensors", "output/package/model.safetensors", "logits.safetensors"):
        if not (whole / name).exists():
            continue
        expected, found = load_file(whole / name), load_file(killed / name)
        differing = [key for key in expected | found if not torch.equal(expected[key], found[key])]
        if differing:
            sys.exit(f"{method}: killed and continued, {name} differs in {differing}")


def main() -> None:
    """All methods, two attempts at a time: the machine may have no more than two cores."""
    work, methods = Path(sys.argv[1]), sys.argv[2:]
    for method in methods:
        killed = (work, f"{method}-killed", method, 1, "", True)
        side_by_side((0, attempt, (work, method, method, 1)), (-signal.SIGKILL, attempt, killed))
        newest = newest_checkpoint(work / f"{method}-killed/output")
        if newest is None or newest.name != CONTINUED_FROM:
            sys.exit(f"{method}: killed at step {KILLED_AT}, but the newest checkpoint is {newest}")
    for pair in (methods[start : start + 2] for start in range(0, len(methods), 2)):
        again = [(0, attempt, (work, f"{method}-killed", method, 2, CONTINUED_FROM)) for method in pair]
        side_by_side(*again)
    for method in methods:
        require_same(work, method)
        print(f"{method}: ok")


if __name__ == "__main__":
    main()
