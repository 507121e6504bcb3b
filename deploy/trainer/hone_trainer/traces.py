"""What the records of an attempt tell of it, where the process that wrote them can no longer be asked."""

import json

from hone_trainer.contract import METRICS_FILE, Paths


def known_from_records(paths: Paths) -> dict:
    """How far this attempt came, by the names of result.json; only what its records say."""
    known: dict = {}
    try:
        lines = (paths.metrics / METRICS_FILE).read_bytes().splitlines()
    except OSError:
        return known
    for line in lines:
        try:
            record = json.loads(line)
            if record["attempt"] == paths.attempt:
                known |= _told(record, known.get("step", 0))
        except (ValueError, KeyError, TypeError, AttributeError):  # half a line, of a writer that was killed
            continue
    return known


def _told(record: dict, step: int) -> dict:
    told = {"step": max(step, int(record["step"]))}
    if record["type"] == "start":
        told["max_steps"] = record["max_steps"]
    elif record["type"] == "checkpoint":
        told["last_checkpoint"] = record["path"]
    elif record["type"] == "metrics" and record["split"] == "train":
        told |= {"epoch": record["epoch"], "tokens_seen": record["values"]["tokens_seen"]}
    return told
