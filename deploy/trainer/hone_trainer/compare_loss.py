"""Compares what the loss takes at its highest: with all logits at once, and as this trainer does it.

    python -m hone_trainer.compare_loss [--vocabulary 128000] [--hidden 512] [--tokens 2048] [--frozen] [--json]

One forward and one backward pass of a random model of one block, in a process of its own for each way.
"""

import argparse
import json
import multiprocessing
import os
import time

# Settled before PyTorch is imported: its threads spin where the machine has other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WAYS = ("plain", "chunked")
ROWS = 4


def measured(way: str, vocabulary: int, hidden: int, tokens: int, frozen: bool) -> dict:
    """Peak beyond the model, seconds and loss of one pass, in this process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hone_trainer.loss import Head, Targets
    from hone_trainer.peaks import Peak

    torch.manual_seed(0)
    shape = {"vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": max(1, hidden // 64), "num_key_value_heads": max(1, hidden // 64)}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True)).to(device)
    model.get_output_embeddings().weight.requires_grad_(not frozen)
    head = Head(model)
    head.way = way if way == "plain" else head.way
    ids = torch.randint(vocabulary, (ROWS, tokens // ROWS), device=device)
    targets = Targets.of(ids)
    # The gradients are there before and after: neither way can do without them.
    for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    started = time.monotonic()
    with Peak() as peak:
        nll = head.nll(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, targets)
        nll.backward()
        loss = float(nll.detach()) / len(targets)
    taken = peak.highest["gpu_mem_peak_bytes"] - before if device == "cuda" else peak.added_bytes
    return {"way": head.way, "peak_bytes": taken, "seconds": time.monotonic() - started, "loss": loss}


def table(rows: list[dict]) -> str:
    """In Markdown."""
    lines = ["| loss | peak beyond the model, MB | s | loss |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['way']} | {row['peak_bytes'] / 1e6:.0f} | {row['seconds']:.1f} | {row['loss']:.6f} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--hidden", type=int, default=512, help="width, a multiple of 64")
    parser.add_argument("--tokens", type=int, default=2048, help="a multiple of 4: they come in four rows")
    parser.add_argument("--frozen", action="store_true", help="the output layer is not trained, as below an adapter")
    parser.add_argument("--json", action="store_true", help="JSON in place of the table")
    options = parser.parse_args()
    if options.hidden % 64 or options.tokens % ROWS or min(options.vocabulary, options.hidden, options.tokens) < ROWS:
        parser.error("--hidden must be a multiple of 64, --tokens one of 4, and --vocabulary at least 4")
    size = (options.vocabulary, options.hidden, options.tokens)
    rows = []
    for way in WAYS:
        # What one pass gave back must not serve the next.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measured, (way, *size, options.frozen)))
    shape = dict(zip(("vocabulary", "hidden", "tokens"), size)) | {"frozen": options.frozen}
    print(json.dumps({"v": 1, **shape, "ways": rows}, indent=2) if options.json else table(rows))


if __name__ == "__main__":
    main()
