from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.checkpoint.tensors.dcp_metadata import ALLOWED
from genesis_sft.checkpoint.tensors.safe_pickle import DamagedPickle, Record, Symbol, UnsafePickle, read_pickle
from tests.checkpoint.tensors.attacks import attacks, call, named, text, works

_ATTACKS = tuple(attacks(Path("marker")))
_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@dataclass
class Point:
    x: int
    y: object = None


@given(_plain, st.integers(3, 5))
def test_plain_data_comes_back_as_it_was(value: object, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol), ()) == value


def test_an_object_becomes_a_record_of_its_class_and_state() -> None:
    data = pickle.dumps([Point(1), Point(2, (3,))])
    first, second = read_pickle(data, {(__name__, "Point")})
    assert (first.made_by, first.arguments, first.state) == (Symbol(__name__, "Point"), (), {"x": 1, "y": None})
    assert second.state == {"x": 2, "y": (3,)}


def test_a_call_becomes_a_record_and_is_not_made() -> None:
    data = b"\x80\x04" + call(named("os", "system"), text("exit 1")) + b"."
    record = read_pickle(data, {("os", "system")})
    assert isinstance(record, Record)
    assert record.arguments == ("exit 1",)


@pytest.mark.parametrize("name", _ATTACKS)
def test_an_attack_runs_nothing_and_is_named(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    data, culprit = attacks(marker)[name]
    with pytest.raises(UnsafePickle, match=culprit.replace(".", r"\.")):
        read_pickle(b"\x80\x04" + data + b".", ALLOWED)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "eval", "pathlib, dotted", "allowed module of torch, dotted"])
def test_the_attacks_would_work_on_the_standard_unpickler(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    works(attacks(marker)[name][0])
    assert marker.exists()


def test_state_cannot_be_given_to_a_class() -> None:
    # with the standard unpickler this changes a class of torch for the rest of the process
    state = b"N}" + text("__eq__") + text("changed") + b"s\x86"
    data = b"\x80\x04" + named("torch.distributed.checkpoint.metadata", "Metadata") + state + b"b."
    with pytest.raises(DamagedPickle, match="found Symbol"):
        read_pickle(data, ALLOWED)


def test_state_is_given_once() -> None:
    data = b"\x80\x04" + named("torch", "Size") + b")\x81" + b"}" + text("a") + b"K\x01sb" + b"}b."
    with pytest.raises(DamagedPickle, match="without state"):
        read_pickle(data, ALLOWED)


def test_a_key_that_nests_deeply_is_refused_and_does_not_crash() -> None:
    # hashing it overflows the C stack: pickle.loads ends the process with a segmentation fault
    program = (
        "from genesis_sft.checkpoint.tensors.safe_pickle import *\n"
        r"data = b'\x80\x04}K\x01' + b'\x85' * 1_000_000 + b'K\x01s.'" + "\n"
        "try: read_pickle(data, ())\n"
        "except DamagedPickle: raise SystemExit(7)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 7


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x04NN.",
        b"\x80\x04(N.",
        b"\x80\x04t.",
        b"\x80\x04h\x05.",
        b"\x80\x04]NNs.",
        b"\x80\x04}NNs.",
        b"\x80\x04Na.",
        b"\x80\x04NNR.",
        b"\x80\x04K\x01K\x02\x93.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"not a pickle",
    ],
)
def test_bytes_that_are_no_pickle_are_called_damaged(data: bytes) -> None:
    with pytest.raises((DamagedPickle, UnsafePickle)):
        read_pickle(data, ALLOWED)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_one_of_the_two_errors(data: bytes) -> None:
    with contextlib.suppress(DamagedPickle, UnsafePickle):
        read_pickle(data, ALLOWED)
