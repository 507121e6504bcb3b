"""Writes a task that the made-up base model cannot do: complaints to tickets.

python -m hone_trainer.make_task OUT.jsonl --rows 600 --seed 1
"""

import argparse
import json
import random
from pathlib import Path

from hone_trainer.corpus import ticket


def rows(count: int, seed: int, shape: str) -> list[dict]:
    """Different rows of the task, the same for the same seed."""
    rng = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        prompt, completion = ticket(rng)
        found.setdefault(prompt, completion)
    return [_shape(prompt, completion, shape) for prompt, completion in found.items()]


def _shape(prompt: str, completion: str, shape: str) -> dict:
    if shape == "messages":
        return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]}
    return {"prompt": prompt, "completion": completion}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the JSONL file to write")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", choices=("messages", "prompt_completion"), default="messages")
    options = parser.parse_args()
    if not 1 <= options.rows <= 10_000:
        parser.error("--rows must lie between 1 and 10000")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows(options.rows, options.seed, options.format))
    options.out.write_text("".join(lines))
    print(f"{options.rows} rows in {options.out}")


if __name__ == "__main__":
    main()
