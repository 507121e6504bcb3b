"""Loads packages as somebody without hone would, and compares their logits with those that the trainer left.

loaded.py WORK METHOD…    folders as `drill_methods.py` leaves them
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

# Logits of the same arithmetic; sums may be taken in another order.
CLOSE = 1e-4


def script_of(package: Path):
    """The package's own inference.py."""
    found = importlib.util.spec_from_file_location(f"inference_{package.parent.parent.name}", package / "inference.py")
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    return script


def model_of(job: Path, base: Path) -> torch.nn.Module:
    """By the package's script alone."""
    script = script_of(job / "output/package")
    model = script.load(script.base_of(script.HERE, str(base)))[0]
    quantised = "quant" in json.loads((job / "spec.json").read_text())["method"]
    if getattr(model, "is_quantized", False) != quantised:
        sys.exit(f"{job.name}: the package's base is {'not ' if quantised else ''}quantised")
    for layer in model.modules():
        # On a processor with bf16 instructions 4-bit layers are packed anew for inference, and calculate in bf16.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return model


def main() -> None:
    """Each package in turn."""
    work = Path(sys.argv[1])
    transformers.logging.disable_progress_bar()
    base = load_file(work / "model/model.safetensors")
    for method in sys.argv[2:]:
        trainer = load_file(work / method / "logits.safetensors")
        expected = trainer["logits"]
        with torch.inference_mode():
            found = model_of(work / method, work / "model")(input_ids=trainer["ids"]).logits
        away = float((found - expected).abs().max() / expected.abs().max())
        if not away < CLOSE:
            sys.exit(f"{method}: the package's logits are {away:.2g} away from the trainer's")
        package = work / method / "output/package/model.safetensors"
        if method == "freeze":
            kept = {name for name, value in load_file(package).items() if torch.equal(value, base[name])}
            if kept != {name for name in base if not name.startswith("model.layers.1.")}:
                sys.exit(f"freeze: of the package's tensors these are the base's: {sorted(kept)}")
        print(f"{method}: loaded, logits within {away:.1g}")


if __name__ == "__main__":
    main()
