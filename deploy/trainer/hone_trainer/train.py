"""One attempt from inputs to package, phase by phase."""

import logging

from hone_trainer.batches import steps_per_epoch
from hone_trainer.data.preload import preloaded, to_come
from hone_trainer.data.prepare import Prepared, prepare
from hone_trainer.data.store import Rows
from hone_trainer.errors import SpecError, writing_to
from hone_trainer.export import export
from hone_trainer.loading import load_model, parameter_counts
from hone_trainer.loop import Loop
from hone_trainer.loss import Head
from hone_trainer.memory import probe, report_load
from hone_trainer.methods import SHOWN
from hone_trainer.model import end_tokens, load_tokenizer, resolve_precision
from hone_trainer.packing import Packs, require_apart
from hone_trainer.peaks import Peak
from hone_trainer.progress import Progress
from hone_trainer.quantise import NOTABLE, left_whole
from hone_trainer.render import Example, prepare_tokenizer
from hone_trainer.session import Session
from hone_trainer.sharded_loop import ShardedLoop
from hone_trainer.spec import Spec, Train

log = logging.getLogger(__name__)


def run(session: Session, resumed: Progress | None) -> None:
    """Trains, evaluates and exports; raises Stopped when asked to stop."""
    import torch

    spec, paths = session.spec, session.paths
    session.precision = resolve_precision(spec.train.precision)
    with session.phase("load_data"), session.group.one_before_all():
        data = _examples(session)
    examples = packed(data.train, spec.train) if spec.train.packing else data.train
    data_digest = examples.digest()
    if resumed is not None:
        resumed.require_data(data_digest)
        session.progress = resumed
    session.stop_if_asked()

    _load(session, data)
    _choose_loss(session, data.train[0])
    if spec.train.packing:
        require_apart(session.model, data.train[0].ids, session.autocast)
    progress = session.progress
    if resumed is not None:
        _notice_changes(session)
    progress.lineage, progress.data_digest = spec.lineage(), data_digest
    progress.max_steps = max_steps(spec, len(examples))
    progress.threads, progress.precision = torch.get_num_threads(), session.precision
    progress.torch, progress.ranks, progress.sharding = torch.__version__, session.group.size, session.sharding
    _announce(session, resumed)

    if session.held_out and spec.evaluate_base and progress.base is None:
        session.evaluate_base()
    _train(session, data, examples, resumed)
    if session.held_out:
        session.evaluate_tuned()
    session.stop_if_asked()
    if spec.export:
        with session.phase("export"), writing_to(paths.output):
            tensors = session.tensors()
            if session.group.rank == 0:
                session.package = str(export(session, data.channels, data.split, len(data.train), tensors))


def _load(session: Session, data: Prepared) -> None:
    """The model in place; where it is to be sharded, one rank loads after the other: memory holds one whole copy."""
    from transformers import set_seed

    spec, group = session.spec, session.group
    with session.phase("load_model"):
        for turn in range(group.size if spec.train.sharding else 1):
            if not spec.train.sharding or turn == group.rank:
                set_seed(spec.train.seed)
                with Peak() as peak:
                    session.model = load_model(session.paths.model, spec, session.precision)
                report_load(session, peak)
                _check_fit(session, data)
                if spec.method.quant:
                    notice_left_whole(session)
                if spec.train.sharding:
                    session.shard()
            if spec.train.sharding:
                group.wait()
        if session.shards:
            session.shards.meet()


def _examples(session: Session) -> Prepared:
    """The tokenised rows; sets tokenizer and held-out rows, and reports what is wrong with the data."""
    spec, paths = session.spec, session.paths
    tokenizer = load_tokenizer(paths.model, spec.trust_remote_code)
    prepare_tokenizer(tokenizer, spec.data.template)
    session.tokenizer = tokenizer
    ends = end_tokens(paths.model, tokenizer)
    data = prepare(spec, paths, tokenizer, ends, session.stop_if_asked, session.notice)
    session.held_out = data.held_out
    log.info("%d train rows, %d held out", len(data.train), len(data.held_out))
    return data


