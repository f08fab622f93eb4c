"""The user's rule file: what it can say, and that a mistake in it is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genesis_sft.checkpoint.llama.name_parts import take_apart
from genesis_sft.checkpoint.llama.name_rules import NameRule, NameRules, read_name_rules
from genesis_sft.checkpoint.llama.names import Slot, map_names
from genesis_sft.errors import ModelError

FILE = """\
names:
  "blocks.{n}.mix.query.weight": q
  "wordtable": embedding
skip:
  - "blocks.{n}.debug_scale"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "names.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def own_names(layers: int = 2) -> dict[str, tuple[int, ...]]:
    """A checkpoint of hidden size 8 in which only query, embedding and a leftover are named unusually."""
    shapes: dict[str, tuple[int, ...]] = {"net.wordtable": (50, 8), "net.norm.weight": (8,), "net.head.weight": (50, 8)}
    for n in range(layers):
        block = f"net.blocks.{n}."
        shapes |= {
            block + name: (8, 8) for name in ("mix.query.weight", "attn.wk.weight", "attn.wv.weight", "attn.wo.weight")
        }
        shapes |= {block + name: (24, 8) for name in ("mlp.gate.weight", "mlp.up.weight")}
        shapes |= {block + "mlp.down.weight": (8, 24), block + "norm1.weight": (8,), block + "norm2.weight": (8,)}
        shapes |= {block + "debug_scale": (3,)}
    return shapes


def test_a_rule_file_is_read_as_written(tmp_path: Path) -> None:
    path = written(tmp_path, FILE)
    assert read_name_rules(path) == NameRules(
        (
            NameRule("blocks.{n}.mix.query.weight", "q"),
            NameRule("wordtable", "embedding"),
            NameRule("blocks.{n}.debug_scale", None),
        ),
        path,
    )


def test_rules_give_names_their_places(tmp_path: Path) -> None:
    found = map_names(own_names(), read_name_rules(written(tmp_path, FILE)))
    assert found.slots[Slot("q", 1)] == "net.blocks.1.mix.query.weight"
    assert found.slots[Slot("embedding")] == "net.wordtable"
    assert found.skipped == {f"net.blocks.{n}.debug_scale": "skipped by the rule file" for n in range(2)}


