"""What is known to go wrong in fine-tuning, recognised from the metrics while there is time to stop.

A rule names a likely cause, so it needs a symptom that a healthy run does not show; where one number alone may be
chance or the nature of the data, two have to agree. Its numbers stand in its docstring. They were set on tiny models in
which each fault was planted, ``tests/training/watching/test_alarms.py``, and looked at beside runs of SmolLM2-135M.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genesis_sft.training.watching.course import Course, Row, first_step, median_update, weight_growth


@dataclass(frozen=True)
class Alarm:
    """Something that goes wrong.

    Attributes:
        step: The first step at which it shows, counted from 1; 0 for what is wrong before the first.
        name: Name of the rule.
        message: What was seen, what is the likely cause, and what to do.
    """

    step: int
    name: str
    message: str


def find_alarms(rows: Sequence[Row], facts: Mapping[str, Any]) -> list[Alarm]:
    """Return what goes wrong in a run, each thing once, in the order in which it showed.

    What is found in a run's first steps is found again, as it was, when more steps have been made or the run was gone
    on with after a kill: no rule looks at later rows. Over 16,000 steps it takes a tenth of a second, so ask when
    health was looked at, not at every step.

    Args:
        rows: Rows of ``metrics.jsonl``, from step 1 on, without a gap.
        facts: What `row_facts` and `data_facts` return, and ``num_steps`` of the whole run, in one mapping; rules whose
            facts are missing stay silent, or wait longer.
    """
    course = Course.of(rows, facts)
    found = [alarm for rule in RULES if (alarm := rule(course)) is not None]
    return sorted(found, key=lambda alarm: alarm.step)  # of one step, in the order of the rules


def _terminator_masked(course: Course) -> Alarm | None:
    """Turns end in the data, and no end is trained: exact, from the labels themselves."""
    ends, trained = course.facts.get("turn_ends", 0), course.facts.get("trained_turn_ends", 0)
    if not ends or trained:
        return None
    return Alarm(
        0,
        "terminator_masked",
        f"none of {ends:,} ends of assistant turns is trained, so the model will not learn to stop; "
        "set tokens.train_on to [assistant, end_of_turn]",
    )


def _rows_zero(course: Course) -> Alarm | None:
    """A control token's row has less than a hundredth of the usual norm; trained rows have a third of it or more."""
    small = [
        f"{name} ({table})"
        for table, rows in course.facts.get("rows", {}).items()
        for name, row in rows.items()
        if (row["norm_ratio"] or 0.0) < 0.01
    ]
    if not small:
        return None
    return Alarm(
        0,
        "rows_zero",
        f"the rows of {', '.join(small)} are zero or nearly so: the normalisation after the embedding blows up them "
        "and their gradient; give them the mean of the other rows, as `genesis-sft base` does",
    )


def _rows_frozen(course: Course) -> Alarm | None:
    """The row of the end of a turn stays as it is.

    Before the first step: its table is frozen, and the row is one that was never trained: zero, or the mean of the
    others (cosine above 0.99; rows that were trained have 0.1 to 0.7). A frozen row that was trained before is fine.
    Later: although its table is not frozen, its gradient is exactly zero at two looks in a row, or norm and direction
    are the same at three while matrices move. Rounding, where it keeps most updates from bfloat16 weights, is another
    alarm.
    """
    name = course.end_row
    for table, rows in course.facts.get("rows", {}).items():
        if name is None or name not in rows:
            continue
        untrained = _or_one(rows[name]["cosine_to_mean"]) > 0.99 or (rows[name]["norm_ratio"] or 0.0) < 0.01
        frozen = table in course.facts.get("frozen", ())
        step = (0 if untrained else None) if frozen else _stands_still(course, table, name)
        if step is not None:
            return Alarm(
                step,
                "rows_frozen",
                f"the row of {name} in the {table} is not trained and stays as it was initialised; set "
                "training.embeddings.train to true, or look for what keeps its gradient or its update from it",
            )
    return None


def _or_one(value: float | None) -> float:
    return 1.0 if value is None else value


def _stands_still(course: Course, table: str, name: str) -> int | None:
    """Return the step of the look at which a row was seen not to be trained."""
    looks = [(step, look["rows"].get(table, {}).get(name, {}), look) for step, look in course.looks]
    for number, (step, row, look) in enumerate(looks):
        last = [row for _, row, _ in looks[max(0, number - 2) : number + 1]]
        if len(last) >= 2 and all(row.get("gradient_share") == 0.0 for row in last[-2:]):
            return step
        same = len({(row.get("norm"), row.get("cosine_to_mean")) for row in last}) == 1
        if len(last) == 3 and same and (median_update(look) or 0.0) > 0 and (look["lost_updates"] or 0.0) <= 0.5:
            return step
    return None


def _non_finite_steps(course: Course) -> Alarm | None:
    """Three of twenty steps were skipped; a single one happens in sound runs with reduced precision."""
    counts = course.sum_of_last(course.skipped, 20)
    step = first_step(counts >= 3)
    if step is None:
        return None
    return Alarm(
        step,
        "non_finite_steps",
        "3 of the last 20 steps had a gradient that is not finite and were skipped: the learning rate is too high "
        "or the precision too low; lower training.learning_rate, or set training.precision to float32",
    )


