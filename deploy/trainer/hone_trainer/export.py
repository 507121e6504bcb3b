"""The package: what a finished job hands over, complete or not there at all."""

import datetime
import json
from importlib import resources
from pathlib import Path

from hone_trainer.card import model_card
from hone_trainer.contract import CheckpointStage, encode
from hone_trainer.inference import BASE_SETTINGS
from hone_trainer.loading import half_type
from hone_trainer.quantise import settings as quantisation
from hone_trainer.rows import Channel
from hone_trainer.session import Session
from hone_trainer.split import Split

PACKAGE = "package"


def export(
    session: Session, channels: list[Channel], split: Split, train_rows: int, tensors: dict | None = None
) -> Path:
    """Writes output/package; its manifest comes last, then its name. `tensors` are the session's."""
    step, paths = session.progress.step, session.paths
    evaluation = evaluation_report(session)
    with CheckpointStage(paths.output, step, paths.attempt, name=PACKAGE) as stage:
        session.save_weights(stage.path, tensors)
        if session.kind == "adapter":
            name_base(stage.path / "adapter_config.json", session.spec.model_name)
        write_base_settings(session, stage.path)
        (stage.path / "eval.json").write_bytes(encode(evaluation))
        (stage.path / "inference.py").write_text(resources.files("hone_trainer").joinpath("inference.py").read_text())
        card = model_card(session, channels, split, train_rows, evaluation, datetime.date.today())
        (stage.path / "README.md").write_text(card)
        return stage.commit(artifact=session.kind, **session.manifest_facts())


def write_base_settings(session: Session, package: Path) -> None:
    """Says how training loads a quantised base, for the package's inference.py; nothing where it is not quantised."""
    quant = session.spec.method.quant
    if quant is None:
        return
    dtype = half_type(session.precision)
    settings = {"dtype": str(dtype).removeprefix("torch."), "quantization_config": quantisation(quant, dtype).to_dict()}
    (package / BASE_SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def name_base(path: Path, public_name: str) -> None:
    """Replaces the container's path of the base by its public name."""
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = public_name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def evaluation_report(session: Session) -> dict:
    """Base against tuned on the held-out rows; empty without such rows."""
    base, tuned = session.base(), session.tuned
    report: dict = {
        "v": 1,
        "step": session.progress.step,
        "rows": len(session.held_out),
        "precision": session.precision,
    }
    report["seq_len"] = session.spec.train.seq_len
    report["loss_on"] = session.spec.data.loss_on
    for name, score in (("base", base), ("tuned", tuned)):
        report[name] = {key.removeprefix("eval_"): value for key, value in score.values().items()} if score else None
    if base and tuned:
        report["perplexity_ratio"] = tuned.perplexity() / base.perplexity()
    return report
