"""Generates from the package that this file lies in.

Needs torch, transformers and, for an adapter, peft and the base model's
directory as --base. Nothing is fetched from anywhere. README.md beside this
file has a command that runs it in a container.
"""

import argparse
import json
import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMAGE = "hone-trainer:cpu"
# How an adapter's base was loaded in training, where it was quantised.
BASE_SETTINGS = "base_settings.json"


def container_command(adapter: bool) -> str:
    """A command line for a host without these libraries, to be typed in the package."""
    model = (' -v "DIR":/model:ro', " --base /model") if adapter else ("", "")
    return (
        'docker run --rm --network none --tmpfs /tmp --user "$(id -u)" -v "$PWD":/package:ro'
        f"{model[0]} --entrypoint python3 {IMAGE} /package/inference.py{model[1]} 'your prompt'"
    )


def base_of(package: Path, given: str | None) -> str | None:
    """The base model's directory; None for a full model. ValueError says what to give."""
    config = package / "adapter_config.json"
    if not config.exists():
        return None
    name = json.loads(config.read_text())["base_model_name_or_path"]
    base = given or name
    # A name would be looked up in a public hub, where a stranger may own it.
    if not Path(base).is_dir():
        raise ValueError(f"the adapter needs its base model, {name}: give its directory as --base DIR")
    return base


def base_options(package: Path, unquantised: bool) -> dict:
    """How the base is to be loaded: as in training, unless it is wanted unquantised."""
    import torch

    path = package / BASE_SETTINGS
    if unquantised or not path.exists():
        return {"dtype": "auto"}
    from transformers import BitsAndBytesConfig

    settings = json.loads(path.read_text())
    quantization = BitsAndBytesConfig.from_dict(settings["quantization_config"])
    # What is quantised cannot be moved afterwards.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"dtype": settings["dtype"], "quantization_config": quantization, "device_map": {"": device}}


def load(base: str | None, unquantised: bool = False):
    """The tuned model and its tokenizer, on a GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(HERE)
    if base is None:
        model = AutoModelForCausalLM.from_pretrained(HERE, dtype="auto")
    else:
        from peft import PeftModel

        model = AutoModelForCausalLM.from_pretrained(base, **base_options(HERE, unquantised))
        model = PeftModel.from_pretrained(model, HERE)
    if torch.cuda.is_available() and not getattr(model, "is_quantized", False):
        model.to("cuda")
    return model.eval(), tokenizer


def generate(model, tokenizer, prompt: str, max_new_tokens: int) -> str:
    """The greedy answer to one prompt, rendered as in training."""
    import torch

    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    ids.pop("token_type_ids", None)
    with torch.inference_mode():
        output = model.generate(
            **ids, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
    return tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> None:
    """Answers the prompts on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--base", metavar="DIR", help="directory of the base model, for an adapter")
    parser.add_argument(
        "--unquantised", action="store_true", help="load the base as it is, though it was quantised in training"
    )
    parser.add_argument("--max-new-tokens", type=int, default=128)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        base = base_of(HERE, options.base)
    except ValueError as error:
        parser.error(str(error))
    try:
        model, tokenizer = load(base, options.unquantised)
    except ImportError as error:
        parser.exit(3, f"{error}; hone's image has all that is needed:\n\n{container_command(base is not None)}\n")
    for prompt in options.prompts:
        print(generate(model, tokenizer, prompt, options.max_new_tokens))


if __name__ == "__main__":
    main()