def _updates_lost(course: Course) -> Alarm | None:
    """Rounding kept more than half of the 16-bit weights with a gradient as they were, at two looks in a row.

    Only where the learning rate is past its warmup and at least half of its peak: with small rates it is the rule. A
    bfloat16 weight moves if the update is above 1/512 to 1/256 of it; fine-tuning's are about 1/1000.
    """
    lost_before = False
    for step, look in course.looks:
        share = look["lost_updates"] or 0.0
        counts = course.steps_since_peak[step - 1] >= 1 and course.share_of_peak[step - 1] >= 0.5
        if counts and share > 0.5 and lost_before:
            return Alarm(
                step,
                "updates_lost",
                f"{share:.0%} of the updates change no weight: they are smaller than bfloat16 can hold; set "
                "training.precision to bfloat16 (float32 weights, bfloat16 arithmetic) or float32",
            )
        lost_before = bool(counts and share > 0.5)
    return None


def _learning_rate_too_high(course: Course) -> Alarm | None:
    """The loss rises above where it began, or the weights outgrow themselves.

    Loss: the mean of 25 steps is above that of the first 5 by five standard errors and 3 %: on what it trains on, a
    run does no worse than its base. Weights: the norm of the median matrix is 1.25 times that at the first step.
    Independent changes as large as three quarters of the weights themselves do that, and little of the base is left
    then; the tiny models of the tests grow by 0.02 at the best learning rate, by 0.13 at three times as much, by 0.8 at
    ten times.
    """
    risen = first_step((course.rise > 0.03 * course.start_loss) & (course.rise > 5 * course.rise_error))
    grown = next((step for step, growth in weight_growth(course) if growth > 1.25), None)
    if risen is None and grown is None:
        return None
    if grown is None or (risen is not None and risen <= grown):
        assert risen is not None
        seen = f"the loss has risen from {course.start_loss:.2f} to {course.recent_loss[risen - 1]:.2f}"
        return _too_high(risen, seen)
    return _too_high(grown, f"the weights have grown to {dict(weight_growth(course))[grown]:.2f} times their norm")


def _too_high(step: int, seen: str) -> Alarm:
    return Alarm(
        step,
        "learning_rate_too_high",
        f"{seen}: what the base model knows is being overwritten; lower training.learning_rate, by ten to begin with",
    )


def _learning_rate_too_low(course: Course) -> Alarm | None:
    """What is learned is learned too slowly for this run: seen at half of it, or 1,000 steps after the warmup.

    Either the probability of the end of a turn is below 0.1 where turns end, but three times what it was in the first
    25 steps and still rising (`Course.ends_rising`): it is being learned, at a pace at which healthy runs are done. Or
    the loss has fallen by less than 15 % for certain (three standard errors), and no update was larger than 1e-4 of its
    matrix: fine-tuning's are 2e-4 to 1e-2. Neither says anything of a base that could end its turns from the start.
    """
    slowly = course.ends_low & course.ends_rising & (course.end_probability >= 3 * course.first_end_probability)
    small = (course.largest_update > 0) & (course.largest_update < 1e-4)
    step = first_step(course.settled & (slowly | (course.untaught & small & (course.largest_fall(3) < 0.15))))
    if step is None:
        return None
    if slowly[step - 1]:
        probability = course.end_probability[step - 1]
        seen = f"the probability of the end of a turn where turns end has only come to {probability:.1%}"
    else:
        seen = f"the largest update was {course.largest_update[step - 1]:.0e} of the weights, and the loss hardly falls"
    return Alarm(
        step,
        "learning_rate_too_low",
        f"{seen} in {step} steps; raise training.learning_rate, by ten to begin with, or train for more steps",
    )


def _terminator_not_learned(course: Course) -> Alarm | None:
    """The loss has fallen, by 10 % for certain (three standard errors), but the end of a turn is not learned.

    At half of the run, or 1,000 steps after the warmup, its probability is below 0.1 where turns end, and is not rising
    or not above what it is elsewhere. Only where ends are trained (that they are not is an alarm of its own), and not
    after the alarm that the learning rate is too low.
    """
    step = first_step(course.settled & (course.smallest_fall(3) > 0.1) & course.ends_low & ~course.ends_rising)
    slow = _learning_rate_too_low(course)
    if step is None or (slow is not None and slow.step <= step):
        return None
    return Alarm(
        step,
        "terminator_not_learned",
        f"the loss falls, but the probability of {course.end_row or 'the end of a turn'} where turns end is still "
        f"{course.end_probability[step - 1]:.1%} after {step} steps; see whether its row is trained "
        "(training.embeddings), and with `genesis-sft data show` whether turns end where they should",
    )


def _loss_not_falling(course: Course) -> Alarm | None:
    """At half of the run, or 1,000 steps after the warmup, the loss has fallen by less than 5 % for certain.

    Three standard errors make it certain. Of a base that ended its turns from the start nothing is said: it may know
    such data. Nor where the loss has risen before or updates are small, which are alarms of their own.
    """
    flat = course.largest_fall(3) < 0.05
    small = (course.largest_update > 0) & (course.largest_update < 1e-4)
    step = first_step(course.settled & course.untaught & flat & ~small)
    high = _learning_rate_too_high(course)
    if step is None or (high is not None and high.step <= step):
        return None
    still = course.largest_update[step - 1] == 0
    cause = (
        "no weight moves: the optimizer does not hold the model's weights, or the learning rate is zero"
        if still
        else "see with `genesis-sft data show` whether what is trained follows from what stands before it"
    )
    return Alarm(
        step,
        "loss_not_falling",
        f"the loss was {course.first_loss:.2f} and is {course.recent_loss[step - 1]:.2f} after {step} steps; {cause}",
    )


RULES = (
    _terminator_masked,
    _rows_zero,
    _rows_frozen,
    _non_finite_steps,
    _updates_lost,
    _learning_rate_too_high,
    _learning_rate_too_low,
    _terminator_not_learned,
    _loss_not_falling,
)
