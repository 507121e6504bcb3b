"""Each method really trains: the loss falls, the rest of the model stays as it was, and training continues exactly."""

import shutil
import unittest
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from training import Training, base, experts, rows, values_of

from hone_trainer.errors import NotLearning, SpecError
from hone_trainer.gradients import PATIENCE, Watch
from hone_trainer.loading import parameter_counts
from hone_trainer.loop import Loop
from hone_trainer.progress import Progress
from hone_trainer.session import Session

NF4 = {"bits": 4, "type": "nf4", "double": True}
SHAPE = {"r": 2, "dropout": 0.3}
METHODS = {
    "full": {"type": "full"},
    "last block": {"type": "freeze", "freeze": {"last_layers": 1}},
    "named modules": {"type": "freeze", "freeze": {"modules": ["mlp.down_proj", "norm"]}},
    "lora": {"type": "lora", "lora": SHAPE},
    "rslora": {"type": "lora", "lora": {**SHAPE, "rslora": True}},
    "dora": {"type": "lora", "lora": {**SHAPE, "dora": True}},
    "8-bit": {"type": "lora", "lora": SHAPE, "quant": {"bits": 8}},
    "nf4": {"type": "lora", "lora": SHAPE, "quant": NF4},
    "fp4": {"type": "lora", "lora": SHAPE, "quant": {"bits": 4, "type": "fp4", "double": False}},
}
TRAINED = {
    "full": lambda name: True,
    "last block": lambda name: name.startswith("model.layers.1."),
    "named modules": lambda name: "mlp.down_proj" in name or name == "model.norm.weight",
}


class Methods(Training):
    def trained(self, method: dict, model: Path, **parts: dict) -> Session:
        session = self.session(model=model, method=method, **parts)
        self.loop(session).train()
        return session

    def test_the_loss_falls_and_nothing_else_of_the_model_moves(self) -> None:
        directory = base(layers=2)
        before = load_file(directory / "model.safetensors")
        for name, method in METHODS.items():
            with self.subTest(name):
                session = self.session(model=directory, method=method, steps=12)
                kept = values_of(session.model, lambda key: "lora_" not in key)
                loop = self.loop(session, steps=12)
                loop.train()
                losses = self.losses(session)
                self.assertLess(sum(losses[-3:]), sum(losses[:3]), losses)
                trained = TRAINED.get(name, lambda key: "lora_magnitude" in key)
                moved = {key for key, value in kept.items() if not torch.equal(value, session.model.state_dict()[key])}
                self.assertTrue(all(map(trained, moved)), moved)
                self.assertTrue(moved or name not in TRAINED)
                if name in TRAINED:
                    saved = load_file(Path(session.last_checkpoint) / "model.safetensors")
                    self.assertEqual(saved.keys(), before.keys())
                    for key, value in saved.items():
                        self.assertEqual(torch.equal(value, before[key]), not trained(key), key)

    def test_a_continuation_ends_as_if_nothing_had_happened(self) -> None:
        for name in ("named modules", "dora", "8-bit", "nf4"):
            with self.subTest(name):
                parts = {"checkpoint": {"every_steps": 1}}
                whole = self.trained(METHODS[name], base(layers=2), **parts)
                output = whole.paths.output
                follower = self.session(model=base(layers=2), method=METHODS[name], **parts)
                follower.progress = Progress.load(output / "checkpoint-1")
                self.loop(follower).train(resume_from_checkpoint=str(output / "checkpoint-1"))
                found = follower.model.state_dict()
                for key, value in whole.model.state_dict().items():
                    self.assertTrue(torch.equal(value, found[key]), key)

    def test_recomputing_goes_no_deeper_than_what_is_trained_and_changes_nothing(self) -> None:
        for name, deeper in (("last block", False), ("lora", True)):
            with self.subTest(name):
                plain = self.trained(METHODS[name], base(layers=2))
                session = self.session(
                    model=base(layers=2), method=METHODS[name], train={"gradient_checkpointing": True}
                )
                self.assertTrue(session.model.is_gradient_checkpointing)
                seen = []
                (first,) = (layer for key, layer in session.model.named_modules() if key.endswith("model.layers.0"))
                first.register_forward_hook(lambda layer, given, found: seen.append(found.requires_grad))
                self.loop(session).train()
                self.assertEqual(set(seen), {deeper})
                for key, value in plain.model.state_dict().items():
                    self.assertTrue(torch.equal(value, session.model.state_dict()[key]), key)

    def test_frozen_tensors_keep_the_type_that_they_have_on_the_disk(self) -> None:
        directory = base(layers=2, dtype=torch.bfloat16)
        before = load_file(directory / "model.safetensors")
        for precision in ("fp32", "bf16"):
            with self.subTest(precision):
                session = self.trained(METHODS["last block"], directory, train={"precision": precision})
                saved = load_file(Path(session.last_checkpoint) / "model.safetensors")
                for key, value in before.items():
                    if not TRAINED["last block"](key):
                        self.assertTrue(torch.equal(saved[key], value) and saved[key].dtype == value.dtype, key)
                    else:
                        self.assertEqual(saved[key].dtype, torch.float32, key)

    def test_frozen_experts_keep_it_too_though_they_are_fused_in_memory(self) -> None:
        directory = experts(torch.bfloat16)
        session = self.trained({"type": "freeze", "freeze": {"modules": ["lm_head"]}}, directory)
        saved = load_file(Path(session.last_checkpoint) / "model.safetensors")
        before = load_file(directory / "model.safetensors")
        self.assertTrue(any(".experts.3." in name for name in before))
        self.assertEqual(saved.keys(), before.keys())
        for name, value in before.items():
            if name != "lm_head.weight":
                self.assertTrue(torch.equal(saved[name], value) and saved[name].dtype == value.dtype, name)

    def test_tied_tensors_that_the_files_hold_twice_are_trained_as_one(self) -> None:
        directory = self.directory()
        shutil.copytree(base(dtype=torch.bfloat16), directory, dirs_exist_ok=True)
        tensors = load_file(directory / "model.safetensors")
        self.assertNotIn("lm_head.weight", tensors)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        parts = {"checkpoint": {"every_steps": 1}}
        whole = self.trained(METHODS["full"], directory, **parts)
        source = whole.paths.output / "checkpoint-1"
        for name, value in load_file(source / "model.safetensors").items():
            self.assertEqual(value.dtype, torch.float32, name)
        follower = self.session(model=directory, method=METHODS["full"], **parts)
        follower.progress = Progress.load(source)
        self.loop(follower).train(resume_from_checkpoint=str(source))
        for name, value in whole.model.state_dict().items():
            self.assertTrue(torch.equal(value, follower.model.state_dict()[name]), name)

    def test_parameters_are_counted_whatever_holds_them(self) -> None:
        totals = {}
        for name in ("full", "lora", "nf4", "8-bit"):
            trainable, total = parameter_counts(self.session(method=METHODS[name]).model)
            totals[name] = total - (trainable if name != "full" else 0)
        self.assertEqual(len(set(totals.values())), 1, totals)

    def test_what_does_not_fit_the_model_is_refused_by_name(self) -> None:
        for method, word in (
            ({"type": "freeze", "freeze": {"last_layers": 5}}, "1 blocks"),
            ({"type": "freeze", "freeze": {"modules": ["attention_of_mine"]}}, "attention_of_mine"),
            ({"type": "lora", "lora": {"targets": ["nowhere"]}}, "nowhere"),
        ):
            with self.subTest(word), self.assertRaisesRegex(SpecError, word):
                self.session(method=method)


