"""Fine-tunes a causal language model on prompts and completions, with the Trainer of transformers.

python3 train.py config.yaml
python3 train.py --model_name_or_path DIR --train_file FILE.jsonl --output_dir DIR …

Every argument of `TrainingArguments` can be given. All weights are trained.
"""

import json
import sys
from dataclasses import dataclass, field

from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments

IGNORED = -100


@dataclass
class ScriptArguments:
    """What is trained, and on what."""

    model_name_or_path: str = field(metadata={"help": "Folder of the base model."})
    train_file: str = field(metadata={"help": "JSONL, each row with `prompt` and `completion`."})
    eval_file: str | None = field(default=None, metadata={"help": "Held-out rows of the same form."})
    max_length: int = field(default=128, metadata={"help": "Tokens of a row; what is longer is cut."})


class Rows:
    """The rows of a file, tokenized when they are asked for."""

    def __init__(self, path: str, tokenizer, max_length: int):
        with open(path, encoding="utf-8") as file:
            self.rows = [json.loads(line) for line in file if line.strip()]
        self.tokenizer = tokenizer
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        prompt = self.tokenizer(row["prompt"]).input_ids
        answer = self.tokenizer(row["completion"]).input_ids + [self.tokenizer.eos_token_id]
        ids = (prompt + answer)[: self.max_length]
        return {"input_ids": ids, "labels": ([IGNORED] * len(prompt) + answer)[: self.max_length]}


class Padding:
    """Brings the rows of a batch to one length."""

    def __init__(self, pad: int):
        self.pad = pad

    def __call__(self, rows: list[dict]) -> dict:
        import torch

        longest = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, value: int):
            return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

        ids = padded("input_ids", self.pad)
        lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
        return {
            "input_ids": ids,
            "attention_mask": (torch.arange(longest) < lengths).long(),
            "labels": padded("labels", IGNORED),
        }


def main() -> None:
    parser = HfArgumentParser((ScriptArguments, TrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith((".yaml", ".yml")):
        script, training = parser.parse_yaml_file(sys.argv[1])
    elif len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        script, training = parser.parse_json_file(sys.argv[1])
    else:
        script, training = parser.parse_args_into_dataclasses()

    tokenizer = AutoTokenizer.from_pretrained(script.model_name_or_path)
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(script.model_name_or_path),
        args=training,
        train_dataset=Rows(script.train_file, tokenizer, script.max_length),
        eval_dataset=Rows(script.eval_file, tokenizer, script.max_length) if script.eval_file else None,
        data_collator=Padding(tokenizer.pad_token_id),
        processing_class=tokenizer,
    )
    result = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", result.metrics)


if __name__ == "__main__":
    main()