def packed(rows: Rows, train: Train) -> Packs:
    """The rows, several to a sequence."""
    packs = Packs(rows, train.seq_len, train.seed)
    share = 100 * packs.full()
    log.info("%d rows in %d sequences of %d tokens, %.1f%% full", len(rows), len(packs), train.seq_len, share)
    return packs


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


def _check_fit(session: Session, data: Prepared) -> None:
    """Whether the tokens fit the model; on a GPU a misfit would be a crash."""
    rows = session.model.get_input_embeddings().weight.shape[0]
    if data.highest >= rows:
        raise SpecError(f"the tokenizer gives token {data.highest}, but the model knows {rows} tokens")
    window = getattr(session.model.config, "max_position_embeddings", None)
    if window and data.longest > window:
        session.notice(
            "warning", "beyond_window", f"rows of up to {data.longest} tokens exceed the model's {window} positions"
        )


def notice_left_whole(session: Session) -> None:
    """Says so if a notable part of the base is not quantised: its memory is then not what was asked for."""
    share, names = left_whole(session.model)
    if share > NOTABLE:
        listed = ", ".join(names[:SHOWN])
        text = f"{100 * share:.1f}% of the base's weights, embeddings apart, are not quantised: {listed}"
        session.notice("warning", "not_quantised", text, share=round(share, 4))


def _choose_loss(session: Session, example: Example) -> None:
    """The loss without all logits, unless this model does something of its own with them."""
    session.head = Head(session.model)
    why = session.head.settle(session.model, example.ids, session.autocast)
    if why:
        session.notice("warning", "plain_loss", f"the loss takes all logits at once: {why}")
    log.info("the loss is %s", session.head.way)


def _notice_changes(session: Session) -> None:
    """Names what does not forbid a continuation but makes it inexact."""
    import torch

    before = session.progress
    now = {"threads": torch.get_num_threads(), "precision": session.precision, "torch": torch.__version__}
    now |= {"ranks": session.group.size, "sharding": session.sharding}
    for name, value in now.items():
        if getattr(before, name) != value:
            was = getattr(before, name)
            session.notice("warning", "inexact_resume", f"{name} was {was} in the checkpoint and is {value} now")


def _announce(session: Session, resumed: Progress | None) -> None:
    import torch

    progress, train = session.progress, session.spec.train
    trainable, total = parameter_counts(session.shape)
    session.metrics.write(
        "start",
        progress.step,
        max_steps=progress.max_steps,
        epochs=train.epochs,
        world_size=session.group.size,
        resumed_from_step=progress.step if resumed else None,
        trainable_params=trainable,
        total_params=total,
        precision=session.precision,
        threads=progress.threads,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        versions=session.versions,
    )
    log.info("%d of %d parameters are trained for %d steps", trainable, total, progress.max_steps)
    if resumed is not None:
        log.info("resumed from step %d", progress.step)


def _train(session: Session, data: Prepared, examples: Rows | Packs, resumed: Progress | None) -> None:
    progress = session.progress
    kind = ShardedLoop if session.shards else Loop
    loop = kind(session, examples, session.precision, progress.max_steps)
    source = str(session.paths.resume) if resumed else None
    with session.phase("train"):
        if resumed and progress.step >= progress.max_steps:
            # Training was complete; only evaluation or export were cut off.
            loop.load_weights(source)
        else:
            probe(session, examples)
            stores, choice = [data.train.store, data.held_out.store], session.spec.data.preload
            if session.group.size > 1 and choice == "auto":
                # Mapped files are in memory once; each rank would hold its own copy.
                choice = "none"
            with preloaded(stores, choice, to_come(session.model), session.notice):
                loop.train(resume_from_checkpoint=source)
    if progress.step < progress.max_steps:
        raise session.stopped(session.controls.stop_requested() or "unknown")
    session.stop_if_asked()
