"""The budget: nothing is sent that it might not cover.

``spent + maybe_spent + reserved <= budget`` holds at every moment, as long as the provider charges for no request more
than was reserved for it. A request's reservation becomes what it cost when the answer is there, nothing when the
provider did not answer, and ``maybe_spent`` for good when nobody knows: the connection broke, the process was killed.
"""

from __future__ import annotations

from dataclasses import dataclass

_NANO = 1_000_000_000


class BudgetSpent(Exception):
    """The budget does not cover another request.

    Args:
        most: What it might have cost, in nano-dollars.
        left: What is left, in nano-dollars; negative where the budget was lowered below what is spent.
    """

    def __init__(self, most: int, left: int) -> None:
        rest = f"{format_usd(left)} are left" if left >= 0 else f"the budget is exceeded by {format_usd(-left)}"
        super().__init__(f"a request may cost {format_usd(most)}, and {rest}")
        self.most, self.left = most, left


@dataclass
class Ledger:
    """Where the money is, in nano-dollars (1e-9 US dollars).

    Attributes:
        budget: What may be spent in all; ``None``: no bound.
        spent: Cost of all answers.
        maybe_spent: Reservations of requests of which nobody knows whether they were charged for.
        reserved: Reservations of requests under way.
    """

    budget: int | None
    spent: int = 0
    maybe_spent: int = 0
    reserved: int = 0

    @property
    def left(self) -> int | None:
        """What can still be reserved; ``None``: any amount."""
        return None if self.budget is None else self.budget - self.spent - self.maybe_spent - self.reserved

    def reserve(self, most: int) -> None:
        """Reserve for one request.

        Raises:
            BudgetSpent: The budget does not cover it; nothing is reserved.
        """
        if self.left is not None and most > self.left:
            raise BudgetSpent(most, self.left)
        self.reserved += most

    def settle(self, reserved: int, *, cost: int = 0, maybe_cost: int = 0) -> None:
        """End a reservation: with what it cost, with what it may have cost, or with nothing."""
        self.reserved -= reserved
        self.spent += cost
        self.maybe_spent += maybe_cost


def format_usd(nano_usd: int) -> str:
    """Return an amount for people: ``"$12.34"``, and below a dollar as many digits as say something: ``"$0.0021"``."""
    usd = nano_usd / _NANO
    if nano_usd == 0 or abs(usd) >= 1:
        return f"${usd:,.2f}"
    return f"${usd:.4f}" if abs(usd) >= 0.0001 else f"${usd:.9f}".rstrip("0")
