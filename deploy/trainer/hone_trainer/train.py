"""One attempt from inputs to package, phase by phase."""

import hashlib
import logging

from hone_trainer.batches import steps_per_epoch
from hone_trainer.errors import DataError, SpecError, Stopped, writing_to
from hone_trainer.export import export
from hone_trainer.loop import Loop
from hone_trainer.memory import probe
from hone_trainer.model import (
    add_adapter,
    end_tokens,
    load_model,
    load_tokenizer,
    parameter_counts,
    resolve_precision,
)
from hone_trainer.progress import Progress
from hone_trainer.render import Example, Renderer, prepare_tokenizer
from hone_trainer.rows import Channel
from hone_trainer.session import Session
from hone_trainer.spec import Spec
from hone_trainer.split import Split

log = logging.getLogger(__name__)


def run(session: Session, channels: list[Channel], split: Split, resumed: Progress | None) -> None:
    """Trains, evaluates and exports; raises Stopped when asked to stop."""
    import torch
    from transformers import set_seed

    spec, paths = session.spec, session.paths
    session.precision = resolve_precision(spec.train.precision)
    with session.phase("load_data"):
        examples = _examples(session, split)
    data_digest = digest(examples)
    if resumed is not None:
        resumed.require_data(data_digest)
        session.progress = resumed
    session.stop_if_asked()

    with session.phase("load_model"):
        set_seed(spec.train.seed)
        session.model = load_model(paths.model, spec, session.precision)
        if session.kind == "adapter":
            session.model = add_adapter(session.model, spec)
    _check_fit(session, examples)
    progress = session.progress
    if resumed is not None:
        _notice_changes(session)
    progress.lineage, progress.data_digest = spec.lineage(), data_digest
    progress.max_steps = max_steps(spec, len(examples))
    progress.threads, progress.precision = torch.get_num_threads(), session.precision
    progress.torch = torch.__version__
    _announce(session, resumed)

    if session.held_out and spec.evaluate_base and progress.base is None:
        session.evaluate_base()
    _train(session, examples, resumed)
    if session.held_out:
        session.evaluate_tuned()
    session.stop_if_asked()
    if spec.export:
        with session.phase("export"), writing_to(paths.output):
            session.package = str(export(session, channels, split, len(examples)))


def _examples(session: Session, split: Split) -> list[Example]:
    """Tokenised train rows; sets tokenizer and held-out rows; reports losses."""
    spec, model_dir = session.spec, session.paths.model
    tokenizer = load_tokenizer(model_dir, spec.trust_remote_code)
    prepare_tokenizer(tokenizer, spec.data.template)
    session.tokenizer = tokenizer
    ends = end_tokens(model_dir, tokenizer)

    def render(rows: list, name: str) -> list[Example]:
        renderer = Renderer(tokenizer, ends, spec.data.loss_on, spec.train.seq_len, spec.data.overlong)
        found = renderer.render_all(rows)
        for code, count in sorted(renderer.counts.items()):
            session.notice("warning", code, f"{count} of {len(rows)} rows in {name}: {_MEANING[code]}")
        return found

    examples = render(split.train, "train")
    session.held_out = render(split.held_out, "eval")
    if split.empty:
        session.notice("warning", "empty_rows", f"{split.empty} rows without text or answer were left out")
    if split.overlap:
        session.notice("warning", "overlap", f"{split.overlap} train rows equal to an evaluation row were left out")
    if not examples:
        raise DataError("no train row has a token to learn within seq_len")
    if split.held_out and not session.held_out:
        raise DataError("no evaluation row has a token to score within seq_len")
    log.info("%d train rows, %d held out", len(examples), len(session.held_out))
    return examples


_MEANING = {
    "template_mismatch": "the chat template does not let the answers be found; left out",
    "overlong_dropped": "longer than seq_len; left out",
    "overlong_truncated": "longer than seq_len; cut",
    "fully_masked": "nothing to learn within seq_len; left out",
}


def digest(examples: list[Example]) -> str:
    """Names the tokenised data: its order, its ids and its masks."""
    state = hashlib.sha256()
    for example in examples:
        state.update(len(example.ids).to_bytes(4, "little"))
        state.update(example.ids.tobytes())
        state.update(example.labels.tobytes())
    return state.hexdigest()


def max_steps(spec: Spec, rows: int) -> int:
    """Optimizer steps of the whole job: the shorter of epochs and max_steps."""
    train = spec.train
    limits = [train.max_steps] if train.max_steps else []
    if train.epochs is not None:
        per_epoch = steps_per_epoch(rows, train.micro_batch, train.accumulation)
        # Rounded first: 0.1 + 0.2 epochs must not become one step more.
        whole = round(train.epochs * per_epoch, 6)
        limits.append(max(1, int(whole) + (whole > int(whole))))
    return min(limits)


def _check_fit(session: Session, examples: list[Example]) -> None:
    """Whether the tokens fit the model; on a GPU a misfit would be a crash."""
    rows = session.model.get_input_embeddings().weight.shape[0]
    highest = max(max(example.ids) for example in [*examples, *session.held_out])
    if highest >= rows:
        raise SpecError(f"the tokenizer gives token {highest}, but the model knows {rows} tokens")
    longest = max(len(example.ids) for example in [*examples, *session.held_out])
    window = getattr(session.model.config, "max_position_embeddings", None)
    if window and longest > window:
        session.notice(
            "warning", "beyond_window", f"rows of up to {longest} tokens exceed the model's {window} positions"
        )


def _notice_changes(session: Session) -> None:
    """Names what does not forbid a continuation but makes it inexact."""
    import torch

    before = session.progress
    now = {"threads": torch.get_num_threads(), "precision": session.precision, "torch": torch.__version__}
    for name, value in now.items():
        if getattr(before, name) != value:
            was = getattr(before, name)
            session.notice("warning", "inexact_resume", f"{name} was {was} in the checkpoint and is {value} now")


def _announce(session: Session, resumed: Progress | None) -> None:
    import torch

    progress, train = session.progress, session.spec.train
    trainable, total = parameter_counts(session.model)
    session.metrics.write(
        "start",
        progress.step,
        max_steps=progress.max_steps,
        epochs=train.epochs,
        world_size=1,
        resumed_from_step=progress.step if resumed else None,
        trainable_params=trainable,
        total_params=total,
        precision=session.precision,
        threads=progress.threads,
        device=torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        versions=session.versions,
    )
    log.info("%d of %d parameters are trained for %d steps", trainable, total, progress.max_steps)
    if resumed is not None:
        log.info("resumed from step %d", progress.step)


def _train(session: Session, examples: list[Example], resumed: Progress | None) -> None:
    progress = session.progress
    loop = Loop(session, examples, session.precision, progress.max_steps)
    source = str(session.paths.resume) if resumed else None
    with session.phase("train"):
        if resumed and progress.step >= progress.max_steps:
            # Training was complete; only evaluation or export were cut off.
            loop.load_weights(source)
        else:
            probe(session, examples)
            loop.train(resume_from_checkpoint=source)
    if progress.step < progress.max_steps:
        raise Stopped(session.controls.stop_requested() or "unknown", saved=True)
    session.stop_if_asked()
