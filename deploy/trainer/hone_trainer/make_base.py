"""Makes a tiny base model from nothing: tokenizer, weights, a minute of training.

    python -m hone_trainer.make_base OUT_DIR [--steps 200] [--seed 0]

A Llama-style decoder that reads the made-up world of `corpus`. The same seed,
step count and thread count give the same bytes. `--steps 0` leaves it random.
"""

import argparse
import math
import os
import random
import time
from pathlib import Path

# Settled before PyTorch is imported: sums round differently with more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

BLOCK = 128
BATCH = 16
VOCABULARY = 512
PEAK_RATE = 3e-3
TRAIN_PARAGRAPHS = 12_000
HELD_OUT_PARAGRAPHS = 300


def train_tokenizer(texts: list[str]):
    """A byte-level BPE tokenizer: whatever a task contains can be written."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def new_model(tokenizer, hidden: int, layers: int):
    """A random model of the given size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def blocks(tokenizer, texts: list[str]):
    """The texts as rows of BLOCK tokens, each text ended."""
    import torch

    ids: list[int] = []
    for encoded in tokenizer(texts).input_ids:
        ids += [*encoded, tokenizer.eos_token_id]
    whole = len(ids) // BLOCK
    return torch.tensor(ids[: whole * BLOCK]).view(whole, BLOCK)


def perplexity(model, rows) -> float:
    """exp(summed loss / tokens) over all rows."""
    import torch

    total = 0.0
    model.eval()
    with torch.inference_mode():
        for chunk in rows.split(BATCH):
            total += model(input_ids=chunk, labels=chunk).loss.item() * chunk.size(0)
    model.train()
    return math.exp(total / rows.size(0))


def pretrain(model, train, held_out, steps: int, seed: int) -> None:
    """Adam with warm-up and cosine decay; prints progress."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    warmup = max(1, steps // 10)
    shape = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.05 + 0.475 * (1 + math.cos(math.pi * step / max(1, steps)))),
    )
    print(f"perplexity before: {perplexity(model, held_out):.1f}", flush=True)
    started = time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        chunk = train[torch.randint(train.size(0), (BATCH,), generator=generator)]
        loss = model(input_ids=chunk, labels=chunk).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        shape.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps:
            print(f"step {step}/{steps} loss {loss.item():.3f} {time.monotonic() - started:.0f} s", flush=True)
    print(f"perplexity after: {perplexity(model, held_out):.3f}", flush=True)


def make(out: Path, steps: int, seed: int, hidden: int, layers: int) -> None:
    """Everything, into `out`."""
    import torch

    from hone_trainer.corpus import paragraph

    rng = random.Random(seed)
    texts = [paragraph(rng) for _ in range(TRAIN_PARAGRAPHS + HELD_OUT_PARAGRAPHS)]
    tokenizer = train_tokenizer(texts[:2000])
    torch.manual_seed(seed)
    model = new_model(tokenizer, hidden, layers)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    if steps > 0:
        held_out = blocks(tokenizer, texts[TRAIN_PARAGRAPHS:])
        pretrain(model, blocks(tokenizer, texts[:TRAIN_PARAGRAPHS]), held_out, steps, seed)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)
    print(f"written to {out}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the directory to write")
    parser.add_argument("--steps", type=int, default=200, help="training steps; 0 leaves the model random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=192, help="width, a multiple of 32")
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    if options.hidden % 32 or options.hidden < 32 or options.layers < 1 or options.steps < 0:
        parser.error("--hidden must be a multiple of 32, --layers at least 1, --steps not negative")
    from hone_trainer.environment import quieten_transformers

    quieten_transformers()
    make(options.out, options.steps, options.seed, options.hidden, options.layers)


if __name__ == "__main__":
    main()
