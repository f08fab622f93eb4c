"""Lengths, turns and trained share of the examples."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genesis_sft.mixture.stats import histogram, measure
from tests.mixture.world import FakeStore, Talk, mix


def test_what_is_measured(tmp_path):
    a = FakeStore("a", [Talk((5, 5)), Talk((3, 5, 5, 5, 7)), Talk((10, 20, 30, 40))])
    b = FakeStore("b", [Talk((10, 20))], {"bad": 1})
    unused = FakeStore("c", [Talk((100, 100))])
    stats = measure(mix(tmp_path, [a, b, unused], max_length=30, over_length="cut_at_turn"))
    assert list(stats.sources) == ["a", "b"]
    of_a = stats.sources["a"]  # 10, 25, and 30 of 100 tokens; 3, 3 + 5 and 18 labels
    assert (of_a.examples, of_a.tokens, of_a.trained_tokens) == (3, 65, 29)
    assert (of_a.min, of_a.median, of_a.p95, of_a.max) == (10, 25.0, 30.0, 30)
    assert (of_a.mean, of_a.turns) == (pytest.approx(65 / 3), pytest.approx(4 / 3))
    assert (of_a.trained_share, of_a.at_max_length) == (pytest.approx(29 / 65), pytest.approx(1 / 3))
    assert (stats.total.examples, stats.total.tokens, stats.total.at_max_length) == (4, 95, 0.5)
    assert stats.lengths["a"].tolist() == [10, 25, 30]
    assert stats.trained_shares["b"].tolist() == [0.6]
    assert json.loads(json.dumps(stats.to_json()))["sources"]["b"]["median"] == 30.0


def test_a_histogram_of_blocks():
    assert histogram(np.array([1, 1, 1, 1, 99]), 100) == "█" + " " * 38 + "▂"
    assert histogram(np.array([], np.int64), 100) == " " * 40
