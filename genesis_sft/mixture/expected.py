"""What a recipe asks for, added up before anything is read: conversations, and steps an epoch."""

from __future__ import annotations

from genesis_sft.recipe import Recipe, SourceSection, TrainingSection


def expected_counts(recipe: Recipe) -> tuple[str, ...]:
    """Return what the sources are asked for, their sum, and how that compares with ``data.expected_total``.

    Two sources with ``take: 100`` and ``take: 60``, ``expected_total: 200``, 32 conversations a step::

        a: take 100
        b: take 60
        the takes add up to 160: 40 fewer than the 200 expected
        steps an epoch, at 32 conversations a step: 5 against 7
    """
    sources, training = recipe.data.sources, recipe.training
    lines = [f"{source.name}: {_asked_for(source)}" for source in sources]
    takes = sum(source.take or 0 for source in sources)
    others = [source.name for source in sources if source.take is None]
    expected = recipe.data.expected_total
    if takes:
        lines.append(_sum_line(takes, others, expected))
    elif expected is not None:
        lines.append(f"{expected:,} conversations are expected; how many there are is known when they were read")
    if training.batch.sequences is None:  # how long conversations are is known when they were read
        return tuple(lines)
    at = f"steps an epoch, at {training.batch.sequences} conversations a step"
    if takes and not others:
        steps = _steps(takes, training)
        lines.append(
            f"{at}: {steps:,}" + (f" against {_steps(expected, training):,}" if expected not in (None, takes) else "")
        )
    elif expected is not None:
        lines.append(f"{at}: {_steps(expected, training):,} for the conversations expected")
    return tuple(lines)


def _asked_for(source: SourceSection) -> str:
    if source.share is not None:
        asked = f"share {source.share * 100:g} % of the trained tokens"
    elif source.take is not None:
        asked = f"take {source.take:,}"
    else:
        return "all" if source.epochs == 1 else f"all, {source.epochs:g} times"
    return asked if source.epochs == 1 else f"{asked}, each up to {source.epochs:g} times"


def _sum_line(takes: int, others: list[str], expected: int | None) -> str:
    line = f"the takes add up to {takes:,}"
    if others:
        line += f", without {' and '.join(others)}"
    if expected is None:
        return line
    if others and takes < expected:
        return f"{line}: {expected - takes:,} would have to come from there for the {expected:,} expected"
    if takes == expected:
        return f"{line}, as expected"
    return f"{line}: {abs(expected - takes):,} {'fewer' if takes < expected else 'more'} than the {expected:,} expected"


def _steps(conversations: int | None, training: TrainingSection) -> int:
    """Return the optimizer steps of one epoch; the last, smaller one counts unless it is dropped."""
    whole, rest = divmod(conversations or 0, training.batch.sequences or 1)
    return whole + (rest > 0 and not training.drop_last)
