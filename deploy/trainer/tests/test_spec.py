"""Reading spec.json, and which failure gets which exit code."""

import copy
import errno
import tempfile
import unittest
from pathlib import Path

from hone_trainer import spec
from hone_trainer.contract import Exit
from hone_trainer.errors import DataError, SpecError, Stopped, exit_code, retryable, writing_to
from hone_trainer.progress import Progress

SMALL = {"version": 1, "model": {"name": "m"}, "train": {"max_steps": 5}}


def changed(path: str, value: object) -> dict:
    """SMALL with one key set, by its dotted path."""
    values = copy.deepcopy(SMALL)
    inner = values
    *parents, last = path.split(".")
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return values


class Parsing(unittest.TestCase):
    def test_defaults_fill_a_small_spec(self) -> None:
        parsed = spec.parse(SMALL)
        self.assertEqual((parsed.method.kind, parsed.data.format, parsed.export), ("lora", "auto", ("adapter",)))
        self.assertEqual((parsed.method.lora.r, parsed.method.lora.alpha), (16, 32.0))
        self.assertEqual(len(parsed.digest), 64)

    def test_unknown_keys_are_additions_to_come(self) -> None:
        self.assertEqual(spec.parse(changed("train.future", {"x": 1})).train.max_steps, 5)

    def test_an_unknown_version_is_refused(self) -> None:
        for version in (0, 2, "1", None, True):
            with self.subTest(version), self.assertRaisesRegex(SpecError, "version"):
                spec.parse(changed("version", version))

    def test_a_wrong_value_is_refused_by_its_name(self) -> None:
        for path, value in (
            ("train.max_steps", 0),
            ("train.max_steps", 1.5),
            ("train.max_steps", "5"),
            ("train.seq_len", True),
            ("train.optimizer.lr", float("nan")),
            ("train.optimizer.name", "sgd"),
            ("train.optimizer.betas", [0.9]),
            ("train.schedule.type", "step"),
            ("train.precision", "int8"),
            ("train.gradient_checkpointing", "yes"),
            ("method.type", "qlora"),
            ("method.lora.targets", []),
            ("method.lora.dora", 1),
            ("method.freeze", {"last_layers": 1}),
            ("method", {"type": "freeze"}),
            ("method", {"type": "freeze", "freeze": {"last_layers": 1, "modules": ["x"]}}),
            ("method", {"type": "full", "quant": {"bits": 4}}),
            ("method.quant.bits", 5),
            ("method.quant.type", "int4"),
            ("train.optimizer.bits", 16),
            ("train.optimizer", {"name": "adafactor", "bits": 8}),
            ("checkpoint", {"auto": True, "every_steps": 5}),
            ("checkpoint.every_minutes", 0),
            ("method.lora.dropout", 1.0),
            ("data.format", "csv"),
            ("data.bad_rows", "ignore"),
            ("data.preload", "tmpfs"),
            ("train.packing", "yes"),
            ("data.eval", {"channel": "test"}),
            ("data.eval", {"fraction": 1.0}),
            ("data", []),
            ("model.name", None),
            ("export", ["model"]),
            ("log_level", "loud"),
        ):
            with self.subTest(path=path, value=value), self.assertRaisesRegex(SpecError, path.split(".")[-1]):
                spec.parse(changed(path, value))

    def test_a_job_must_have_a_length(self) -> None:
        with self.assertRaisesRegex(SpecError, "max_steps"):
            spec.parse({**SMALL, "train": {}})


