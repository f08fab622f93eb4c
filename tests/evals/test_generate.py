import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from genesis_sft.errors import ModelError
from genesis_sft.evals.generate import generate_greedily, penalize
from tests.conftest import build_llama

PROMPTS = [[5, 9, 30], [8, 40, 41, 42, 43, 44, 45, 46], [60], [61, 62, 63, 64, 65]]


def build_gpt2():
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=400, n_positions=512, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module", params=["rotary", "learned positions"])
def model(request):
    """Sharper than a fresh model, whose likeliest token is nearly a tie."""
    model = build_llama(400, seed=3) if request.param == "rotary" else build_gpt2()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def one_by_one(model, prompt, count):
    """Greedy answer without cache, padding or batch."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_answers_in_a_batch_are_those_of_each_prompt_alone(model):
    alone = [one_by_one(model, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in alone}) == 4, "the test needs answers that differ"
    assert generate_greedily(model, PROMPTS, {399}, 12) == alone


def test_an_answer_ends_with_its_stop_token_and_the_others_go_on(model):
    alone = [one_by_one(model, prompt, 12) for prompt in PROMPTS]
    stop = alone[1][4]
    expected = [answer[: answer.index(stop) + 1] if stop in answer else answer for answer in alone]
    assert len({len(answer) for answer in expected}) > 1, "the test needs answers that end at different times"
    assert generate_greedily(model, PROMPTS, {stop}, 12) == expected


def test_no_answer_is_longer_than_the_limit_or_the_context(model):
    assert [len(answer) for answer in generate_greedily(model, PROMPTS, set(), 3)] == [3] * 4
    long = [[7] * 510]
    assert len(generate_greedily(model, long, set(), 50)[0]) == 2  # the context has 512 tokens


def test_weights_that_are_no_numbers_give_an_error_and_no_answer():
    broken = build_llama(400)
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        generate_greedily(broken, PROMPTS, set(), 3)


def test_repetition_penalty_by_hand():
    """Only tokens of the answer so far count: positive logits are divided by the penalty, negative ones multiplied."""
    logits = torch.tensor([[3.0, 2.9, -1.0, -1.05], [3.0, 2.9, -1.0, -1.05]])
    penalized = penalize(logits, [[0, 2, 0], []], 1.1)
    assert penalized.tolist()[0] == pytest.approx([3.0 / 1.1, 2.9, -1.1, -1.05])
    assert penalized.tolist()[1] == logits.tolist()[1]
    assert penalize(logits, [[0], [1]], 1.0) is logits


def test_repetition_penalty_breaks_a_circle(model):
    free = generate_greedily(model, PROMPTS, [], 40)
    penalized = generate_greedily(model, PROMPTS, [], 40, 2.0)
    assert sum(len(set(ids)) for ids in penalized) > sum(len(set(ids)) for ids in free)
