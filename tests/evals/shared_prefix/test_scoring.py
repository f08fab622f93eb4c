"""Log-likelihoods are those of the harness's own code, request by request, whatever is shared and however it is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from genesis_sft import console
from genesis_sft.errors import InputError
from genesis_sft.evals.scorer import Scorer, quiet_harness
from genesis_sft.evals.shared_prefix import forest, reading
from genesis_sft.evals.shared_prefix.forest import cut_into_passes, num_tokens
from genesis_sft.evals.shared_prefix.scoring import Request, score_requests

VOCAB_SIZE = 61


def small(family: str = "Llama", **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = getattr(transformers, f"{family}Config")(**{**sizes, **changes})
    model: PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    return model


def requests(seed: int = 0) -> list[Request]:
    """Questions with several answers, behind a long beginning or none; answers of one token; one within another."""
    draw = np.random.default_rng(seed)

    def some(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.integers(1, VOCAB_SIZE, draw.integers(least, most)).tolist())

    found = []
    for beginning in ((), some(80, 81), some(150, 151)):
        for _ in range(6):
            context = (*beginning, *some(3, 30))
            answers = [some(1, 9) for _ in range(4)] + [(letter,) for letter in (3, 4, 5)]
            answers.append((*answers[0], *some(1, 4)))
            found += [Request((*context, *answer)[:-1], answer) for answer in answers]
    # scored from within what all begin with
    found += [Request((*beginning, 7), (*beginning[20:], 7, 8)), Request(beginning[:-1], beginning[1:])]
    draw.shuffle(found)  # type: ignore[arg-type]
    return found


def plainly(model: PreTrainedModel, request: Request) -> tuple[float, bool]:
    """The textbook: the whole request alone, in float64."""
    with torch.no_grad():
        logits = model(torch.tensor([request.read]), use_cache=False).logits[0, request.first :].double()
    likely = torch.log_softmax(logits, dim=-1)
    targets = torch.tensor(request.targets)
    return float(likely.gather(1, targets[:, None]).sum()), bool((likely.argmax(dim=-1) == targets).all())


MODELS = {
    "llama": ("Llama", {}),
    "as many key as query heads": ("Llama", {"num_key_value_heads": 4}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "olmo2": ("Olmo2", {}),
    "phi3": ("Phi3", {}),
    "attention asked for twice in a layer": ("DiffLlama", {}),
    "positions that are learned": ("OPT", {"word_embed_proj_dim": 32, "ffn_dim": 48}),
}


@pytest.mark.parametrize(("family", "changes"), MODELS.values(), ids=MODELS)
def test_every_request_is_scored_as_if_it_were_alone(family: str, changes: dict[str, Any]) -> None:
    model, asked = small(family, **changes), requests()
    for score, request in zip(scored(model, asked, 300), asked, strict=True):
        expected, greedy = plainly(model, request)
        assert score.log_likelihood == pytest.approx(expected, abs=1e-4)
        assert score.is_greedy == greedy


def scored(model: PreTrainedModel, asked: list[Request], max_tokens: int) -> Any:
    return score_requests(model, asked, cut_into_passes([one.read for one in asked], max_tokens))


@pytest.mark.parametrize("max_tokens", [1, 40, 200, 10_000])
@pytest.mark.parametrize("block_tokens", [4, 256])
@pytest.mark.parametrize("keep_from", [2, 64, 1000])
def test_however_it_is_cut(max_tokens: int, block_tokens: int, keep_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BLOCK_TOKENS", block_tokens)
    monkeypatch.setattr(forest, "KEEP_FROM", keep_from)
    model, asked = small(), requests(1)[::3]
    passes = cut_into_passes([one.read for one in asked], max_tokens)
    if max_tokens == 10_000:
        assert sum(map(len, passes)) == num_tokens([one.read for one in asked])
    for score, request in zip(score_requests(model, asked, passes), asked, strict=True):
        assert score.log_likelihood == pytest.approx(plainly(model, request)[0], abs=1e-4)


def test_a_greedy_answer_is_known_as_one() -> None:
    model = small()
    read: list[int] = [5, 6, 7]
    for _ in range(6):
        read.append(int(model(torch.tensor([read])).logits[0, -1].argmax()))
    right = Request(tuple(read[:-1]), tuple(read[3:]))
    wrong = Request((*read[:5], 1, *read[6:-1]), (*read[3:5], 1, *read[6:]))
    assert [one.is_greedy for one in scored(model, [right, wrong], 100)] == [True, False]


@pytest.mark.parametrize("max_tokens", [100, 1000])
def test_a_long_request_behind_what_it_shares(max_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mask is not as large as the square of its length."""
    monkeypatch.setattr(reading, "_BLOCK_TOKENS", 16)
    monkeypatch.setattr(reading, "_TRUNK_TOKENS", 50)
    model, draw = small(), np.random.default_rng(2)
    shared = draw.integers(1, VOCAB_SIZE, 70).tolist()
    asked = [Request((*shared, *draw.integers(1, VOCAB_SIZE, 300).tolist()), (5, 6)) for _ in range(3)]
    passes = cut_into_passes([one.read for one in asked], max_tokens)
    assert passes[0].is_header == (max_tokens == 100)
    blocks = [cut for one in passes for cut in reading.cut_into_blocks(one) if cut[2] or one.header]
    assert blocks
    assert max(stop - start for start, stop, _ in blocks) <= 50
    for score, request in zip(score_requests(model, asked, passes), asked, strict=True):
        assert score.log_likelihood == pytest.approx(plainly(model, request)[0], abs=1e-4)


