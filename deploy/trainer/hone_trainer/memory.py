"""How much memory training takes, measured rather than guessed."""

import resource

import torch

from hone_trainer.batches import collate
from hone_trainer.evaluate import summed_nll
from hone_trainer.render import Example
from hone_trainer.session import Session


def peaks() -> dict[str, int]:
    """The highest use so far: of this process, and on the GPU if there is one."""
    found = {"host_mem_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if torch.cuda.is_available():
        found["gpu_mem_peak_bytes"] = torch.cuda.max_memory_allocated()
    return found


def probe(session: Session, examples: list[Example]) -> None:
    """One forward and backward pass over the longest rows, before the first step.

    Too large a micro-batch fails here and not hours later, when the long rows
    happen to meet. The optimizer's state is not there yet: the peak of the
    first steps is higher by that. Weights and random state stay as they were.
    """
    model, spec = session.model, session.spec.train
    rows = sorted(examples, key=lambda example: len(example.ids))[-spec.micro_batch :]
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        inputs = {name: tensor.to(device) for name, tensor in collate(rows, session.tokenizer.pad_token_id).items()}
        labels = inputs.pop("labels")
        model.train()
        with session.autocast():
            loss = summed_nll(model(**inputs, use_cache=False).logits, labels)
        loss.backward()
        model.zero_grad(set_to_none=True)
    shape = f"{labels.shape[0]} rows of {labels.shape[1]} tokens"
    session.notice("info", "memory_probe", f"{shape} fit", rows=labels.shape[0], seq_len=labels.shape[1], **peaks())
