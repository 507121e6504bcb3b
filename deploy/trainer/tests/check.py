"""Questions that the drills ask about what an attempt left behind.

check.py result DIR STATUS CODE     its result.json says so, for its attempt
check.py checkpoint DIR             a complete checkpoint, by its manifest
check.py newest OUTPUT              name of the newest complete checkpoint
check.py records METRICS            the records are whole, in order, and complete
check.py base METRICS ATTEMPT       how often that attempt scored the base
check.py losses METRICS             step and loss of the last record per step
"""

import json
import sys
from pathlib import Path

from hone_trainer.contract import newest_checkpoint, verify_checkpoint


def records(metrics: str) -> list[dict]:
    """All whole lines; a killed writer may leave a torn one."""
    found = []
    for line in (Path(metrics) / "metrics.jsonl").read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def check_result(metrics: str, status: str, code: str) -> None:
    result = json.loads((Path(metrics) / "result.json").read_text())
    told = (result["status"], result["code"])
    if told != (status, int(code)):
        sys.exit(f"result.json says {told}, expected {(status, int(code))}: {result['reason']}")


def check_records(metrics: str) -> None:
    """Order within each attempt, and that nothing the contract names is absent."""
    last: dict[int, int] = {}
    kinds = set()
    for record in records(metrics):
        if record["seq"] <= last.get(record["attempt"], 0):
            sys.exit(f"seq went back: {record}")
        last[record["attempt"]] = record["seq"]
        kinds.add(record["type"])
    missing = {"start", "phase", "metrics", "checkpoint", "end"} - kinds
    if missing:
        sys.exit(f"no record of type {missing}")


def count_base(metrics: str, attempt: str) -> None:
    mine = (record for record in records(metrics) if record["attempt"] == int(attempt))
    print(sum(record.get("split") == "eval_base" for record in mine))


def losses_of(metrics: str) -> dict[tuple, tuple]:
    """Loss and tokens of each step and split, as the last attempt to reach it tells."""
    losses = {}
    for record in records(metrics):
        if record.get("split") in ("train", "eval"):
            values = record["values"]
            losses[record["step"], record["split"]] = (
                values.get("loss", values.get("eval_loss")),
                values.get("tokens_seen"),
            )
    return losses


def print_losses(metrics: str) -> None:
    for key, values in sorted(losses_of(metrics).items()):
        print(*key, *values)


def print_newest(output: str) -> None:
    newest = newest_checkpoint(Path(output))
    print(newest.name if newest else "none")


# Each question, with the number of its arguments.
QUESTIONS = {
    "result": (check_result, 3),
    "checkpoint": (lambda directory: verify_checkpoint(Path(directory)), 1),
    "newest": (print_newest, 1),
    "records": (check_records, 1),
    "base": (count_base, 2),
    "losses": (print_losses, 1),
}


def main() -> None:
    """Several questions in a row save the start of a container each."""
    words = sys.argv[1:]
    while words:
        question, count = QUESTIONS[words.pop(0)]
        question(*words[:count])
        del words[:count]


if __name__ == "__main__":
    main()
