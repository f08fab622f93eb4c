"""What is said to nobody does not end the work."""

import os
import subprocess
import sys

PROGRAM = """
from genesis_sft.console import say
for number in range(3):
    say(f"line {number}")
print("done")
"""


def test_the_work_goes_on_where_nobody_reads_its_messages() -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `2>&1 | head` does
    try:
        done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=writing, timeout=60)
    finally:
        os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"done\n")
