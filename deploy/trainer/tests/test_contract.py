"""The dependency-free half: lines, controls, checkpoints, the last word."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from hone_trainer import contract
from hone_trainer.contract import CheckpointStage, Controls, MetricsWriter, Paths, verify_checkpoint


class InDirectory(unittest.TestCase):
    """Gives each test an empty directory."""

    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.directory = Path(holder.name)


class Lines(InDirectory):
    def writer(self, attempt: int = 1) -> MetricsWriter:
        writer = MetricsWriter(self.directory, attempt)
        self.addCleanup(writer.close)
        return writer

    def records(self) -> list[dict]:
        content = (self.directory / contract.METRICS_FILE).read_bytes()
        self.assertTrue(content.endswith(b"\n"))
        return [json.loads(line, parse_constant=self.fail) for line in content.splitlines() if line[-1:] == b"}"]

    def test_records_are_numbered_and_stamped(self) -> None:
        writer = self.writer(attempt=3)
        writer.write("start", 0, max_steps=5)
        writer.write("metrics", 1, values={"loss": 0.5})
        first, second = self.records()
        self.assertEqual((first["v"], first["type"], first["attempt"], first["max_steps"]), (1, "start", 3, 5))
        self.assertEqual([first["seq"], second["seq"]], [1, 2])
        self.assertGreater(second["ts"], 1.6e9)

    def test_numbers_that_are_not_finite_become_strings(self) -> None:
        writer = self.writer()
        writer.write("metrics", 1, values={"a": float("nan"), "b": float("inf"), "c": [-float("inf")]})
        self.assertEqual(self.records()[0]["values"], {"a": "nan", "b": "inf", "c": ["-inf"]})

    def test_a_restarted_writer_goes_on_counting_and_ends_a_torn_line(self) -> None:
        writer = self.writer()
        writer.write("start", 0)
        writer.write("notice", 0)
        with open(self.directory / contract.METRICS_FILE, "ab") as file:
            file.write(b'{"v":1,"type":"metr')
        self.writer().write("end", 2)
        self.writer(attempt=2).write("start", 0)
        self.assertEqual([(r["attempt"], r["seq"]) for r in self.records()], [(1, 1), (1, 2), (1, 3), (2, 1)])

    def test_long_texts_are_shortened_to_the_bound(self) -> None:
        writer = self.writer()
        writer.write("notice", 0, message="ü\n" * 60_000, code="kept", nested=[{"text": "x" * 90_000}])
        record = self.records()[0]
        size = (self.directory / contract.METRICS_FILE).stat().st_size
        self.assertLessEqual(size, contract.MAX_LINE_BYTES)
        self.assertEqual(record["code"], "kept")
        self.assertTrue(record["message"].endswith(contract.SHORTENED))

    def test_what_cannot_be_shortened_is_refused(self) -> None:
        writer = self.writer()
        with self.assertRaises(ValueError):
            writer.write("metrics", 0, values=dict.fromkeys(map(str, range(20_000)), 1.0))


class Wishes(InDirectory):
    def test_control_files_are_seen_once_and_removed(self) -> None:
        controls = Controls(self.directory)
        self.assertIsNone(controls.take_checkpoint_request())
        (self.directory / "checkpoint").touch()
        self.assertEqual(controls.take_checkpoint_request(), "control")
        self.assertIsNone(controls.take_checkpoint_request())
        (self.directory / "stop").touch()
        self.assertEqual(controls.stop_requested(), "control")
        self.assertEqual(controls.stop_requested(), "control")
        self.assertEqual(list(self.directory.iterdir()), [])

    def child(self, body: str) -> subprocess.Popen:
        program = f"""
import os, signal, sys, time
from pathlib import Path
from hone_trainer.contract import Controls
controls = Controls(Path({str(self.directory)!r}))
controls.install()
print("ready", flush=True)
deadline = time.monotonic() + 20
{body}
"""
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.assertEqual(child.stdout.readline(), "ready\n")
        return child

    def test_the_first_sigterm_asks_and_the_second_ends_at_once(self) -> None:
        child = self.child("""
while not controls.stop_requested(): assert time.monotonic() < deadline
print(controls.stop_requested(), flush=True)
while True: signal.pause()
""")
        child.send_signal(signal.SIGTERM)
        self.assertEqual(child.stdout.readline(), "signal\n")
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=20)
        self.assertEqual(child.returncode, 143)

    def test_sigint_asks_to_stop_and_sigusr1_to_save(self) -> None:
        child = self.child("""
asked = None
while not asked:
    asked = controls.take_checkpoint_request()
    assert time.monotonic() < deadline
print("save", asked, flush=True)
while not controls.stop_requested(): assert time.monotonic() < deadline
print("stop", controls.stop_requested(), flush=True)
""")
        child.send_signal(signal.SIGUSR1)
        self.assertEqual(child.stdout.readline(), "save signal\n")
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.stdout.readline(), "stop signal\n")
        child.communicate(timeout=20)
        self.assertEqual(child.returncode, 0)

    def test_sigusr2_prints_all_stacks_and_goes_on(self) -> None:
        child = self.child("""
def a_function_by_name():
    os.kill(os.getpid(), signal.SIGUSR2)
