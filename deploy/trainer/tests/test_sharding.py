"""A model in parts on two processes, over gloo on a CPU: the training of whole copies, and files of a whole model."""

import dataclasses
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import test_ranks
import torch
from safetensors.torch import load_file
from training import BATCH, Training, base, experts, rows

from hone_trainer import ranks
from hone_trainer.contract import Controls, restored, verify_checkpoint
from hone_trainer.errors import SpecError
from hone_trainer.group import Group
from hone_trainer.loading import load_model
from hone_trainer.loop import Loop
from hone_trainer.progress import Progress
from hone_trainer.sharded_loop import ShardedLoop
from hone_trainer.sharding import units
from hone_trainer.spec import parse

RANKS = 2
# The first moves nothing, and only then come the three in which every tensor must have had a gradient.
STEPS = 5
# A step after which a checkpoint is saved, and which is not the last.
SAVED = 2
CHECKPOINT = f"checkpoint-{SAVED}"
HALF = {"precision": "bf16"}
LORA = {"type": "lora", "lora": {"r": 2}}
# Method, what the spec's `train` says besides, and the type of the base on the disk.
CASES = {
    "full": ({"type": "full"}, {"clip_norm": 0.5}, torch.float32),
    "lora": (LORA, {"clip_norm": 0.5}, torch.float32),
    "lora-bf16": (LORA, HALF | {"gradient_checkpointing": True}, torch.float32),
    "freeze-bf16": ({"type": "freeze", "freeze": {"last_layers": 1}}, HALF, torch.bfloat16),
    "head-bf16": ({"type": "freeze", "freeze": {"modules": ["lm_head"]}}, HALF, torch.bfloat16),
    "full-fp16": ({"type": "full"}, {"precision": "fp16", "clip_norm": 0.5}, torch.float32),
}
TOLD = (*test_ranks.TOLD, "skipped_steps", "loss_scale")


class Worker(Training):
    """What each rank, or one process alone, does."""

    def begun(self, case: str, sharding: str, output: Path) -> tuple:
        """A session and its loop."""
        method, train, dtype = CASES[case]
        train = {"optimizer": {"lr": 0.01}, "sharding": sharding, **train}
        parts = {"train": train, "checkpoint": {"every_steps": SAVED}, "method": method}
        session = self.session(micro=2, model=base(layers=2, dtype=dtype), steps=STEPS, **parts)
        session.paths = dataclasses.replace(session.paths, output=output)
        session.held_out = rows(5)
        kind = ShardedLoop if sharding == "full" else Loop
        loop = kind(session, rows(STEPS * BATCH), session.precision, STEPS)
        if loop.accelerator.scaler and (sharding == "none" or session.group.rank == 1):
            overflowing(loop)
        return session, loop

    def trained(self, case: str, sharding: str, output: Path, source: Path | None = None) -> dict:
        """Records, scores and weights of a run, or of its rest."""
        session, loop = self.begun(case, sharding, output)
        if source:
            session.progress = Progress.load(source)
        loop.train(resume_from_checkpoint=str(source) if source else None)
        values = [record["values"] for record in self.records(session, "metrics")]
        told = [[restored(values.get(name, 0)) for name in TOLD] for values in values]
        session.evaluate_tuned()
        tensors = session.tensors()
        return {
            "told": told,
            "tuned": dataclasses.astuple(session.tuned),
            "weights": trained_of(session) if tensors is None else tensors,
            "held": sum(parameter.numel() for parameter in session.model.parameters()),
            "whole": sum(parameter.numel() for parameter in session.shape.parameters()),
        }


def overflowing(loop: Loop) -> None:
    """In its second update a gradient overflows; of a model in parts, on the rank that has this part."""
    clip = loop._clip_grad_norm

    def clip_too_large(model) -> torch.Tensor:
        if loop.state.global_step == 1:
            next(p.grad for p in model.parameters() if p.grad is not None).view(-1)[0] = torch.inf
        return clip(model)

    loop._clip_grad_norm = clip_too_large


def trained_of(session) -> dict[str, torch.Tensor]:
    """What a model that is whole would give to be saved."""
    state = session.model.state_dict()
    trained = {name for name, parameter in session.model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in state.items() if session.kind == "full" or name in trained}


def worker(directory: str, *cases: str) -> None:
    """In a rank: leaves what it has seen."""
    test, group = Worker(), Group()
    test.setUp()
    for dtype in (torch.float32, torch.bfloat16):
        # Among several ranks, transformers would save it on the first alone.
        base(layers=2, dtype=dtype)
    group.join()
    for case in cases:
        # With the name of a run in this folder: from its checkpoint.
        name, _, source = case.partition("@")
        for sharding in ("full",) if source else ("none", "full"):
            output = Path(directory) / f"{name}-{f'on-{source}' if source else sharding}"
            found = test.trained(name, sharding, output, Path(directory, source, CHECKPOINT) if source else None)
            torch.save(found, f"{output}-{group.rank}.pt")
            group.wait()
    test.doCleanups()
    group.leave()


