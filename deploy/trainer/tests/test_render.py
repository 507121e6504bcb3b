"""Masks, ends and lengths, with a small tokenizer made on the spot."""

import math
import unittest

import torch
from training import summed_nll

from hone_trainer.batches import EpochBatches, collate, steps_per_epoch
from hone_trainer.data.problems import BadRow
from hone_trainer.evaluate import evaluate
from hone_trainer.loss import Head
from hone_trainer.make_base import new_model, train_tokenizer
from hone_trainer.render import IGNORED, TODAY, Example, Rendered, Renderer, prepare_tokenizer
from hone_trainer.rows import Row, convert

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Opens every answer with a thought that its generation prompt does not have.
REWRITING = CHATML.replace(
    "{% if add_generation_prompt %}<|assistant|>", "{% if add_generation_prompt %}<|assistant|>hm "
)

# Gives the last answer alone a block of thoughts, takes those of earlier ones away, and prints calls of tools.
THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['role'] == 'assistant' %}{% if loop.last %}hm {% endif %}{{ m['content'].split('hm ')[-1] }}"
    "{% for call in m.tool_calls or [] %}{% if m['content'] %}\n{% endif %}({{ call['name'] }}){% endfor %}"
    "{% else %}{{ m['content'] }}{% endif %}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def conversation(*turns: str) -> Row:
    roles = ("user", "assistant")
    return Row(messages=tuple({"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)))


class Rendering(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        torch.manual_seed(0)

    def setUp(self) -> None:
        self.tokenizer = train_tokenizer(["the cat sees the dog", "a question and an answer"])

    def renderer(self, template: str | None = None, **changes: object) -> Renderer:
        self.tokenizer.chat_template = template
        prepare_tokenizer(self.tokenizer, "tokenizer")
        rules = {"ends": set(), "loss_on": "answers", "seq_len": 512, "overlong": "truncate", **changes}
        return Renderer(self.tokenizer, **rules)

    def kinds(self, found: Rendered) -> list[str]:
        return [kind for kind, _ in found.kinds]

    def learned(self, example: Example) -> str:
        return self.tokenizer.decode([int(label) for label in example.labels if label != IGNORED])

    def whole(self, example: Example) -> str:
        return self.tokenizer.decode([int(token) for token in example.ids])

    def test_without_a_template_prompt_and_answer_are_lines(self) -> None:
        example = self.renderer().render(conversation("the cat", "a dog")).example
        self.assertEqual(self.whole(example), "the cat\na dog<eos>")
        self.assertEqual(self.learned(example), "a dog<eos>")
        self.assertEqual(example.scored_bytes, len("a dog<eos>"))

    def test_with_a_template_every_answer_is_learned_with_its_end(self) -> None:
        example = self.renderer(CHATML).render(conversation("the cat", "a dog", "and", "an answer")).example
        self.assertEqual(self.learned(example), "a dog<eos>an answer<eos>")
        self.assertEqual(example.ids[-1], self.tokenizer.eos_token_id)

    def test_a_template_that_prints_the_date_prints_the_same_one_on_every_day(self) -> None:
        renderer = self.renderer("{{ strftime_now('%Y') }} " + CHATML)
        found = renderer.render(conversation("the cat", "a dog"))
        self.assertEqual(self.kinds(found), [])
        self.assertEqual(self.whole(found.example)[:4], str(TODAY.year))

    def test_a_template_that_opens_answers_otherwise_keeps_the_row(self) -> None:
        renderer = self.renderer(REWRITING)
        found = renderer.render(conversation("the cat", "a dog"))
        self.assertEqual(self.learned(found.example), "<|assistant|>a dog<eos>")
        self.assertEqual(self.kinds(found), [])

    def test_loss_on_all_learns_the_prompt_too(self) -> None:
        example = self.renderer(loss_on="all").render(conversation("the cat", "a dog")).example
        self.assertEqual(self.learned(example), "the cat\na dog<eos>")

    def test_text_is_learned_whole_and_ended(self) -> None:
        example = self.renderer().render(Row(text="the dog")).example
        self.assertEqual(self.learned(example), "the dog<eos>")

    def test_a_trailing_question_is_cut_off(self) -> None:
        example = self.renderer(CHATML).render(conversation("the cat", "a dog", "and")).example
        self.assertEqual(self.whole(example), "<|user|>the cat<eos>\n<|assistant|>a dog<eos>")

    def test_a_row_that_is_too_long_is_cut_dropped_or_refused(self) -> None:
        row = conversation("the cat", "a dog " * 50)
        cut = self.renderer(seq_len=20).render(row)
        self.assertEqual(len(cut.example.ids), 20)
        self.assertEqual(self.kinds(cut), ["overlong_truncated", "no_stop"])
        for overlong, kind in (("drop", "overlong_dropped"), ("error", "overlong")):
            found = self.renderer(seq_len=20, overlong=overlong).render(row)
            self.assertIsNone(found.example)
            self.assertEqual(self.kinds(found), [kind])

    def test_a_row_whose_answer_is_cut_away_is_counted(self) -> None:
        found = self.renderer(seq_len=8).render(conversation("the cat " * 50, "a dog"))
        self.assertIsNone(found.example)
        self.assertEqual(self.kinds(found), ["fully_masked"])

    def test_a_template_that_refuses_a_row_names_its_reason(self) -> None:
        with self.assertRaisesRegex(BadRow, "only cats") as caught:
            self.renderer("{{ raise_exception('only cats') }}").render(conversation("the cat", "a dog"))
        self.assertEqual(caught.exception.kind, "template_refuses")

    def test_answers_that_a_template_hides_are_a_mismatch(self) -> None:
        with self.assertRaises(BadRow) as caught:
            self.renderer("the cat{% if messages|length > 1 %}x{% endif %}y").render(conversation("the cat", "a dog"))
        self.assertEqual(caught.exception.kind, "template_mismatch")

    def test_a_template_without_an_end_gets_one_and_it_is_counted(self) -> None:
        found = self.renderer(CHATML.replace("<eos>", "")).render(conversation("the cat", "a dog"))
        self.assertEqual(found.example.ids[-1], self.tokenizer.eos_token_id)
        self.assertEqual(self.kinds(found), ["stop_appended"])

    def test_the_last_answer_alone_can_be_learned(self) -> None:
        row = conversation("the cat", "a dog", "and", "an answer")
        example = self.renderer(CHATML, loss_on="last_answer").render(row).example
        self.assertEqual(self.learned(example), "an answer<eos>")
        self.assertEqual(self.learned(self.renderer(CHATML).render(row).example), "a dog<eos>an answer<eos>")

    def test_earlier_answers_that_are_printed_otherwise_than_the_last_are_learned(self) -> None:
        renderer = self.renderer(THINKING)
        found = renderer.render(conversation("the cat", "hm a dog", "and", "an answer", "the dog", "the cat"))
        self.assertEqual(self.learned(found.example), "a dog<eos>an answer<eos>hm the cat<eos>")
        self.assertEqual(found.example.scored_bytes, len("a dog<eos>\nan answer<eos>\nhm the cat<eos>\n"))
        self.assertEqual(self.kinds(found), [])

    def test_earlier_calls_of_tools_are_learned_as_they_are_printed(self) -> None:
        call = {"role": "assistant", "content": "", "tool_calls": [{"name": "dog"}]}
        user = {"role": "user", "content": "the cat"}
        row = Row(messages=(user, call, user, {"role": "assistant", "content": "an answer"}))
        found = self.renderer(THINKING).render(row)
        self.assertEqual(self.learned(found.example), "(dog)<eos>hm an answer<eos>")
        self.assertEqual(self.kinds(found), [])

    def test_earlier_answers_that_are_not_found_are_counted(self) -> None:
        upper = THINKING.replace("m['content'].split", "(m['content'] if loop.last else m['content']|upper).split")
        hidden = THINKING.replace("m['content'].split", "(m['content'] if loop.last else '').split")
        row = conversation("the cat", "a dog", "and", "an answer")
        self.assertEqual(self.learned(self.renderer(THINKING).render(row).example), "a dog<eos>hm an answer<eos>")
        for template in (upper, hidden):
            found = self.renderer(template).render(row)
            self.assertEqual(self.learned(found.example), "hm an answer<eos>")
            self.assertEqual(found.kinds, (("answers_not_found", "1 of 2 answers"),))
        found = self.renderer(hidden, loss_on="last_answer").render(row)
        self.assertEqual(self.kinds(found), [])

    def test_thoughts_reach_the_template_and_fields_that_do_not_are_counted(self) -> None:
        renderer = self.renderer(CHATML.replace("{{ m['content'] }}", "{{ m.reasoning_content }}{{ m['content'] }}"))
        answer = {"role": "assistant", "content": "an answer", "reasoning_content": "hm ", "weight": 1}
        row = convert({"messages": [{"role": "user", "content": "the cat"}, answer]}, "messages")
        found = renderer.render(row)
        self.assertEqual(self.learned(found.example), "hm an answer<eos>")
        self.assertEqual(found.kinds, (("fields_ignored", "weight"),))

    def test_a_system_prompt_of_the_spec_is_seen_and_not_learned(self) -> None:
        example = self.renderer(CHATML, system="and").render(conversation("the cat", "a dog")).example
        self.assertTrue(self.whole(example).startswith("<|system|>and<eos>"))
        self.assertEqual(self.learned(example), "a dog<eos>")

    def test_chatml_takes_the_place_of_the_models_template(self) -> None:
        self.tokenizer.chat_template = "none of this"
        prepare_tokenizer(self.tokenizer, "chatml")
        renderer = Renderer(self.tokenizer, set(), "answers", 512, "truncate")
        example = renderer.render(conversation("the cat", "a dog")).example
        self.assertTrue(self.whole(example).startswith("<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"))
        self.assertEqual(example.ids[-1], self.tokenizer.eos_token_id)

    def test_many_at_once_are_what_each_is_alone(self) -> None:
        renderer = self.renderer(CHATML)
        rows = [conversation("the cat", "a dog"), Row(text="the dog"), conversation("and", "an answer")]
        together = renderer.encode([renderer.text(row) for row in rows])
        for row, found in zip(rows, together, strict=True):
            alone = renderer.render(row)
            self.assertEqual(found.example.ids.tolist(), alone.example.ids.tolist())
            self.assertEqual(found.example.labels.tolist(), alone.example.labels.tolist())


class Batching(unittest.TestCase):
    def test_the_order_is_a_function_of_seed_and_epoch(self) -> None:
        batches = EpochBatches(rows=10, batch=4, seed=1)
        first = list(batches)
        torch.rand(3)
        self.assertEqual(first, list(batches))
        self.assertEqual(sorted(sum(first, [])), list(range(10)))
        self.assertEqual([len(batch) for batch in first], [4, 4, 2])
        batches.set_epoch(1)
        self.assertNotEqual(first, list(batches))

    def test_trading_micro_batch_for_accumulation_keeps_the_steps(self) -> None:
        for rows in range(1, 60):
            self.assertEqual(len({steps_per_epoch(rows, micro, 8 // micro) for micro in (1, 2, 4, 8)}), 1)

    def test_padding_is_neither_seen_nor_learned(self) -> None:
        rows = [Example([5, 6, 7], [IGNORED, 6, 7], 2), Example([8], [8], 1)]
        batch = collate(rows, pad=0)
        self.assertEqual(batch["input_ids"].tolist(), [[5, 6, 7], [8, 0, 0]])
        self.assertEqual(batch["attention_mask"].tolist(), [[1, 1, 1], [1, 0, 0]])
        self.assertEqual(batch["labels"].tolist(), [[-100, 6, 7], [8, -100, -100]])


class Scoring(unittest.TestCase):
    def test_sums_do_not_depend_on_the_batching(self) -> None:
        torch.manual_seed(0)
        tokenizer = train_tokenizer(["the cat"])
        model = new_model(tokenizer, hidden=32, layers=1)
        rows = [Example(list(range(2, 2 + n)), [IGNORED] * 2 + list(range(4, 2 + n)), n) for n in (3, 9, 5, 7, 4)]
        head = Head(model)
        scores = [evaluate(model, head, rows, 0, size, torch.no_grad, lambda: False) for size in (1, 2, 5)]
        one_by_one = sum(
            float(summed_nll(model(torch.tensor([row.ids])).logits, torch.tensor([row.labels]))) for row in rows
        )
        for score in scores:
            self.assertAlmostEqual(score.nll_sum, one_by_one, places=3)
            self.assertEqual((score.tokens, score.rows, score.bytes), (18, 5, 28))
            self.assertAlmostEqual(score.perplexity(), math.exp(one_by_one / 18), places=2)

    def test_an_interruption_gives_no_score(self) -> None:
        tokenizer = train_tokenizer(["the cat"])
        model = new_model(tokenizer, hidden=32, layers=1)
        rows = [Example([1, 2], [1, 2], 1)]
        self.assertIsNone(evaluate(model, Head(model), rows, 0, 1, torch.no_grad, lambda: True))

    def test_evaluation_leaves_random_state_and_mode_alone(self) -> None:
        tokenizer = train_tokenizer(["the cat"])
        model = new_model(tokenizer, hidden=32, layers=1).train()
        before = torch.get_rng_state()
        evaluate(model, Head(model), [Example([1, 2], [1, 2], 1)], 0, 1, torch.no_grad, lambda: False)
        self.assertTrue(torch.equal(before, torch.get_rng_state()))
        self.assertTrue(model.training)


if __name__ == "__main__":
    unittest.main()
