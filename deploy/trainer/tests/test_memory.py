"""The probe before the first step: what it tells, and that it leaves no trace."""

import resource
import unittest
from pathlib import Path
from unittest import mock

import torch
from training import Training, base, rows, values_of

from hone_trainer.memory import buckets, probe
from hone_trainer.peaks import host_peak
from hone_trainer.render import Example
from hone_trainer.session import Session

LENGTH = 400
TAKEN = 200_000_000
# Dropout, which draws random numbers.
LORA = {"type": "lora", "lora": {"r": 2, "dropout": 0.3}}


class Probe(Training):
    def probed(self, micro: int) -> Session:
        ids = [2 + place % 250 for place in range(LENGTH)]
        session = self.session(micro=micro, model=base(layers=2))
        probe(session, [*rows(4), *[Example(ids, ids, LENGTH)] * micro])
        return session

    def test_its_peak_is_that_of_the_pass_and_not_of_what_came_before(self) -> None:
        session = self.session()
        nll, before = session.head.nll, torch.ones(4 * TAKEN, dtype=torch.uint8)
        del before

        def taking(*arguments: object) -> torch.Tensor:
            # Large enough to come from the kernel, and to go back to it: what is free in the heap does not count.
            held = torch.ones(TAKEN, dtype=torch.uint8)
            return nll(*arguments) + 0 * held[0]

        with mock.patch.object(session.head, "nll", taking):
            probe(session, rows())
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        self.assertLess(abs(session.probed["host_mem_peak_bytes"] - resident - TAKEN), TAKEN / 2)
        self.assertGreater(host_peak() - resident, 3 * TAKEN)

    def test_the_notice_has_its_shape_and_its_peak(self) -> None:
        session = self.probed(2)
        told = self.records(session, "notice")[-1]
        self.assertEqual((told["code"], told["rows"], told["seq_len"]), ("memory_probe", 2, LENGTH))
        self.assertEqual(told["host_mem_peak_bytes"], session.probed["host_mem_peak_bytes"])
        self.assertRegex(told["message"], rf"2 rows of {LENGTH} tokens fit: \d+ MB of (RAM|GPU memory) at most")

    def test_several_ranks_hold_their_gradients_twice(self) -> None:
        session = self.session()
        trained = sum(value.numel() * 4 for value in session.model.parameters())
        self.assertEqual(buckets(session), 0)
        session.group.size = 2
        self.assertEqual(buckets(session), trained)

    def test_weights_gradients_and_random_state_stay_as_they_were(self) -> None:
        session = self.session(method=LORA)
        before, state = values_of(session.model), torch.get_rng_state()
        probe(session, rows())
        self.assertTrue(torch.equal(torch.get_rng_state(), state))
        for name, value in session.model.state_dict().items():
            self.assertTrue(torch.equal(value, before[name]), name)
        self.assertTrue(all(value.grad is None for value in session.model.parameters()))

    def test_where_the_rows_do_not_fit_it_fails_and_nothing_is_known_of_a_peak(self) -> None:
        session = self.session()
        with mock.patch.object(session.head, "nll", side_effect=MemoryError), self.assertRaises(MemoryError):
            probe(session, rows())
        self.assertEqual((session.probed, self.records(session, "notice")), ({}, []))


if __name__ == "__main__":
    unittest.main()