class Learning(Training):
    """A trained tensor without a gradient ends the job, and no other does."""

    def test_a_tensor_that_the_loss_does_not_reach_is_named(self) -> None:
        session = self.session(steps=PATIENCE + 3, train={"schedule": {"warmup": 0.0}})
        session.model.lonely = torch.nn.Parameter(torch.ones(3))
        loop = self.loop(session, steps=PATIENCE + 3)
        with self.assertRaisesRegex(NotLearning, "lonely") as caught:
            loop.train()
        self.assertEqual(caught.exception.names, ["lonely"])
        # One update before which no weight had moved, then as many as are waited for.
        self.assertEqual(loop.state.global_step, PATIENCE + 1)

    def lonely(self, steps: int, **train: object) -> Loop:
        """The loop of a model that has a tensor which the loss does not reach."""
        session = self.session(steps=steps, train={"schedule": {"warmup": 0.0}, **train})
        session.held_out = rows(4)
        session.model.lonely = torch.nn.Parameter(torch.ones(3))
        return self.loop(session, steps=steps)

    def test_evaluations_after_every_step_do_not_put_it_off(self) -> None:
        for every in (1, 2):
            loop = self.lonely(PATIENCE + 3, eval_every=every)
            with self.subTest(every), self.assertRaisesRegex(NotLearning, "lonely"):
                loop.train()
            self.assertEqual(loop.state.global_step, PATIENCE + 1)

    def test_a_job_shorter_than_that_is_judged_by_what_it_did(self) -> None:
        for steps in range(2, PATIENCE + 1):
            with self.subTest(steps), self.assertRaisesRegex(NotLearning, f"zero in {steps - 1} updates.*lonely"):
                self.lonely(steps).train()
        # The first update alone says nothing: of a fresh adapter it would not.
        self.lonely(1).train()

    def test_the_rest_of_a_job_is_not_judged_for_being_short(self) -> None:
        progress = Progress(step=5)
        with mock.patch("hone_trainer.session.Progress", return_value=progress):
            loop = self.lonely(2)
        loop.train()
        self.assertEqual(progress.step, 2)

    def test_the_first_step_of_an_adapter_says_nothing(self) -> None:
        session = self.session(method=METHODS["lora"], steps=PATIENCE + 2)
        self.loop(session, steps=PATIENCE + 2).train()
        self.assertEqual(session.progress.step, PATIENCE + 2)

    def test_gradients_that_vanish_later_are_found_after_an_evaluation(self) -> None:
        layer = torch.nn.Linear(2, 2, bias=False)
        watch = Watch(dict(layer.named_parameters()), patience=2)

        def update(gradient: float) -> None:
            layer.weight.grad = torch.full((2, 2), gradient)
            watch.before_update()
            watch.after_update(0.1, skipped=False)

        for gradient in (1.0, 0.0, 1.0, 0.0, 0.0, 0.0):
            update(gradient)
        watch.rearm()
        update(0.0)
        with self.assertRaises(NotLearning):
            update(0.0)


if __name__ == "__main__":
    unittest.main()