a_function_by_name()
print("still here", flush=True)
""")
        self.assertEqual(child.stdout.readline(), "still here\n")
        self.assertIn("a_function_by_name", child.communicate(timeout=20)[1])


class Checkpoints(InDirectory):
    def save(self, step: int, content: bytes = b"weights", attempt: int = 1) -> Path:
        with CheckpointStage(self.directory, step, attempt) as stage:
            (stage.path / "model.safetensors").write_bytes(content)
            (stage.path / "deep").mkdir()
            (stage.path / "deep" / "x.json").write_text("{}")
            return stage.commit(kind="full", spec_digest="d")

    def test_a_committed_checkpoint_is_whole_and_readable(self) -> None:
        path = self.save(20)
        self.assertEqual(path.name, "checkpoint-20")
        manifest = verify_checkpoint(path)
        self.assertEqual((manifest["v"], manifest["step"], manifest["kind"]), (1, 20, "full"))
        self.assertEqual([file["path"] for file in manifest["files"]], ["deep/x.json", "model.safetensors"])
        self.assertEqual((path / "model.safetensors").stat().st_mode & 0o777, 0o644)
        self.assertEqual([entry.name for entry in self.directory.iterdir()], ["checkpoint-20"])

    def test_without_a_commit_there_is_no_checkpoint(self) -> None:
        with self.assertRaises(RuntimeError):
            with CheckpointStage(self.directory, 7, 1) as stage:
                (stage.path / "half").touch()
                raise RuntimeError
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_what_is_half_written_gives_its_room_back_even_where_it_is_still_open(self) -> None:
        with self.assertRaises(OSError):
            with CheckpointStage(self.directory, 7, 1) as stage:
                (stage.path / "deep").mkdir()
                held = open(stage.path / "deep" / "half", "wb", buffering=0)
                self.addCleanup(held.close)
                held.write(bytes(100_000))
                raise OSError(errno.ENOSPC, "No space left on device")
        self.assertEqual(os.fstat(held.fileno()).st_blocks, 0)
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_a_stage_that_cannot_be_removed_does_not_hide_why_it_failed(self) -> None:
        with self.assertRaisesRegex(RuntimeError, "why"):
            with CheckpointStage(self.directory, 7, 1) as stage:
                (stage.path / "half").touch()
                stage.path.chmod(0o500)
                self.addCleanup(stage.path.chmod, 0o700)
                raise RuntimeError("why")

    def test_leftovers_of_an_earlier_try_are_not_mixed_in(self) -> None:
        stale = self.directory / "checkpoint-5.tmp-1"
        stale.mkdir()
        (stale / "stale").touch()
        self.assertNotIn("stale", [file["path"] for file in verify_checkpoint(self.save(5))["files"]])

    def test_an_older_checkpoint_of_the_same_step_is_kept_aside(self) -> None:
        self.save(5, b"old")
        path = self.save(5, b"new", attempt=2)
        self.assertEqual((path / "model.safetensors").read_bytes(), b"new")
        (aside,) = self.directory.glob("checkpoint-5.replaced-2-*")
        self.assertEqual((aside / "model.safetensors").read_bytes(), b"old")
        self.assertEqual(contract.newest_checkpoint(self.directory), path)

    def test_damage_is_found(self) -> None:
        for damage in ("cut", "flip", "missing", "manifest"):
            with self.subTest(damage):
                path = self.save(9)
                file = path / "model.safetensors"
                if damage == "cut":
                    file.write_bytes(b"weight")
                elif damage == "flip":
                    file.write_bytes(b"weightz")
                elif damage == "missing":
                    file.unlink()
                else:
                    (path / contract.MANIFEST).write_bytes(b'{"files": [{}')
                with self.assertRaises(ValueError):
                    verify_checkpoint(path)

    def test_the_newest_is_the_highest_complete_step(self) -> None:
        self.save(9)
        self.save(100)
        (self.directory / "checkpoint-200").mkdir()
        self.assertEqual(contract.newest_checkpoint(self.directory).name, "checkpoint-100")


class LastWord(InDirectory):
    def test_the_result_names_its_attempt_and_replaces_an_older_one(self) -> None:
        for attempt in (1, 2):
            paths = Paths.from_env({"HONE_METRICS_DIR": str(self.directory), "HONE_ATTEMPT": str(attempt)})
            contract.write_result(paths, {"status": "failed", "loss": float("nan")})
        result = json.loads((self.directory / contract.RESULT_FILE).read_text())
        self.assertEqual(result, {"v": 1, "attempt": 2, "status": "failed", "loss": "nan"})
        self.assertEqual([entry.name for entry in self.directory.iterdir()], [contract.RESULT_FILE])

    def test_paths_fall_back_on_the_contract(self) -> None:
        paths = Paths.from_env({})
        self.assertEqual((str(paths.spec), str(paths.model)), ("/hone/spec.json", "/hone/input/model"))
        self.assertEqual((paths.resume, paths.attempt), (None, 1))
        self.assertEqual(Paths.from_env({"HONE_RESUME_FROM": "/hone/resume"}).resume, Path("/hone/resume"))

    def test_the_module_needs_the_standard_library_only(self) -> None:
        source = Path(contract.__file__)
        program = (
            f"import runpy, sys; runpy.run_path({str(source)!r}); print(sorted(m for m in sys.modules if 'hone' in m))"
        )
        done = subprocess.run([sys.executable, "-S", "-I", "-c", program], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "[]\n")


if __name__ == "__main__":
    unittest.main()
