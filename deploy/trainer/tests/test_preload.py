"""Tokens in memory: only where they fit, and not for longer than they are needed."""

import tempfile
import unittest
from pathlib import Path

import numpy

from hone_trainer.data.preload import MARGIN_BYTES, Room, preloaded, room
from hone_trainer.data.store import Rows, Store, StoreWriter
from hone_trainer.errors import SpecError
from hone_trainer.render import Example

GB = 2**30
MEMINFO = f"MemTotal: {16 * GB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {8 * GB // 1024} kB\n"
STAT = f"anon {GB}\n{{0}}inactive_file {GB // 4}\n{{0}}active_file {GB // 4}\n"


class Rooms(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.root = Path(holder.name)

    def write(self, **files: str) -> Room:
        for name, content in files.items():
            path = self.root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return room(self.root)

    def test_a_containers_limit_counts_by_either_version_of_cgroups(self) -> None:
        v2 = {"memory.max": str(4 * GB), "memory.current": str(2 * GB), "memory.stat": STAT.format("")}
        v1 = {"memory.limit_in_bytes": str(4 * GB), "memory.usage_in_bytes": str(2 * GB)}
        v1["memory.stat"] = STAT.format("total_")
        for folder, files in (("sys__fs__cgroup__", v2), ("sys__fs__cgroup__memory__", v1)):
            with self.subTest(folder):
                self.setUp()
                found = self.write(proc__meminfo=MEMINFO, **{folder + name: text for name, text in files.items()})
                # Half a GB of what is taken is cached files.
                self.assertEqual(found, Room(2 * GB + GB // 2, 4 * GB, "the container's memory"))

    def test_without_a_limit_or_with_a_higher_one_the_machine_counts(self) -> None:
        machine = Room(8 * GB, 16 * GB, "the machine's memory")
        self.assertEqual(self.write(proc__meminfo=MEMINFO), machine)
        cgroup = {"sys__fs__cgroup__memory.current": str(GB)}
        self.assertEqual(self.write(**cgroup, **{"sys__fs__cgroup__memory.max": "max\n"}), machine)
        self.assertEqual(self.write(**{"sys__fs__cgroup__memory.max": str(64 * GB)}), machine)
        v1 = "sys__fs__cgroup__memory__memory"
        unlimited = {f"{v1}.limit_in_bytes": str(2**63 - 4096), f"{v1}.usage_in_bytes": "1"}
        self.assertEqual(self.write(**unlimited), machine)

    def test_where_nothing_is_known_nothing_is_free(self) -> None:
        self.assertEqual(room(self.root).free, 0)


class Preloading(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        writer = StoreWriter(Path(holder.name) / "train-x")
        for number in range(20):
            ids = numpy.arange(number + 2, dtype=numpy.int32)
            writer.add(number, 0, number, Example(ids, ids, 1))
        self.store = Store.open(writer.finish())
        self.told: list[str] = []

    def notice(self, level: str, code: str, message: str, **fields: object) -> None:
        self.told.append(message)

    def preloaded(self, choice: str, spare: int, reserve: int = 1000):
        """With so many bytes to spare beside training."""
        found = Room(spare + reserve + MARGIN_BYTES, 0, "the container's memory")
        return preloaded([self.store, self.store], choice, reserve, self.notice, lambda: found)

    def mapped(self) -> bool:
        return isinstance(self.store.tokens, numpy.memmap) and isinstance(self.store.index, numpy.memmap)

    def test_what_fits_is_in_memory_as_long_as_it_is_needed_and_the_same(self) -> None:
        rows = Rows(self.store, self.store.usable())
        before, digest = rows[7].ids.tolist(), rows.digest()
        for choice in ("auto", "memory"):
            with self.preloaded(choice, self.store.bytes()) as loaded:
                self.assertTrue(loaded)
                self.assertFalse(self.mapped())
                self.assertEqual((rows[7].ids.tolist(), rows.digest()), (before, digest))
            self.assertTrue(self.mapped())
        self.assertRegex(self.told[0], "kept in memory: .* of the container's memory are left")

    def test_it_is_released_whatever_ends_the_training(self) -> None:
        with self.assertRaises(KeyError), self.preloaded("auto", self.store.bytes()):
            raise KeyError
        self.assertTrue(self.mapped())

    def test_what_does_not_fit_stays_on_disk_and_says_why(self) -> None:
        with self.preloaded("auto", self.store.bytes() - 1) as loaded:
            self.assertFalse(loaded)
            self.assertTrue(self.mapped())
        self.assertRegex(self.told[0], "read from disk: they take .* MB of the container's memory are left")

    def test_what_must_fit_and_does_not_is_refused(self) -> None:
        with self.assertRaisesRegex(SpecError, "data.preload is memory.*raise resources.memory"):
            with self.preloaded("memory", self.store.bytes() - 1):
                self.fail("it went on")
        self.assertTrue(self.mapped())

    def test_none_leaves_everything_where_it_is(self) -> None:
        with self.preloaded("none", 10 * GB) as loaded:
            self.assertFalse(loaded)
            self.assertTrue(self.mapped())


if __name__ == "__main__":
    unittest.main()
