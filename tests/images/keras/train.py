"""Trains a small model that writes text byte by byte, with Keras.

python3 train.py --data FILE.jsonl --output DIR --logs DIR [--epochs 10] [--resume FILE.keras]

Each epoch leaves `model-<epoch>.keras` in the output, with the optimizer's state.
"""

import argparse
import json
import os
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

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
        metrics=["accuracy"],
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--logs", required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--resume")
    args = parser.parse_args()

    keras.utils.set_random_seed(1)
    blocks = read_blocks(args.data).astype("int32")
    held_out = max(1, len(blocks) // 10)
    train, held = blocks[held_out:], blocks[:held_out]

    done = 0
    if args.resume:
        done = int(re.search(r"model-(\d+)\.keras$", args.resume).group(1))
        model = keras.models.load_model(args.resume)
    else:
        model = new_model()
    model.fit(
        train[:, :-1], train[:, 1:],
        validation_data=(held[:, :-1], held[:, 1:]),
        batch_size=args.batch, epochs=args.epochs, initial_epoch=done, verbose=2,
        callbacks=[
            keras.callbacks.ModelCheckpoint(os.path.join(args.output, "model-{epoch:04d}.keras")),
            keras.callbacks.TensorBoard(args.logs, update_freq=10),
        ],
    )


if __name__ == "__main__":
    main()
