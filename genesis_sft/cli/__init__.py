"""The command line: results go to stdout, progress and logs to stderr; heavy modules are imported by the commands."""

from genesis_sft.cli.commands import app
from genesis_sft.cli.program import main

__all__ = ["app", "main"]