def launch(directory: str, *arguments: str) -> None:
    """In a process of its own: it takes signals and sets variables."""
    arguments = [__file__, "worker", directory, *arguments]
    endings = ranks.launch(RANKS, Path(directory), arguments, Controls(Path(directory)))
    sys.exit(1 if endings else 0)


def run(directory: Path, *cases: str) -> None:
    """Has two ranks do these cases."""
    subprocess.run([sys.executable, __file__, "launch", str(directory), *cases], check=True, timeout=300)


class Sums(unittest.TestCase):
    """Sharded against whole copies, with the same ranks."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.directory = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        run(cls.directory, *CASES)

    def found(self, case: str, sharding: str, rank: int = 0) -> dict:
        return torch.load(self.directory / f"{case}-{sharding}-{rank}.pt")

    def test_losses_scores_and_weights_are_those_of_whole_copies(self) -> None:
        for case in CASES:
            with self.subTest(case):
                whole, parts = self.found(case, "none"), self.found(case, "full")
                self.assertEqual(len(parts["told"]), STEPS)
                torch.testing.assert_close(parts["told"], whole["told"], rtol=1e-5, atol=1e-7)
                torch.testing.assert_close(parts["tuned"], whole["tuned"], rtol=1e-5, atol=1e-7)
                self.assertEqual(list(parts["weights"]), list(whole["weights"]))
                # The last bit of a norm may flip a rounding to 16 bits, and Adam makes small gradients large.
                away = {"rtol": 1e-4, "atol": 1e-4 if case.endswith("16") else 1e-7}
                for name, tensor in parts["weights"].items():
                    torch.testing.assert_close(tensor.float(), whole["weights"][name].float(), **away)

    def test_an_overflow_in_one_part_is_skipped_by_all(self) -> None:
        skipped = TOLD.index("skipped_steps")
        for sharding in ("none", "full"):
            told = self.found("full-fp16", sharding)["told"]
            self.assertEqual([values[skipped] for values in told], [0, 1, 1, 1, 1], sharding)

    def test_each_rank_holds_about_half_of_the_parameters(self) -> None:
        for case in CASES:
            with self.subTest(case):
                held = [self.found(case, "full", rank)["held"] for rank in range(RANKS)]
                whole = self.found(case, "full")["whole"]
                self.assertEqual(sum(held), whole)
                self.assertLess(abs(held[0] - held[1]), whole / 50)
                self.assertEqual(self.found(case, "none")["held"], whole)

    def test_checkpoints_have_the_files_of_whole_copies(self) -> None:
        for case in CASES:
            with self.subTest(case):
                whole, parts = (self.directory / f"{case}-{kind}" / CHECKPOINT for kind in ("none", "full"))
                self.assertEqual(names_in(parts), names_in(whole))
                for file in parts.glob("*.safetensors"):
                    expected = load_file(whole / file.name)
                    for name, tensor in load_file(file).items():
                        self.assertEqual(tensor.dtype, expected[name].dtype)
                        torch.testing.assert_close(tensor, expected.pop(name), rtol=1e-4, atol=1e-7)
                    self.assertEqual(expected, {})
                expected, state = (torch.load(place / "optimizer.pt") for place in (whole, parts))
                self.assertEqual(state["param_groups"], expected["param_groups"])
                torch.testing.assert_close(state["state"], expected["state"], rtol=1e-4, atol=1e-9)

    def test_what_is_not_trained_stays_what_it_was(self) -> None:
        saved = load_file(self.directory / "freeze-bf16-full" / CHECKPOINT / "model.safetensors")
        before = load_file(base(layers=2, dtype=torch.bfloat16) / "model.safetensors")
        same = {name for name, tensor in saved.items() if tensor.dtype == torch.bfloat16}
        self.assertTrue(any("layers.0" in name for name in same))
        self.assertFalse(any("layers.1" in name for name in same))
        for name in same:
            self.assertTrue(torch.equal(saved[name], before[name]), name)


class Continuations(Training):
    """From parts to a whole, and back."""

    def test_a_checkpoint_goes_on_with_any_number_of_ranks(self) -> None:
        directory, alone, cases = self.directory(), Worker(), ("full", "lora")
        alone.setUp()
        self.addCleanup(alone.doCleanups)
        one = {case: alone.trained(case, "none", directory / f"{case}-one") for case in cases}
        run(directory, *cases, *(f"{case}@{case}-{of}" for case in cases for of in ("one", "full")))
        for case in cases:
            with self.subTest(case):
                verify_checkpoint(directory / f"{case}-full" / CHECKPOINT)
                back = alone.trained(case, "none", directory / f"{case}-back", directory / f"{case}-full" / CHECKPOINT)
                ways = "full", f"on-{case}-one", f"on-{case}-full"
                whole, of_one, again = (torch.load(directory / f"{case}-{way}-0.pt") for way in ways)
                for found in (whole, of_one, back):
                    torch.testing.assert_close(found["told"][-1], one[case]["told"][-1], rtol=1e-5, atol=1e-7)
                    torch.testing.assert_close(found["weights"], one[case]["weights"], rtol=1e-4, atol=1e-6)
                # With as many ranks it is exact.
                self.assertEqual(again["told"][-1], whole["told"][-1])
                for name, tensor in again["weights"].items():
                    self.assertTrue(torch.equal(tensor, whole["weights"][name]), name)


class Attempts(test_ranks.Attempts):
    """Whole attempts that are stopped and killed, with a model in parts."""

    sharding = "full"

    def test_its_package_is_a_whole_one_and_one_process_goes_on_from_its_checkpoint(self) -> None:
        job = self.job("whole")
        self.ends(self.start(job), test_ranks.Exit.COMPLETED)
        whole, alone = self.weights(job), self.job("one", sharding="none")
        shutil.copytree(job.output / "checkpoint-20", alone.output / "checkpoint-20")
        self.ends(self.start(alone, alone.output / "checkpoint-20", processes=1), test_ranks.Exit.COMPLETED)
        told = [record for record in self.records(alone, 1) if record["type"] == "notice"]
        told = [record["message"] for record in told if record["code"] == "inexact_resume"]
        self.assertEqual(told, [test_ranks.MOVED, "sharding was full in the checkpoint and is none now"])
        self.assertEqual(names_in(alone.output / "package"), names_in(job.output / "package"))
        self.assertEqual(len(self.weights(alone)), len(whole))

    def test_one_process_has_nothing_to_share(self) -> None:
        job = self.job("alone")
        self.ends(self.start(job, processes=1), test_ranks.Exit.BAD_SPEC)
        self.assertIn("raise resources.gpus.count", self.result(job)["reason"])


class Units(Training):
    def test_each_is_of_one_type_and_wholly_trained_or_frozen(self) -> None:
        for case, (method, train, dtype) in CASES.items():
            with self.subTest(case):
                model = self.session(method=method, train=train, model=base(layers=2, dtype=dtype)).model
                chosen = units(model)
                self.assertEqual(len(set(map(id, chosen))), len(chosen))
                for top in (*chosen, model):
                    kinds = {(own.dtype, own.requires_grad) for own in parameters_of(top, chosen)}
                    self.assertEqual(len(kinds), 1, f"{type(top).__name__}: {kinds}")


class Refusals(unittest.TestCase):
    def test_what_cannot_be_cut_is_refused(self) -> None:
        for part, what in (
            ({"method": LORA | {"quant": {"bits": 8}}}, "method.quant"),
            ({"method": {"type": "lora", "lora": {"dora": True}}}, "method.lora.dora"),
            ({"train": {"optimizer": {"name": "adafactor"}}}, "adamw in 32 bits"),
            ({"train": {"optimizer": {"bits": 8}}}, "adamw in 32 bits"),
            ({"train": {"sharding": "half"}}, "none, full"),
        ):
            with self.subTest(part):
                train = {"max_steps": 1, "sharding": "full"} | part.get("train", {})
                values = {"version": 1, "model": {"name": "m"}, "method": part.get("method", LORA), "train": train}
                with self.assertRaisesRegex(SpecError, what):
                    parse(values)

    def test_so_is_a_model_whose_files_have_other_names_for_its_weights(self) -> None:
        for method in ({"type": "full"}, LORA):
            values = {"version": 1, "model": {"name": "m"}, "method": method}
            spec = parse(values | {"train": {"max_steps": 1, "sharding": "full"}})
            with self.subTest(method), self.assertRaisesRegex(SpecError, "other names for .*experts.gate_up_proj"):
                load_model(experts(), spec, "fp32")


def parameters_of(top: torch.nn.Module, borders: list[torch.nn.Module]) -> list[torch.nn.Parameter]:
    """Those of a unit, without those of other units in it."""
    inner = [child for child in top.children() if not any(child is border for border in borders)]
    return [*top.parameters(recurse=False), *(own for child in inner for own in parameters_of(child, borders))]


def names_in(directory: Path) -> list[str]:
    """The files of a checkpoint or package."""
    return sorted(path.name for path in directory.iterdir())


if __name__ == "__main__":
    if sys.argv[1:2] in (["launch"], ["worker"]):
        {"launch": launch, "worker": worker}[sys.argv[1]](*sys.argv[2:])
    else:
        unittest.main()
