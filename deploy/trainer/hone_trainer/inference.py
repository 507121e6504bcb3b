"""Generates from the package that this file lies in.

Needs torch, transformers and, for an adapter, peft. For an adapter the base
model is loaded from --base, or else by the name in adapter_config.json.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent


def load(base: str | None):
    """The tuned model and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(HERE)
    adapter = HERE / "adapter_config.json"
    if not adapter.exists():
        return AutoModelForCausalLM.from_pretrained(HERE, dtype="auto").eval(), tokenizer
    from peft import PeftModel

    name = base or json.loads(adapter.read_text())["base_model_name_or_path"]
    model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    return PeftModel.from_pretrained(model, HERE).eval(), tokenizer


def generate(model, tokenizer, prompt: str, max_new_tokens: int) -> str:
    """The greedy answer to one prompt, rendered as in training."""
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
    parser.add_argument("--base", help="directory or name of the base model of an adapter")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    options = parser.parse_args()
    model, tokenizer = load(options.base)
    if torch.cuda.is_available():
        model.to("cuda")
    for prompt in options.prompts:
        print(generate(model, tokenizer, prompt, options.max_new_tokens))


if __name__ == "__main__":
    main()
