"""A group of commands where the first word may also be what the group's main command works on.

``genesis-sft eval MODEL`` beside ``genesis-sft eval judge FILE``, ``genesis-sft train RECIPE`` beside
``genesis-sft train watch RUN``.
"""

from __future__ import annotations

import difflib
import os
from typing import Any

from typer.core import TyperGroup

from genesis_sft.errors import InputError


class FirstWordGroup(TyperGroup):
    """A group whose command named ``main_command`` takes everything, unless the first word is another command.

    Its help shows the options of that command. A file that is named like another command is given as ``./NAME``.
    """

    main_command: str
    """Name of the main command: the metavar of its argument, e.g. ``"MODEL"``. The command is hidden."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Hand everything to the main command, but where the first word is another one or help is asked for."""
        others = self.commands.keys() - {self.main_command}
        if not args or args[0] not in others:
            self._refuse_misspelt(ctx, args[0] if args else "", others)
            wants_help = any(word in ctx.help_option_names for word in args)
            args = ["--help"] if wants_help else [self.main_command, *args]
        return super().parse_args(ctx, args)

    def _refuse_misspelt(self, ctx: Any, word: str, others: set[str]) -> None:
        nearest = difflib.get_close_matches(word, others, n=1)
        if nearest and os.sep not in word and not os.path.exists(word):
            raise InputError(
                f"expected {self.main_command} or a command ({', '.join(sorted(others))}), found {word!r}",
                hint=f"Did you mean `{ctx.command_path} {nearest[0]}`?",
            )

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Show a line for each command, the main one without its name."""
        for name, command in self.commands.items():
            pieces = [piece for piece in command.collect_usage_pieces(ctx) if piece != "[OPTIONS]"]
            words = ([] if name == self.main_command else [name]) + pieces
            formatter.write_usage(ctx.command_path, " ".join([*words, "[OPTIONS]"]))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Show the options of the main command, and the other commands."""
        self.commands[self.main_command].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)
