"""Pickles that would run code, each as the bytes of one value that leaves the value on the stack.

Every one of them would make a file ``marker`` if it were unpickled by Python. They are put together by hand, because a
pickler writes only some of them.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(module: str, name: str) -> bytes:
    """STACK_GLOBAL: with it, a dotted name reaches through attributes."""
    return text(module) + text(name) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def attacks(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Name of the attack to its bytes, and to what the error must name."""
    touch, python = text(f"touch {marker}"), text(f"open({str(marker)!r}, 'w').close()")
    opened, mode = text(str(marker)), text("w")
    inst = b"(" + touch + b"iposix\nsystem\n"
    return {
        "os.system": (call(named("os", "system"), touch), "os.system"),
        "posix.system, old style": (call(b"cposix\nsystem\n", touch), "posix.system"),
        "eval": (call(named("builtins", "eval"), python), "builtins.eval"),
        "exec": (call(named("builtins", "exec"), python), "builtins.exec"),
        "open": (call(named("builtins", "open"), opened, mode), "builtins.open"),
        "io.open": (call(named("io", "open"), opened, mode), "io.open"),
        "operator": (call(call(named("operator", "methodcaller"), text("touch"))), "operator.methodcaller"),
        "subprocess": (call(named("subprocess", "getoutput"), touch), "subprocess.getoutput"),
        "pathlib, dotted": (call(named("pathlib", "os.system"), touch), "pathlib.os.system"),
        "pathlib, method": (
            call(named("pathlib", "PosixPath.touch"), call(named("pathlib", "PosixPath"), opened)),
            "pathlib.PosixPath.touch",
        ),
        "allowed module of torch, dotted": (
            call(named("torch.distributed.checkpoint.filesystem", "os.system"), touch),
            "torch.distributed.checkpoint.filesystem.os.system",
        ),
        "allowed class of torch, dotted": (
            call(named("torch.distributed.checkpoint.metadata", "Metadata.__init__.__globals__"), touch),
            "Metadata.__init__.__globals__",
        ),
        "torch.serialization, dotted": (
            call(named("torch.serialization", "os.system"), touch),
            "torch.serialization.os.system",
        ),
        "torch.load": (call(named("torch.serialization", "load"), opened), "torch.serialization.load"),
        "torch.hub.load": (call(named("torch.hub", "load"), opened), "torch.hub.load"),
        "torch.utils": (call(named("torch.utils.cpp_extension", "load_inline"), opened), "load_inline"),
        "getattr": (
            call(call(named("builtins", "getattr"), named("os", "path"), text("os"))),
            "builtins.getattr",
        ),
        "instance by INST": (inst, "INST"),
        "instance by OBJ": (b"(" + named("os", "system") + touch + b"o", "os.system"),
        "new object with keywords": (named("os", "system") + b"(" + touch + b"t}\x92", "os.system"),
        "persistent id": (touch + b"Q", "BINPERSID"),
        "extension registry": (b"\x82\x01", "EXT1"),
    }


class Runs:
    """Pickled by Python itself, it would run ``os.system`` when read back."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.marker}",)


def works(attack: bytes) -> None:
    """Unpickle for real, to show in a test that an attack is one."""
    pickle.loads(b"\x80\x04" + attack + b".")  # noqa: S301 - made in this file
