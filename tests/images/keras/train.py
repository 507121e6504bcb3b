"""Trains a small model that writes text byte by byte, with Keras.

python3 train.py --data FILE.jsonl --steps N --out DIR --logs DIR [--resume DIR]

Every so many steps, and when there is a file `save-now` beside them, it leaves `ckpt-<step>/` with the model and its
optimizer, and last of all an empty file DONE.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

BLOCK = 64


def read_blocks(path: str) -> np.ndarray:
    """All prompts and completions as rows of BLOCK + 1 bytes."""
    text = bytearray()
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            text += (row["prompt"] + " " + row["completion"] + "\n").encode()
    whole = len(text) // (BLOCK + 1)
    return np.frombuffer(bytes(text[: whole * (BLOCK + 1)]), dtype=np.uint8).reshape(whole, BLOCK + 1)


def new_model() -> keras.Model:
    model = keras.Sequential([
        keras.Input((BLOCK,), dtype="int32"),
        keras.layers.Embedding(256, 32),
        keras.layers.GRU(64, return_sequences=True),
        keras.layers.Dense(256),
    ])
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def save(model: keras.Model, out: Path, step: int) -> None:
    folder = out / f"ckpt-{step}"
    folder.mkdir(exist_ok=True)
    model.save(folder / "model.keras")
    (folder / "DONE").touch()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--logs", required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--save_every", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--resume", type=Path)
    args = parser.parse_args()

    keras.utils.set_random_seed(1)
    blocks = read_blocks(args.data).astype("int32")
    model = keras.models.load_model(args.resume / "model.keras") if args.resume else new_model()
    done = int(model.optimizer.iterations)
    logs = tf.summary.create_file_writer(args.logs)
    for step in range(done + 1, args.steps + 1):
        rows = np.random.default_rng(step).integers(len(blocks), size=args.batch)
        loss = float(model.train_on_batch(blocks[rows, :-1], blocks[rows, 1:]))
        with logs.as_default(step):
            tf.summary.scalar("loss", loss)
        print(f"step {step} of {args.steps}, loss: {loss:.4f}", flush=True)
        asked = args.out / "save-now"
        if step % args.save_every == 0 or asked.exists():
            asked.unlink(missing_ok=True)
            logs.flush()
            save(model, args.out, step)
    logs.close()


if __name__ == "__main__":
    main()
