"""The model card: what was trained from what, how, and how well it does."""

import datetime

from hone_trainer.inference import container_command
from hone_trainer.rows import Channel
from hone_trainer.session import Session
from hone_trainer.spec_train import Train
from hone_trainer.split import Split

# Below this many rows a difference says little, and the card says so.
FEW_ROWS = 200


def model_card(
    session: Session, channels: list[Channel], split: Split, train_rows: int, evaluation: dict, today: datetime.date
) -> str:
    """README.md of the package."""
    spec = session.spec
    parts = [
        _front_matter(session),
        f"# {spec.job_name}\n",
        f"Fine-tuned from `{spec.model_name}` with {_method(session)} on {today.isoformat()}.\n",
        _section("Evaluation", _evaluation(evaluation)),
        _section("Data", _data(channels, split, train_rows, len(session.held_out))),
        _section("Training", _table(_training(session))),
        _section("Versions", _table(session.versions)),
        _section("Use", _use(session)),
        _section("Intended use", "To be stated by whoever publishes this model.\n"),
    ]
    return "\n".join(parts)


def _front_matter(session: Session) -> str:
    relation = "adapter" if session.kind == "adapter" else "finetune"
    library = "peft" if session.kind == "adapter" else "transformers"
    base = session.spec.model_name.replace('"', "'")
    return (
        f'---\nbase_model: "{base}"\nbase_model_relation: {relation}\n'
        f"library_name: {library}\npipeline_tag: text-generation\ntags:\n- hone\n---\n"
    )


def _use(session: Session) -> str:
    adapter = session.kind == "adapter"
    where = f"`DIR` is the directory of the base model, {session.spec.model_name}. " if adapter else ""
    base = " --base DIR" if adapter else ""
    bits = session.spec.method.quant and session.spec.method.quant.bits
    quant = f"\nThe base is loaded in {bits} bits, as in training; with `--unquantised` as it is.\n" if bits else ""
    return (
        "In this directory, with the image that `deploy/trainer/build` makes:\n\n"
        f"```\n{container_command(adapter)}\n```\n\n"
        f"{where}Or with torch, transformers and peft of your own: `python inference.py{base} 'your prompt'`.\n{quant}"
    )


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _table(values: dict[str, object]) -> str:
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def _method(session: Session) -> str:
    method = session.spec.method
    if method.freeze:
        last = method.freeze.last_layers
        what = f"the last {last} blocks" if last else ", ".join(method.freeze.modules)
        return f"only {what} trained"
    if not method.adapter:
        return "full fine-tuning"
    lora, quant = method.lora, method.quant
    targets = lora.targets if isinstance(lora.targets, str) else ", ".join(lora.targets)
    kind = "DoRA" if lora.dora else "LoRA"
    shape = f"r={lora.r}, alpha={lora.alpha:g}, dropout={lora.dropout:g}, targets: {targets}"
    if lora.rslora:
        shape += ", rank-stabilised"
    if quant and quant.bits == 8:
        return f"{kind} ({shape}) above a base in 8 bits"
    if quant:
        double = ", double quantisation" if quant.double else ""
        return f"{kind} ({shape}) above a base in 4 bits ({quant.type}{double})"
    return f"{kind} ({shape})"


def _evaluation(evaluation: dict) -> str:
    rows = [(name, evaluation[name]) for name in ("base", "tuned") if evaluation[name]]
    if not rows:
        return "No rows were held out.\n"
    lines = ["| model | perplexity | loss | token accuracy | tokens |", "|---|---|---|---|---|"]
    for name, score in rows:
        lines.append(
            f"| {name} | {score['perplexity']:.4g} | {score['loss']:.4f} "
            f"| {score['token_accuracy']:.3f} | {score['tokens']} |"
        )
    text = "\n".join(lines) + f"\n\nOn {evaluation['rows']} held-out rows, loss on {evaluation['loss_on']}"
    text += f", cut at {evaluation['seq_len']} tokens; perplexity is exp(summed loss / tokens).\n"
    if evaluation["rows"] < FEW_ROWS:
        text += "With so few rows, small differences are within chance.\n"
    return text


def _data(channels: list[Channel], split: Split, train_rows: int, held_out: int) -> str:
    lines = ["| channel | file | rows | sha256 |", "|---|---|---|---|"]
    for channel in channels:
        for file in channel.files:
            lines.append(f"| {channel.name} | {file['name']} | {file['rows']} | `{file['sha256']}` |")
    text = "\n".join(lines)
    text += (
        f"\n\nTrained on {train_rows} rows, {held_out} held out, {split.overlap} left out as equal to a held-out row.\n"
    )
    return text


def _optimizer(train: Train) -> str:
    bits = "" if train.optimizer_bits == 32 else f" with {train.optimizer_bits}-bit state"
    return f"{train.optimizer}{bits}{', paged' if train.paged else ''}"


def _training(session: Session) -> dict[str, object]:
    train, progress = session.spec.train, session.progress
    return {
        "steps": progress.step,
        "epochs": f"{progress.epoch:.3g}",
        "effective batch": f"{train.micro_batch} × {train.accumulation}",
        "sequence length": train.seq_len,
        "optimizer": f"{_optimizer(train)}, lr {train.lr:g}, weight decay {train.weight_decay:g}, betas {train.betas}",
        "schedule": f"{train.schedule}, warm-up {train.warmup:g}",
        "clip norm": train.clip_norm,
        "precision": session.precision,
        "seed": train.seed,
        "tokens seen": progress.tokens_seen,
        "time in training steps": f"{progress.train_seconds:.0f} s",
        "wall time of the last attempt": f"{session.wall_seconds():.0f} s",
    }
