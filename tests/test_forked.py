"""The processes of tests find ready what they need, whichever tests were collected."""

import sys
from multiprocessing.connection import Connection

import pytest

from tests.forked import CONTEXT, PRELOADED


def say_what_is_missing(connection: Connection, already_there: tuple[str, ...]) -> None:
    connection.send([name for name in already_there if name not in sys.modules])
    connection.close()


@pytest.mark.slow  # PyTorch is imported, once for all tests
def test_a_process_begins_with_its_imports_done() -> None:
    mine, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=say_what_is_missing, args=(theirs, PRELOADED))
    process.start()
    theirs.close()
    assert mine.poll(120)
    assert mine.recv() == []
    process.join()
