"""Passes dealt out to processes: together they score what one process scores, and about as much each."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.evals.shared_prefix.dealing import deal_out
from genesis_sft.evals.shared_prefix.forest import cut_into_passes
from genesis_sft.evals.shared_prefix.scoring import Request, score_requests
from tests.conftest import build_llama

LONG = tuple(range(3, 103))  # longer than KEEP_FROM: kept as a header
SHARED = [(*LONG, 5 + number, 6, 7 * number % 50, 1 + number % 9, 2) for number in range(60)]
NESTED = [(*LONG, *range(200, 270 + number % 2), 9 + number, 4, number) for number in range(40)]


def scored(rows):
    return [Request(row[:-1], row[-2:]) for row in rows]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_the_shares_together_score_every_request_once(num_ranks):
    model = build_llama(400)
    requests = scored([*SHARED, *NESTED, (1, 2, 3), (1, 2, 4, 4)])
    passes = cut_into_passes([one.read for one in requests], 64)
    assert any(one.header for one in passes), "the test needs headers"
    whole = score_requests(model, requests, passes)
    shares = [score_requests(model, requests, share) for share in deal_out(passes, num_ranks)]
    sums = np.sum([[one.log_likelihood for one in share] for share in shares], axis=0)
    assert sums == pytest.approx([one.log_likelihood for one in whole], abs=1e-6)
    assert [all(one) for one in zip(*([one.is_greedy for one in share] for share in shares), strict=True)] == [
        one.is_greedy for one in whole
    ]


rows = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=90).map(tuple), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(rows=rows, prefix=st.integers(0, 130), num_ranks=st.integers(1, 6), max_tokens=st.integers(1, 80))
def test_nothing_is_lost_or_scored_twice_and_headers_are_there_before_they_are_needed(
    rows, prefix, num_ranks, max_tokens
):
    passes = cut_into_passes([(*LONG, *LONG)[:prefix] + row for row in rows], max_tokens)
    shares = deal_out(passes, num_ranks)
    assert [(one.rows, one.header, len(one)) for share in shares for one in share if one.rows] == [
        (one.rows, one.header, len(one)) for one in passes
    ]
    for share in shares:
        known = []  # as the reader keeps them
        for one in share:
            while known and known[-1] > len(one.header):
                known.pop()
            assert (known[-1] if known and one.header else 0) == len(one.header)
            if one.header and one.is_last:
                known.pop()
            if one.is_header:
                known.append(len(one.header) + len(one))


def test_shares_are_about_equal():
    passes = cut_into_passes([tuple(range(start, start + 50)) for start in range(1, 2001, 50)], 100)
    assert [sum(map(len, share)) for share in deal_out(passes, 4)] == [500, 500, 500, 500]


def test_scores_of_a_float64_model_are_float64():
    model = build_llama(400).double()
    (found,) = score_requests(model, [Request((3, 4), (9,))], cut_into_passes([(3, 4)], 64))
    with torch.no_grad():
        expected = model(torch.tensor([[3, 4]])).logits[0, -1].log_softmax(-1)[9]
    assert found.log_likelihood == pytest.approx(float(expected), abs=1e-12)
