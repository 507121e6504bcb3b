"""How much memory training takes, measured rather than guessed."""

from collections.abc import Sequence

import torch

from hone_trainer.batches import collate, longest
from hone_trainer.group import share
from hone_trainer.loss import Targets
from hone_trainer.packing import counted, flat
from hone_trainer.peaks import Peak, so_far
from hone_trainer.render import Example
from hone_trainer.session import Session


def report_load(session: Session, peak: Peak) -> None:
    """What the load took at its highest, beside what of it stays."""
    tensors = [*session.model.parameters(), *session.model.buffers()]
    kept = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    text = f"the model takes {kept / 1e6:.0f} MB; loading it took {peak.added_bytes / 1e6:.0f} MB of RAM at most"
    fields = {"model_bytes": kept, "load_host_peak_bytes": peak.added_bytes, "host_mem_before_bytes": peak.before_bytes}
    fields["seconds"] = round(peak.seconds, 3)
    session.notice("info", "model_loaded", text, **fields, **so_far())


def buckets(session: Session) -> int:
    """Bytes that DistributedDataParallel takes besides: all gradients once more, where the ranks add them up."""
    if session.group.size == 1 or session.sharding != "none":
        return 0
    trained = (value for value in session.model.parameters() if value.requires_grad)
    return sum(value.numel() * value.element_size() for value in trained)


def probe(session: Session, examples: Sequence[Example]) -> None:
    """One forward and backward pass over the longest rows, before the first step.

    Too large a micro-batch fails here and not hours later, when the long rows
    happen to meet. The optimizer's state is not there yet: the peak of the
    first steps is higher by that. Weights and random state stay as they were.
    """
    model, spec = session.model, session.spec.train
    rows = longest(examples, share(spec.micro_batch, spec.accumulation, session.group.size)[0])
    device = next(model.parameters()).device
    with Peak() as peak, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        batch = collate(rows, session.tokenizer.pad_token_id, flat(model))
        counted(batch)
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        labels = inputs.pop("labels")
        model.train()
        with session.autocast():
            loss = session.head.nll(model, inputs, Targets.of(labels))
        loss.backward()
        model.zero_grad(set_to_none=True)
    kind, highest = list(peak.highest.items())[-1]
    highest += buckets(session)
    session.probed = {**peak.highest, kind: highest}
    fields = {"rows": labels.shape[0], "seq_len": labels.shape[1], **session.probed}
    where = "of GPU memory" if kind.startswith("gpu") else "of RAM"
    text = f"{labels.shape[0]} rows of {labels.shape[1]} tokens fit: {highest / 1e6:.0f} MB {where} at most"
    session.notice("info", "memory_probe", text, **fields)
