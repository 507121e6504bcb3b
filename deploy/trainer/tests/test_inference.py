"""The script that every package carries: where its base comes from, and what it says without libraries."""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from hone_trainer import inference


class Package(unittest.TestCase):
    """A package without weights: enough for everything before a model is loaded."""

    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.package = Path(holder.name)
        shutil.copy(inference.__file__, self.package / "inference.py")

    def name_base(self, name: str) -> None:
        (self.package / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": name}))

    def test_a_full_model_needs_no_base(self) -> None:
        self.assertIsNone(inference.base_of(self.package, None))

    def test_an_adapter_takes_a_directory_only(self) -> None:
        self.name_base("someone/some-model")
        here = str(self.package)
        self.assertEqual(inference.base_of(self.package, here), here)
        for given in (None, "someone/some-model", here + "/absent"):
            with self.subTest(given), self.assertRaisesRegex(ValueError, "someone/some-model: .* --base DIR"):
                inference.base_of(self.package, given)
        self.name_base(here)
        self.assertEqual(inference.base_of(self.package, None), here)

    def run_bare(self, *arguments: str) -> subprocess.CompletedProcess:
        """Runs the script where only the standard library can be imported."""
        command = [sys.executable, "-S", "-I", str(self.package / "inference.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_without_the_libraries_it_names_a_command_that_has_them(self) -> None:
        done = self.run_bare("hello")
        self.assertEqual(done.returncode, 3)
        self.assertIn(inference.container_command(adapter=False), done.stderr)
        self.name_base("m")
        done = self.run_bare("--base", str(self.package), "hello")
        self.assertEqual(done.returncode, 3)
        self.assertIn(inference.container_command(adapter=True), done.stderr)

    def test_the_missing_base_is_told_before_anything_is_imported(self) -> None:
        self.name_base("m")
        done = self.run_bare("hello")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--base DIR", done.stderr)


if __name__ == "__main__":
    unittest.main()
