"""Gradients through a quantised base are those of the base that its bits stand for, before an evaluation and after."""

import importlib.util
import unittest
from pathlib import Path
from unittest import mock

import bitsandbytes
import torch
from training import Training, base, rows, summed_nll
from transformers import MixtralConfig, MixtralForCausalLM

from hone_trainer import inference, quantise
from hone_trainer.batches import collate
from hone_trainer.errors import SpecError
from hone_trainer.evaluate import evaluate
from hone_trainer.export import write_base_settings
from hone_trainer.loss import Targets
from hone_trainer.train import notice_left_whole

# Relative to the length of the reference's gradient. 4-bit weights are multiplied in fp32 as they stand for; 8-bit
# ones with activations that are rounded to 8 bits themselves, 1 part in 254 of the largest of a row.
BOUNDS = {"nf4": 1e-4, "fp4": 1e-4, "8-bit": 0.05}
QUANT = {
    "nf4": {"bits": 4, "type": "nf4", "double": True},
    "fp4": {"bits": 4, "type": "fp4", "double": False},
    "8-bit": {"bits": 8},
}


def dequantised(layer: torch.nn.Module) -> torch.Tensor:
    """The weight that a layer's bits stand for, in fp32."""
    weight = layer.weight
    if isinstance(layer, bitsandbytes.nn.Linear8bitLt):
        return weight.data.float() * (weight.SCB.float() / 127).unsqueeze(1)
    return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float()


class Gradients(Training):
    def gradients(self, session) -> dict[str, torch.Tensor]:
        """Of the adapter, for one batch, without dropout."""
        inputs = collate(rows(8), 0)
        labels = inputs.pop("labels")
        session.model.train()
        session.model.zero_grad(set_to_none=True)
        session.head.nll(session.model, inputs, Targets.of(labels)).backward()
        return {name: value.grad.clone() for name, value in session.model.named_parameters() if value.requires_grad}

    def reference(self, session) -> dict[str, torch.Tensor]:
        """The same of a model in fp32 whose weights are what the bits stand for."""
        plain = self.session(method={"type": "lora", "lora": {"r": 4}}, model=base(hidden=64, layers=2))
        layers = dict(session.model.named_modules())
        with torch.no_grad():
            for name, layer in plain.model.named_modules():
                if isinstance(layers.get(name), (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)):
                    layer.weight.copy_(dequantised(layers[name]))
            adapter = {name: value for name, value in session.model.state_dict().items() if "lora_" in name}
            plain.model.load_state_dict(adapter, strict=False)
        inputs = collate(rows(8), 0)
        labels = inputs.pop("labels")
        plain.model.train()
        summed_nll(plain.model(**inputs, use_cache=False).logits, labels).backward()
        return {name: value.grad for name, value in plain.model.named_parameters() if value.requires_grad}

    def test_they_equal_the_references_before_and_after_an_evaluation(self) -> None:
        for name, quant in QUANT.items():
            session = self.session(
                method={"type": "lora", "lora": {"r": 4}, "quant": quant}, model=base(hidden=64, layers=2)
            )
            # B is zero at first, and A then has no gradient that could be compared.
            torch.manual_seed(1)
            with torch.no_grad():
                for key, value in session.model.named_parameters():
                    if "lora_B" in key:
                        value.normal_(std=0.05)
            expected = self.reference(session)
            for when in ("before", "after"):
                with self.subTest(f"{name} {when} an evaluation"):
                    found = self.gradients(session)
                    self.assertEqual(found.keys(), expected.keys())
                    for key, value in found.items():
                        error = float((value - expected[key]).norm() / expected[key].norm())
                        self.assertLess(error, BOUNDS[name], key)
                evaluate(session.model, session.head, rows(4), 0, 2, session.autocast, lambda: False)

    def test_the_four_bit_layers_never_take_the_path_without_gradients(self) -> None:
        # As on a processor with those instructions, whatever this machine has.
        with mock.patch.object(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True):
            session = self.session(method={"type": "lora", "quant": QUANT["nf4"]})
        layers = [layer for layer in session.model.modules() if isinstance(layer, bitsandbytes.nn.Linear4bit)]
        self.assertGreater(len(layers), 0)
        session.held_out = rows(4)
        session.score(base=False)
        self.assertFalse(any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers))
        layers[0].weight.quant_state.packing_format_for_cpu = True
        with self.assertRaisesRegex(SpecError, "packed"):
            quantise.require_trainable(session.model)

    def test_experts_that_stay_whole_are_told(self) -> None:
        directory = self.directory()
        sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
        MixtralForCausalLM(MixtralConfig(**sizes, **heads)).save_pretrained(directory)
        for quant in (QUANT["nf4"], QUANT["8-bit"]):
            lora = {"r": 4, "targets": ["q_proj"]}
            with self.subTest(quant):
                session = self.session(method={"type": "lora", "lora": lora, "quant": quant}, model=directory)
                notice_left_whole(session)
                (notice,) = self.records(session, "notice")
                self.assertEqual((notice["code"], notice["level"]), ("not_quantised", "warning"))
                self.assertRegex(notice["message"], "experts")
                # Four experts of three 64 × 96 matrices, beside four 64 × 64 of attention.
                self.assertAlmostEqual(notice["share"], 73728 / (73728 + 16384), delta=0.01)
                session = self.session(method={"type": "lora", "quant": quant}, model=base(hidden=64, layers=2))
                notice_left_whole(session)
                self.assertEqual(self.records(session, "notice"), [])


class Packages(Training):
    """What a package says of its base is what its script loads."""

    def script(self, package: Path):
        (package / "inference.py").write_text(Path(inference.__file__).read_text())
        found = importlib.util.spec_from_file_location("inference_of_a_package", package / "inference.py")
        script = importlib.util.module_from_spec(found)
        found.loader.exec_module(script)
        return script

    def logits(self, model) -> torch.Tensor:
        quantise.keep_trainable(model)
        with torch.no_grad():
            return model.eval()(input_ids=torch.arange(2, 20)[None]).logits

    def test_the_base_is_loaded_as_in_training_or_as_it_is(self) -> None:
        directory = base(hidden=64, layers=2)
        for name, quant in QUANT.items():
            with self.subTest(name):
                session = self.session(method={"type": "lora", "quant": quant}, model=directory)
                package = self.directory()
                session.save_weights(package)
                write_base_settings(session, package)
                script = self.script(package)
                found, _ = script.load(str(directory))
                self.assertGreater(quantise.keep_trainable(found), 0)
                torch.testing.assert_close(self.logits(found), self.logits(session.model), rtol=1e-5, atol=1e-6)
                plain, _ = script.load(str(directory), unquantised=True)
                self.assertEqual(quantise.keep_trainable(plain), 0)
                away = (self.logits(plain) - self.logits(session.model)).abs().max()
                self.assertGreater(float(away), 1e-4)

    def test_without_quantisation_there_are_no_settings(self) -> None:
        session, package = self.session(method={"type": "lora"}), self.directory()
        write_base_settings(session, package)
        self.assertEqual(list(package.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
