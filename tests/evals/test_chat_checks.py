import pytest

from genesis_sft.conversations.conversation import check_prompt
from genesis_sft.errors import RecipeError
from genesis_sft.evals import chat_checks
from genesis_sft.evals.chat_checks import answer_prompts
from genesis_sft.evals.chat_prompts import read_prompts
from genesis_sft.evals.instructions import read_instruction_prompts
from genesis_sft.tokens.chatml import ChatMLEncoder


def test_forty_prompts_are_shipped_and_three_of_them_are_shown():
    prompts = read_prompts()
    assert len(prompts) == len({prompt.id for prompt in prompts}) == 40
    assert sum(prompt.sample for prompt in prompts) == 3
    for prompt in prompts:
        check_prompt(prompt.messages)
    assert read_prompts(5) == prompts[:5]


def test_more_prompts_than_there_are_is_refused():
    with pytest.raises(RecipeError, match="at most 40, found 41"):
        read_prompts(41)


def test_answers_keep_the_order_of_the_prompts_and_say_whether_they_ended(tiny_base, monkeypatch):
    """What the model writes is given: prompt by prompt its length, <|im_end|> after prompts of even length."""
    encoder = ChatMLEncoder(tiny_base.load_tokenizer())
    word = encoder.text.encode(["no"])[0]
    think = [encoder.think_id, *encoder.text.encode(["\nhm\n"])[0], encoder.think_end_id]

    def write(model, prompts, stop_ids, max_new_tokens, repetition_penalty, bar):
        assert set(stop_ids) == {encoder.im_end_id, encoder.eos_id}
        return [[*think, *word, encoder.im_end_id] if len(prompt) % 2 else word for prompt in prompts]

    monkeypatch.setattr(chat_checks, "generate_greedily", write)
    monkeypatch.setattr(chat_checks, "PROMPTS_AT_ONCE", 3)
    prompts = (*read_prompts(7), *read_instruction_prompts(3))
    answers = answer_prompts(None, encoder, prompts, 8)
    assert [answer.id for answer in answers] == [prompt.id for prompt in prompts]
    odd = [len(encoder.encode_prompt(prompt.messages)) % 2 == 1 for prompt in prompts]
    assert set(odd) == {True, False}
    assert [answer.ended for answer in answers] == odd
    assert {(answer.answer, answer.reasoning, answer.num_tokens) for answer in answers} == {
        ("no", "hm", len(think) + len(word) + 1),
        ("no", None, len(word)),
    }
    assert {answer.written for answer in answers} == {"<think>\nhm\n</think>no<|im_end|>", "no"}
    assert [answer.rules for answer in answers] == [prompt.rules for prompt in prompts]
    assert answers[7].rules == ({"kind": "most_words", "count": 20},)
    assert answers[0].messages == ({"role": "user", "content": prompts[0].messages[0].content},)
