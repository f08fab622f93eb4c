"""Read the data in a pickle without running it.

A pickle is a program: it imports names and calls them. This reader follows the instructions that picklers write for
plain data and for objects, and does neither. A class or function becomes a ``Symbol`` (its name, nothing imported),
and a call becomes a ``Record`` (what would have been called, with what), so that nothing can run whatever the bytes
say. Names that are not expected are refused all the same, because a file that holds them is not what it claims to be.

The instruction set is documented in the standard library's ``pickletools``.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True, slots=True)
class Symbol:
    """A class or function that the pickle names; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Record:
    """An object that the pickle would have made: by which call, and the state that it was given."""

    made_by: Symbol
    arguments: tuple[Any, ...]
    state: Any = None


class UnsafePickle(Exception):
    """The pickle holds a name or an instruction that was not expected."""


class DamagedPickle(Exception):
    """The bytes are no pickle, or one that was cut off or changed."""


def read_pickle(data: bytes, allowed: Collection[tuple[str, str]]) -> Any:
    """Return what a pickle holds, with a ``Record`` for each object in it.

    The pickle of ``Point(x=1)`` from module ``shapes`` gives
    ``Record(Symbol("shapes", "Point"), (), {"x": 1})`` where ``("shapes", "Point")`` is allowed.

    Args:
        data: The bytes, of protocol 2 to 5.
        allowed: The modules and names that may occur.

    Raises:
        UnsafePickle: Names what is not allowed.
        DamagedPickle: It cannot be read.
    """
    reader = _Reader(frozenset(allowed))
    try:
        for instruction, argument, _ in pickletools.genops(data):
            if instruction.name == "STOP":
                return reader.result()
            reader.follow(instruction.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DamagedPickle(f"{type(error).__name__}: {error}") from None
    raise DamagedPickle("it ends too early")


class _Reader:
    """The stack machine; each method is one instruction or a family of them."""

    def __init__(self, allowed: frozenset[tuple[str, str]]) -> None:
        self._allowed = allowed
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # the stacks below each open MARK
        self._memo: dict[int, Any] = {}
        self._steps = self._instructions()

    def follow(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self._stack.append(argument)
        elif name in self._steps:
            self._steps[name](argument)
        elif name not in ("PROTO", "FRAME"):
            raise UnsafePickle(f"the pickle instruction {name}")

    def result(self) -> Any:
        if len(self._stack) != 1 or self._outer:
            raise DamagedPickle("it ends in the middle of a value")
        return self._stack[0]

    def _instructions(self) -> dict[str, Callable[[Any], None]]:
        push, pop = self._stack_push, self._pop
        return {
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_TUPLE": lambda _: push(()),
            "TUPLE1": lambda _: push((pop(),)),
            "TUPLE2": lambda _: push(tuple(reversed((pop(), pop())))),
            "TUPLE3": lambda _: push(tuple(reversed((pop(), pop(), pop())))),
            "MARK": lambda _: self._mark(),
            "TUPLE": lambda _: self._tuple(),
            "APPEND": lambda _: self._extend([pop()]),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "SETITEM": lambda _: self._update(list(reversed((pop(), pop())))),
            "SETITEMS": lambda _: self._update(self._since_mark()),
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
            "BINPUT": self._remember,
            "LONG_BINPUT": self._remember,
            "BINGET": lambda index: push(self._memo[index]),
            "LONG_BINGET": lambda index: push(self._memo[index]),
            "GLOBAL": lambda names: self._symbol(*names.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._symbol(*reversed((pop(), pop()))),
            "REDUCE": lambda _: self._make(),
            "NEWOBJ": lambda _: self._make(),
            "BUILD": lambda _: self._build(),
        }

    def _stack_push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        return self._stack.pop()

    def _mark(self) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        values, self._stack = self._stack, self._outer.pop()
        return values

    def _tuple(self) -> None:
        values = self._since_mark()
        self._stack.append(tuple(values))

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            _damaged("a list", target)
        target.extend(values)

    def _update(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(values) % 2:
            _damaged("a dictionary", target)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (str, int, Record):  # a tuple may be nested deeply enough to overflow the C stack
                _damaged("a name, a number or an object as key", key)
            target[key] = value

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _symbol(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            _damaged("a module and a name", module)
        if (module, name) not in self._allowed:
            raise UnsafePickle(f"{module}.{name}")
        self._stack.append(Symbol(module, name))

    def _make(self) -> None:
        arguments, symbol = self._pop(), self._pop()
        if type(symbol) is not Symbol or type(arguments) is not tuple:
            _damaged("a class and its arguments", symbol)
        self._stack.append({} if symbol.name == "OrderedDict" else Record(symbol, arguments))

    def _build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if type(target) is not Record or target.state is not None:
            _damaged("an object without state", target)
        target.state = state


_PUSHED = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES"),
    )
)


def _damaged(expected: str, found: object) -> NoReturn:
    raise DamagedPickle(f"expected {expected}, found {type(found).__name__}")
