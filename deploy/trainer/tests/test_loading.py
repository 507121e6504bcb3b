"""Loading costs one copy of the model and no second; what is damaged is refused."""

import json
import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from training import STEPS, Training, base
from transformers import BloomConfig, BloomForCausalLM, GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM

from hone_trainer.errors import MissingInput, SpecError
from hone_trainer.loading import attention, disk_type
from hone_trainer.weights import MappedFile, mapped_weights

# The bound of a load: the model as it is kept, and so many times the largest tensor as it lies on the disk (one is
# read, the others are what quantising it takes). Measured here: 0.5 of such a tensor beside an fp32 model, 1.2 beside
# half precision, 2.4 beside 8 bits, 2.3 beside NF4. A second copy of the model would be ten of them.
WORKING = 3

MEASURE = """
import json, os, sys
from pathlib import Path
from hone_trainer.loading import load_model
from hone_trainer.spec import parse
from hone_trainer.peaks import Peak
for method, precision in json.loads(sys.argv[2]):
    spec = parse({"version": 1, "model": {"name": "m"}, "train": {"max_steps": 1}, "method": method})
    # Once beforehand with a small model: what the libraries take at their first use is not the load's.
    load_model(Path(sys.argv[3]), spec, precision)
    # A process for each: what one load gave back could serve the next.
    if os.fork() == 0:
        with Peak() as peak:
            model = load_model(Path(sys.argv[1]), spec, precision)
        kept = sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])
        print(json.dumps({"peak": peak.added_bytes, "kept": kept}), flush=True)
        os._exit(0)
    os.wait()
"""


class Peak(Training):
    def test_it_stays_near_one_copy_of_the_model(self) -> None:
        directory = self.directory()
        config = LlamaConfig(
            vocab_size=8192,
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=5,
            num_attention_heads=16,
            tie_word_embeddings=False,
        )
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        largest = max(value.numel() for value in model.parameters()) * 4
        model.save_pretrained(directory, max_shard_size="200MB")
        self.assertTrue((directory / "model.safetensors.index.json").is_file())
        size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
        self.assertGreater(size, 300e6)
        del model
        loads = [
            ({"type": "full"}, "fp32"),
            ({"type": "lora"}, "bf16"),
            ({"type": "lora", "quant": {"bits": 8}}, "fp32"),
            ({"type": "lora", "quant": {"bits": 4}}, "fp32"),
        ]
        command = [sys.executable, "-c", MEASURE, str(directory), json.dumps(loads), str(base())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        measured = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for load, found in zip(loads, measured, strict=True):
            with self.subTest(load):
                self.assertLess(found["peak"], found["kept"] + WORKING * largest, found)
                # A measure that sees nothing would pass as well.
                self.assertGreater(found["peak"], 0.9 * found["kept"], found)


class Attention(Training):
    def test_models_that_know_no_kernel_of_pytorchs_are_trained_as_well(self) -> None:
        bloom = BloomForCausalLM(BloomConfig(vocab_size=512, hidden_size=32, n_layer=1, n_head=2))
        sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4, "pad_token_id": 0}
        for model in (bloom, GptOssForCausalLM(GptOssConfig(**sizes, **heads))):
            with self.subTest(type(model).__name__):
                directory = self.directory()
                model.save_pretrained(directory)
                session = self.session(model=directory)
                self.assertEqual(session.model.config._attn_implementation, "eager")
                self.loop(session).train()
                self.assertEqual(len(self.losses(session)), STEPS)
        self.assertEqual(self.session().model.config._attn_implementation, "sdpa")

    def test_flash_attention_is_taken_where_it_can_be(self) -> None:
        here = mock.patch("transformers.utils.is_flash_attn_2_available", lambda: True)
        gpu = mock.patch("torch.cuda.is_available", lambda: True)
        # No GPU is here to load such a model on; what is chosen can be asked all the same.
        with mock.patch.dict(os.environ), here:
            self.assertIsNone(attention(LlamaForCausalLM, torch.bfloat16))
            with gpu:
                self.assertIsNone(attention(LlamaForCausalLM, torch.float32))
                self.assertIsNone(attention(BloomForCausalLM, torch.bfloat16))
                self.assertIsNone(attention(GptOssForCausalLM, torch.bfloat16))
                self.assertNotIn("FLASH_ATTENTION_DETERMINISTIC", os.environ)
                self.assertEqual(attention(LlamaForCausalLM, torch.bfloat16), "flash_attention_2")
                self.assertEqual(os.environ["FLASH_ATTENTION_DETERMINISTIC"], "1")
        with gpu:
            self.assertIsNone(attention(LlamaForCausalLM, torch.bfloat16))


class Files(Training):
    def test_tensors_are_those_of_the_file(self) -> None:
        path = base() / "model.safetensors"
        for name, value in load_file(path).items():
            self.assertTrue(torch.equal(mapped_weights(base())[name][...], value), name)

    def test_a_file_that_is_cut_off_or_lies_is_refused(self) -> None:
        whole = (base() / "model.safetensors").read_bytes()
        for name, content in (
            ("empty", b""),
            ("cut in the header", whole[:20]),
            ("cut in a tensor", whole[:-1]),
            ("a header that is no JSON", (8).to_bytes(8, "little") + b"........"),
            ("an endless header", (2**62).to_bytes(8, "little") + whole[8:]),
        ):
            with self.subTest(name):
                directory = self.directory()
                (directory / "model.safetensors").write_bytes(content)
                with self.assertRaises(MissingInput):
                    mapped_weights(directory)

    def test_a_model_of_several_types_has_none(self) -> None:
        directory = self.directory()
        save_file({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.bfloat16)}, directory / "model.safetensors")
        self.assertIsNone(disk_type(directory))
        self.assertEqual(disk_type(base()), torch.float32)
        self.assertEqual(MappedFile(directory / "model.safetensors").tensors["b"].dtype, torch.bfloat16)

    def test_no_file_of_a_model_that_may_not_be_read_counts_as_a_failure_to_write(self) -> None:
        for path in base().glob("*.*"):
            # The tokenizer is loaded elsewhere.
            if not path.name.startswith("tokenizer"):
                directory = self.directory()
                shutil.copytree(base(), directory, dirs_exist_ok=True)
                (directory / path.name).chmod(0)
                with self.subTest(path.name), self.assertRaisesRegex((MissingInput, SpecError), "Permission denied"):
                    self.session(model=directory)

    def test_weights_that_lack_a_tensor_are_refused(self) -> None:
        directory = self.directory()
        for path in base().iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
        tensors = load_file(base() / "model.safetensors")
        tensors.pop("model.norm.weight")
        save_file(tensors, directory / "model.safetensors")
        with self.assertRaisesRegex((MissingInput, SpecError), "model.norm.weight"):
            self.session(model=Path(directory))


if __name__ == "__main__":
    unittest.main()