def test_requests_that_grow_turn_by_turn_keep_one_header_and_need_no_recursion() -> None:
    rows = [tuple(range(100 * turn)) for turn in range(1, 40)]
    passes = cut_into_passes(rows, 300)
    kept, most, length = [0], 0, 0
    for one in passes:  # as a reader does
        while kept[-1] > len(one.header):
            kept.pop()
        if one.header and one.is_last:
            kept.pop()
        if one.is_header:
            length = len(one.header) + len(one)
            kept.append(length)
        most = max(most, sum(kept) / max(1, length))
    assert most <= 2
    many = [tuple(range(64 * turn)) for turn in range(1, 1300)]
    assert sum(map(len, cut_into_passes(many, 2048))) == 64 * 1299


def test_the_model_keeps_its_attention() -> None:
    model = small()
    before = model.config._attn_implementation
    scored(model, requests()[:3], 100)
    assert model.config._attn_implementation == before


# as a backend of the harness


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_folder)


CONTEXTS = ["", "Question: why?\nAnswer:", "The ferry leaves at seven, said the ", "a b c " * 30, "Grüße "]
CONTINUATIONS = [" Because.", " ", "captain", " a b c d e f g", "\nyes", "é"]


@pytest.mark.parametrize("max_length", [512, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_harness_gets_what_its_own_class_gives(tokenizer: Any, max_length: int, dtype: torch.dtype) -> None:
    model = small(vocab_size=len(tokenizer)).to(dtype)
    asked = [
        Instance("loglikelihood", {}, (context, continuation), index)
        for index, (context, continuation) in enumerate((a, b) for a in CONTEXTS for b in CONTINUATIONS)
    ]
    with quiet_harness():
        theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    ours = Scorer(model, tokenizer, pass_tokens=64)
    assert ours.shares
    theirs._max_length = ours._max_length = max_length
    expected, found = (lm.loglikelihood(asked, disable_tqdm=True) for lm in (theirs, ours))
    tolerance = 1e-4 if dtype == torch.float32 else 0.5
    assert [one for one, _ in found] == pytest.approx([one for one, _ in expected], abs=tolerance)
    if dtype == torch.float32:
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
        rolling = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in ("a b c " * 40, "Nobody knows!")]
        totals = [lm.loglikelihood_rolling(rolling, disable_tqdm=True) for lm in (theirs, ours)]
        assert totals[1] == pytest.approx(totals[0], abs=1e-3)


def test_the_harness_s_cache_of_requests(tokenizer: Any, tmp_path: Any) -> None:
    from lm_eval.api.model import CachingLM

    texts = ("a b c " * 200, "Nobody knows!")
    rolling = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    asked = [Instance("loglikelihood", {}, ("a b", " c d"), 0), Instance("loglikelihood", {}, ("", " c d"), 1)]
    plain = Scorer(small(vocab_size=len(tokenizer)), tokenizer)
    cached = CachingLM(plain, str(tmp_path / "cache.db"))
    expected = [plain.loglikelihood_rolling(rolling), plain.loglikelihood(asked)]
    for _ in range(2):  # the second time from the cache
        assert [cached.loglikelihood_rolling(rolling), cached.loglikelihood(asked)] == expected
    cached.dbdict.close()


def test_a_context_of_white_space_only_is_refused(tokenizer: Any) -> None:
    ours = Scorer(small(vocab_size=len(tokenizer)), tokenizer)
    with pytest.raises(InputError, match="nothing but white space"):
        ours.loglikelihood([Instance("loglikelihood", {}, (" ", "x"), 0)])


def test_a_continuation_longer_than_the_context_is_refused(tokenizer: Any) -> None:
    ours = Scorer(small(vocab_size=len(tokenizer)), tokenizer)
    ours._max_length = 4
    with pytest.raises(InputError, match="expected continuations of 1 to 4 tokens"):
        ours.loglikelihood([Instance("loglikelihood", {}, ("a", " b c d e f g h i j"), 0)])


def test_another_family_is_scored_by_the_harness(
    tokenizer: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small("Gemma2", vocab_size=len(tokenizer), head_dim=8)  # caps its logits
    ours = Scorer(model, tokenizer)
    assert not ours.shares
    assert "scored by the harness's own code" in capfd.readouterr().err
    asked = [Instance("loglikelihood", {}, ("a b", " c d"), 0)]
    with quiet_harness():
        theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    bars = []

    def note(label: str, total: int, unit: str) -> Any:
        bars.append((label, total, unit))
        return console.progress(label, total, unit)

    monkeypatch.setattr("genesis_sft.evals.processes.progress", note)
    assert ours.loglikelihood(asked) == theirs.loglikelihood(asked, disable_tqdm=True)
    assert bars == [("tokenizing", 1, "requests"), ("", 1, "requests")]
    assert ours.num_tokens > 0