def test_the_rule_file_of_the_error_message_works_once_its_roles_are_filled_in(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        map_names(own_names())
    lines = [line.removeprefix("    ") for line in str(caught.value).splitlines()]
    text = "\n".join(line for line in lines[lines.index("names:") :] if not line.startswith('  - "some.other'))
    text = text.replace('"net.wordtable": ROLE', '"net.wordtable": embedding').replace(
        'query.weight": ROLE', 'query.weight": q'
    )
    text = text.replace('  "net.blocks.{n}.debug_scale": ROLE\n', "") + '\n  - "net.blocks.{n}.debug_scale"'
    assert "ROLE" not in text
    assert len(map_names(own_names(), read_name_rules(written(tmp_path, text))).slots) == 3 + 2 * 9


def test_rules_fit_whole_components_at_the_end_with_wrappers_cut() -> None:
    rules = NameRules((NameRule("mix.{n}.q", "q"),), Path("names.yaml"))
    for fits in ("mix.3.q", "a.b.mix.3.q", "module.a.mix._orig_mod.3.q", "mix.3.q.weight", "mix.3.q.bias"):
        match = rules.find(take_apart(fits))
        assert match is not None, fits
        assert match.layer == 3
    for misses in ("amix.3.q", "mix.three.q", "mix.3.q.extra", "mix.3.qq", "mix.123456.q", "mix3q", "mix.²3.q"):
        assert rules.find(take_apart(misses)) is None, misses


def test_a_bias_is_told_by_the_end_of_the_name() -> None:
    lines = (NameRule("{n}.mix.query", "q"), NameRule("wordtable", "embedding"), NameRule("debug_scale", None))
    shapes = own_names() | {f"net.blocks.{n}.mix.query.bias": (8,) for n in range(2)}
    rules = NameRules(lines, Path("names.yaml"))
    assert map_names(shapes, rules).slots[Slot("q", 1, bias=True)] == "net.blocks.1.mix.query.bias"


def test_characters_of_regular_expressions_mean_themselves() -> None:
    rules = NameRules((NameRule("w.rd(table)+", "embedding"),), Path("names.yaml"))
    assert rules.find(take_apart("w.rd(table)+")) is not None
    assert rules.find(take_apart("w.rdtable")) is None


def test_of_several_rules_the_longest_decides() -> None:
    rules = NameRules((NameRule("norm", None), NameRule("last.norm", "final_norm")), Path("names.yaml"))
    match = rules.find(take_apart("net.last.norm"))
    assert match is not None
    assert match.rule.role == "final_norm"


def test_a_rule_for_the_whole_model_does_not_take_tensors_of_layers() -> None:
    rules = NameRules((NameRule("norm.weight", "final_norm"),), Path("names.yaml"))
    assert rules.find(take_apart("layers.3.norm.weight")) is None


def test_a_rule_that_fits_nothing_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    text = FILE.replace("mix.query", "mix.qeury")
    with pytest.raises(ModelError, match=r"blocks\.\{n\}\.mix\.qeury\.weight fits none") as caught:
        map_names(own_names(), read_name_rules(written(tmp_path, text)))
    assert caught.value.hint == "The nearest stored name is net.blocks.0.mix.query.weight."


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected the keys names and skip; found nothing"),
        ("- a", "expected the keys names and skip; found a list of 1"),
        ("nmaes: {a: q}", "expected the keys names and skip"),
        ("names: [a]", "under names"),
        ("names: {}", "expected 1 to 1000 rules; found 0"),
        ("skip: a", "under skip"),
        ("skip: [3]", "as text; found 3"),
        ("names: {'a.{n}.b': query}", "expected a role; found text 'query'"),
        ("names: {'a.{n}.b': 3}", "expected a role; found 3"),
        ("names: {'a.b': q}", r"expected \{n\} once"),
        ("names: {'a.{n}.{n}': q}", r"expected \{n\} once"),
        ("names: {'a.{n}': embedding}", r"expected no \{n\}"),
        ("names: {'module': embedding}", "as text"),
        ("names:\n  a: embedding\n  a: head", "stands here twice"),
        ("names: &x {a: embedding}\nskip: [*x]", "aliases"),
        ("names: {a: !!python/object/apply:os.system [ls]}", "no valid YAML"),
        ("names: {a: 2024-13-45}", "no valid YAML"),
        ("skip: [" + "[" * 1000, "no valid YAML"),
        ("names: {'a.{n}.b': 0x" + "f" * 9000 + "}", "too many digits"),
    ],
)
def test_mistakes_are_errors(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        read_name_rules(written(tmp_path, text))


def test_a_misspelt_role_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is it embedding"):
        read_name_rules(written(tmp_path, "names: {wordtable: embeding}"))


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a rule file"):
        read_name_rules(tmp_path / "none.yaml")
    with pytest.raises(ModelError, match="expected a rule file"):
        read_name_rules(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"skip: [\xe4]")
    with pytest.raises(ModelError, match="no UTF-8"):
        read_name_rules(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_text("#" * 200_001)
    with pytest.raises(ModelError, match="more than 200,000 bytes"):
        read_name_rules(tmp_path / "large.yaml")


LINES = st.lists(
    st.sampled_from(
        ["names:", "skip:", "  a.{n}.b: q", "  - x", "  wordtable: embedding", "{", "]", "&a", "*a", "? ", "!!set"]
    )
    | st.text(max_size=12),
    max_size=6,
).map("\n".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=LINES)
def test_any_text_gives_rules_or_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "names.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        rules = read_name_rules(path)
        map_names(own_names(), rules)
    except ModelError as error:
        str(error).encode()
