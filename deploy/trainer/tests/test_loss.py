"""The loss without all logits: the same as with them, in value and in gradients; and perplexity is what it says."""

import math
import types
import unittest

import numpy
import torch
from training import TOKENIZER, Training, rows, summed_nll
from transformers import CohereConfig, Gemma2Config, GraniteConfig
from transformers import CohereForCausalLM, Gemma2ForCausalLM, GraniteForCausalLM

from hone_trainer.batches import collate
from hone_trainer.evaluate import evaluate
from hone_trainer.loss import Head, Targets
from hone_trainer.make_base import new_model
from hone_trainer.render import IGNORED

# fp32 sums over some hundred tokens, in another order.
BOUND = {"rtol": 1e-4, "atol": 1e-5}
SMALL = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def models() -> dict[str, torch.nn.Module]:
    """A model without anything after its output layer, and three that go on."""
    torch.manual_seed(3)
    return {
        "plain": new_model(TOKENIZER, hidden=32, layers=1),
        "soft-capped": Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=0.5)),
        "divided": GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=7.0)),
        "multiplied": CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.25)),
    }


class Chunks(unittest.TestCase):
    def batch(self) -> tuple[dict, torch.Tensor]:
        inputs = collate(rows(8), 0)
        return inputs, inputs.pop("labels")

    def test_loss_and_gradients_are_those_of_all_logits_at_once(self) -> None:
        for name, model in models().items():
            inputs, labels = self.batch()
            expected = summed_nll(model(**inputs, use_cache=False).logits, labels)
            expected.backward()
            wanted = {key: value.grad.clone() for key, value in model.named_parameters()}
            # Three tokens at a time; with the last chunk not full.
            head = Head(model, chunk_bytes=3 * 4 * model.get_output_embeddings().out_features)
            # Of the type that tokens have on the disk.
            self.assertIsNone(head.settle(model, numpy.asarray(rows(8)[7].ids, numpy.int32)))
            self.assertEqual(head.way, "chunked")
            with self.subTest(name):
                model.zero_grad()
                found = head.nll(model, inputs, Targets.of(labels))
                found.backward()
                torch.testing.assert_close(found, expected, **BOUND)
                for key, value in model.named_parameters():
                    torch.testing.assert_close(value.grad, wanted[key], **BOUND)
                with torch.inference_mode():
                    total, correct = head.score(model, inputs, Targets.of(labels))
                self.assertAlmostEqual(total / float(expected), 1.0, places=6)
                likeliest = model(**inputs, use_cache=False).logits[:, :-1].argmax(-1)
                self.assertEqual(correct, int(((likeliest == labels[:, 1:]) & (labels[:, 1:] != IGNORED)).sum()))

    def test_chunks_in_half_precision_add_up_in_the_weights_own(self) -> None:
        torch.manual_seed(3)
        model = new_model(TOKENIZER, hidden=32, layers=1)
        inputs, labels = self.batch()
        head, weight = Head(model), model.lm_head.weight

        def gradient(targets_at_once: int, half: bool) -> torch.Tensor:
            head._chunk_bytes = targets_at_once * 4 * model.lm_head.out_features
            model.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = head.nll(model, inputs, Targets.of(labels))
            loss.backward()
            return weight.grad.clone()

        expected = gradient(1000, half=False)
        whole, parts = (float((gradient(size, half=True) - expected).norm() / expected.norm()) for size in (1000, 1))
        self.assertGreater(whole, 1e-4)
        self.assertLess(parts, 1.5 * whole)

    def test_the_logits_never_exist_as_a_whole(self) -> None:
        model, seen = new_model(TOKENIZER, hidden=32, layers=1), []
        plain = model.lm_head.forward
        model.lm_head.forward = lambda hidden: seen.append(hidden.shape[0]) or plain(hidden)
        inputs, labels = self.batch()
        targets = Targets.of(labels)
        Head(model, chunk_bytes=5 * 4 * model.lm_head.out_features).nll(model, inputs, targets).backward()
        self.assertLessEqual(max(seen), 5)
        # Once forward and once backward, and only where a token counts.
        self.assertEqual(sum(seen), 2 * len(targets))

    def test_a_model_that_does_what_nobody_knows_of_takes_the_plain_way(self) -> None:
        model = new_model(TOKENIZER, hidden=32, layers=1)
        forward = type(model).forward

        def strange(self, *args, **kwargs):
            output = forward(self, *args, **kwargs)
            output.logits = output.logits * 3
            return output

        model.forward = types.MethodType(strange, model)
        head = Head(model)
        self.assertRegex(head.settle(model, rows(8)[7].ids) or "", "it gives")
        inputs, labels = self.batch()
        found = head.nll(model, inputs, Targets.of(labels))
        torch.testing.assert_close(found, summed_nll(model(**inputs).logits, labels), **BOUND)

    def test_rows_as_they_lie_on_the_disk_take_the_chunked_way(self) -> None:
        head = Head(model := new_model(TOKENIZER, hidden=32, layers=1))
        self.assertIsNone(head.settle(model, numpy.array(rows(8)[7].ids, numpy.int32)))
        self.assertEqual(head.way, "chunked")

    def test_logits_are_logits_for_everyone_else(self) -> None:
        model, (inputs, _) = new_model(TOKENIZER, hidden=32, layers=1), self.batch()
        before = model(**inputs).logits
        head = Head(model)
        head.settle(model, rows(8)[7].ids)
        self.assertTrue(torch.equal(model(**inputs).logits, before))


class Perplexity(Training):
    def test_it_equals_a_computation_from_scratch_and_not_a_mean_of_means(self) -> None:
        session, held_out = self.session(), rows(24)
        score = evaluate(session.model, session.head, held_out, 0, 5, session.autocast, lambda: False)
        total, tokens, means = 0.0, 0, []
        with torch.inference_mode():
            for row in held_out:
                logits = session.model(torch.tensor([row.ids])).logits[0].double()
                nll = [
                    float(torch.logsumexp(logits[place], 0) - logits[place, label])
                    for place, label in enumerate(row.labels[1:])
                    if label != IGNORED
                ]
                total, tokens = total + sum(nll), tokens + len(nll)
                means += [sum(nll) / len(nll)] if nll else []
        self.assertEqual(score.tokens, tokens)
        self.assertLess(abs(score.perplexity() / math.exp(total / tokens) - 1), 1e-6)
        by_example = math.exp(sum(means) / len(means))
        self.assertGreater(abs(score.perplexity() / by_example - 1), 1e-4)


if __name__ == "__main__":
    unittest.main()