class Lineage(unittest.TestCase):
    def continues(self, values: dict) -> bool:
        progress = Progress(lineage=spec.parse(SMALL).lineage())
        try:
            progress.require_lineage(spec.parse(values).lineage())
        except SpecError:
            return False
        return True

    def test_what_does_not_shape_the_result_may_change(self) -> None:
        for path, value in (
            ("train.log_every", 9),
            ("checkpoint.every_steps", 3),
            ("log_level", "debug"),
            ("train.gradient_checkpointing", True),
            ("data.bad_rows", "skip"),
            ("data.preload", "memory"),
            ("spec_digest", "x"),
        ):
            with self.subTest(path):
                self.assertTrue(self.continues(changed(path, value)))

    def test_what_shapes_the_result_must_not(self) -> None:
        for path, value in (
            ("train.seed", 1),
            ("train.max_steps", 6),
            ("train.optimizer.lr", 0.1),
            ("train.accumulation", 2),
            ("model.digest", "x"),
            ("method.type", "full"),
            ("method.lora.targets", ["q_proj"]),
            ("method.lora.dora", True),
            ("method.quant", {"bits": 8}),
            ("train.optimizer.name", "adafactor"),
            ("data.loss_on", "all"),
            ("data.system", "s"),
            ("train.packing", True),
        ):
            with self.subTest(path):
                self.assertFalse(self.continues(changed(path, value)))

    def test_micro_batch_and_accumulation_may_be_traded(self) -> None:
        wide, deep = changed("train.micro_batch", 8), changed("train.accumulation", 8)
        self.assertEqual(spec.parse(wide).lineage(), spec.parse(deep).lineage())

    def test_other_data_is_refused(self) -> None:
        progress = Progress(data_digest="d")
        progress.require_data("d")
        with self.assertRaisesRegex(SpecError, "data"):
            progress.require_data("e")


class OutOfMemoryError(RuntimeError):
    """Named like PyTorch's own."""


class ExitCodes(unittest.TestCase):
    def test_each_cause_has_its_code(self) -> None:
        for error, code in (
            (SpecError("x"), Exit.BAD_SPEC),
            (DataError("x"), Exit.DATA),
            (Stopped("signal", saved=True), Exit.INTERRUPTED),
            (Stopped("signal", saved=False), Exit.INTERRUPTED_UNSAVED),
            (OSError(errno.ENOSPC, "full"), Exit.CANNOT_WRITE),
            (PermissionError(errno.EACCES, "no"), Exit.CANNOT_WRITE),
            (RuntimeError("I/O error: No space left on device (os error 28)"), Exit.CANNOT_WRITE),
            (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), Exit.GPU_MEMORY),
            (MemoryError(), Exit.HOST_MEMORY),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), Exit.HOST_MEMORY),
            (RuntimeError("CUDA error: an illegal memory access was encountered"), Exit.GPU_FAULT),
            (RuntimeError("anything else"), Exit.INTERNAL),
            (KeyError("x"), Exit.INTERNAL),
        ):
            with self.subTest(error):
                self.assertEqual(exit_code(error), code)

    def test_the_cause_behind_an_error_counts(self) -> None:
        try:
            try:
                raise OSError(errno.ENOSPC, "full")
            except OSError as error:
                raise RuntimeError("saving failed") from error
        except RuntimeError as error:
            self.assertEqual(exit_code(error), Exit.CANNOT_WRITE)

    def test_an_unclear_failure_with_a_full_disk_is_a_full_disk(self) -> None:
        for directory, code in (("/proc", Exit.CANNOT_WRITE), (tempfile.gettempdir(), Exit.INTERNAL)):
            with self.subTest(directory), self.assertRaises(Exception) as caught:
                with writing_to(Path(directory)):
                    raise RuntimeError("unexpected pos 586048 vs 585940")
            self.assertEqual(exit_code(caught.exception), code)

    def test_only_what_may_pass_by_itself_is_retried(self) -> None:
        self.assertFalse(
            any(map(retryable, (Exit.DATA, Exit.BAD_SPEC, Exit.NOT_FINITE, Exit.COMPLETED, Exit.MISSING_INPUT)))
        )
        self.assertTrue(all(map(retryable, (Exit.INTERRUPTED, Exit.GPU_MEMORY, Exit.CANNOT_WRITE))))


if __name__ == "__main__":
    unittest.main()
