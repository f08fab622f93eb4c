from dataclasses import replace

from genesis_sft.evals.record import ChatAnswer, EvalRecord, HeldOutRecord, PartScore, TaskRecord


def test_every_score_has_its_error_chance_and_a_note_when_it_says_nothing():
    piqa = TaskRecord("piqa", "acc", 0.5359, 0.0116, 1838, 0.5, (), ())
    mmlu = TaskRecord(
        "mmlu", "acc", 0.2567, 0.0037, 14042, 0.25, (), (), groups=(PartScore("stem", "stem", 0.275, 0.0078, 3153),)
    )
    lambada = TaskRecord("lambada_oneline", "perplexity", 58.64722, 20.49, 60, None, (), ())
    assert EvalRecord("f", {}, {}, (piqa, mmlu, lambada)).table().split("\n") == [
        "task             metric       value  ± error  chance      n",
        "piqa             acc         0.5359   0.0116  0.5000   1838",
        "mmlu             acc         0.2567   0.0037  0.2500  14042  not above chance",
        "  stem           acc         0.2750   0.0078  0.2500   3153",
        "lambada_oneline  perplexity   58.65       20       -     60",
    ]


def test_the_other_parts_follow():
    answer = ChatAnswer("owl", (), "me", None, ended=True, num_tokens=3, sample=False)
    record = EvalRecord(
        "f",
        {},
        {},
        tasks=(TaskRecord("piqa", "acc", 0.6, 0.01, 9, 0.5, (), (), num_truncated=2),),
        held_out=(HeldOutRecord("sums", 1.5, 0.25, 1234, 2, (), (), ()),),
        chat=(answer, replace(answer, ended=False)),
    )
    assert record.table().split("\n")[2:] == [
        "held-out sums: 1.5000 ± 0.2500 nats/token (2 conversations, 1,234 trained tokens)",
        "chat prompts answered to the end: 1 of 2 (95 % interval 9% to 91%)",
        "note: 2 requests were longer than the model's context and lost their beginning",
    ]
    assert EvalRecord("f", {}, {}).table() == ""
