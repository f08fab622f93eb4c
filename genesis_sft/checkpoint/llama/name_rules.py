"""The user's own rules for stored names, for checkpoints whose names no built-in rule knows.

    names:
      "blocks.{n}.mix.query.weight": q
      "wordtable": embedding
    skip:
      - "blocks.{n}.debug_scale"

A rule is compared with the end of a stored name, whole components at a time; wrappers such as ``module`` and
``_orig_mod`` are cut first, and a last ``weight`` or ``bias`` may be left out. ``{n}`` is the number of the layer.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from genesis_sft.checkpoint.llama.name_folding import shown
from genesis_sft.checkpoint.llama.name_parts import WRAPPERS, NameParts
from genesis_sft.checkpoint.llama.slots import ROLES, TOP_ROLES, Role, is_role
from genesis_sft.checkpoint.llama.yaml_file import in_words, read_yaml
from genesis_sft.errors import ModelError

_LAYER_NUMBER = "{n}"
_LEAVES = (("weight",), ("bias",), ("scale",), ("gamma",))
_MOST_RULES, _LONGEST_PATTERN = 1000, 500


@dataclass(frozen=True)
class NameRule:
    """One line of a rule file.

    Attributes:
        pattern: The end of a stored name: ``"blocks.{n}.mix.query.weight"``.
        role: What it is; ``None``: not needed.
    """

    pattern: str
    role: Role | None


@dataclass(frozen=True)
class RuleMatch:
    """A rule that fits a name, where in the name it begins (a position in ``NameParts.path``), and the layer."""

    rule: NameRule
    start: int
    layer: int | None


@dataclass(frozen=True)
class NameRules:
    """A rule file.

    Attributes:
        rules: All rules of ``names:`` and ``skip:``.
        path: Where they come from, for messages.
    """

    rules: tuple[NameRule, ...]
    path: Path

    def find(self, parts: NameParts) -> RuleMatch | None:
        """Return the rule for a name; of several that fit, the longest: it says most about the name."""
        matches = [match for rule in self.rules if (match := _match(rule, parts))]
        return max(matches, key=lambda match: (-match.start, len(match.rule.pattern)), default=None)

    def require_all_used(self, names: Iterable[NameParts]) -> None:
        """Refuse rules that fit no stored name: they hold a typing error.

        Raises:
            ModelError: Lists them.
        """
        names = list(names)
        idle = [rule.pattern for rule in self.rules if not any(_match(rule, parts) for parts in names)]
        if idle:
            paths = sorted({".".join(parts.path) for parts in names})
            near = difflib.get_close_matches(idle[0].replace(_LAYER_NUMBER, "0"), paths[:2000], n=1, cutoff=0.4)
            raise ModelError(
                f"{self.path}: expected each rule to fit a stored name; "
                f"{', '.join(shown(pattern) for pattern in idle[:5])} {'fits' if len(idle) == 1 else 'fit'} none",
                hint=f"The nearest stored name is {shown(near[0])}." if near else None,
            )


def read_name_rules(path: Path) -> NameRules:
    """Read a rule file.

    Raises:
        ModelError: The file is missing or no YAML, has another form, or names an unknown role.
    """
    values = read_yaml(path, "a rule file", unique_keys=True)
    if not isinstance(values, dict) or not values or not set(values) <= {"names", "skip"}:
        raise ModelError(f"{path}: expected the keys names and skip; found {in_words(values)}", hint=_EXAMPLE)
    names, skip = values.get("names") or {}, values.get("skip") or []
    if not isinstance(names, dict):
        raise ModelError(f"{path}: expected under names: lines of NAME: ROLE; found {in_words(names)}", hint=_EXAMPLE)
    if not isinstance(skip, list):
        raise ModelError(f"{path}: expected under skip: a list of names; found {in_words(skip)}", hint=_EXAMPLE)
    if not 1 <= len(names) + len(skip) <= _MOST_RULES:
        raise ModelError(f"{path}: expected 1 to {_MOST_RULES} rules; found {len(names) + len(skip)}", hint=_EXAMPLE)
    rules = [_named(path, pattern, role) for pattern, role in names.items()]
    return NameRules((*rules, *(NameRule(_pattern(path, pattern), None) for pattern in skip)), path)


_EXAMPLE = 'For example: names: {"blocks.{n}.mix.query.weight": q}, skip: ["blocks.{n}.debug_scale"].'


def _named(path: Path, pattern: object, role: object) -> NameRule:
    text = _pattern(path, pattern)
    if not is_role(role):
        near = difflib.get_close_matches(role if isinstance(role, str) else "", ROLES, n=1)
        raise ModelError(
            f"{path}: {shown(text)}: expected a role; found {in_words(role)}" + (f"; is it {near[0]}?" if near else ""),
            hint=f"The roles are {', '.join(ROLES)}.",
        )
    numbers = text.count(_LAYER_NUMBER)
    if numbers != (role not in TOP_ROLES):
        expected = "no {n}: the model has one" if role in TOP_ROLES else "{n} once, for the number of the layer"
        raise ModelError(f"{path}: {shown(text)}: expected {expected} {role}; found {numbers} times {{n}}")
    return NameRule(text, role)


def _pattern(path: Path, pattern: object) -> str:
    if not isinstance(pattern, str) or not 0 < len(pattern) <= _LONGEST_PATTERN or not _components(pattern):
        raise ModelError(f"{path}: expected the end of a stored name as text; found {in_words(pattern)}", hint=_EXAMPLE)
    return pattern


def _match(rule: NameRule, parts: NameParts) -> RuleMatch | None:
    if rule.role in TOP_ROLES and parts.layer is not None:
        return None
    num_components, matcher = _matcher(rule.pattern)
    ends = (len(parts.path), len(parts.path) - 1) if parts.path[-1:] in _LEAVES else (len(parts.path),)
    for end in ends:
        start = end - num_components
        if start >= 0 and (found := matcher.fullmatch(".".join(parts.path[start:end]))):
            return RuleMatch(rule, start, int(found[1]) if found.groups() else None)
    return None


@cache
def _matcher(pattern: str) -> tuple[int, re.Pattern[str]]:
    components = _components(pattern)
    texts = [re.escape(text) for text in ".".join(components).split(_LAYER_NUMBER)]
    return len(components), re.compile("([0-9]{1,5})".join(texts), re.DOTALL)


def _components(pattern: str) -> list[str]:
    return [part for part in pattern.split(".") if part not in WRAPPERS]
