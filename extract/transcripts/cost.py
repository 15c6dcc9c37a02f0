"""What a paid engine will cost, told and agreed to before the first request."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import click

from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.reporting import notice


@dataclass(frozen=True)
class Spending:
    """What the user allows; amounts are in the currency of the price."""

    price_per_hour: float | None = None
    most: float | None = None
    agreed: bool = False  # --yes

    def agree(self, engine: str, recordings: int, seconds: float) -> None:
        """Tell hours, price and total, and return if they are agreed to.

        Raises UsageError without a price, beyond the most allowed, or where nobody can be asked; SerError
        when the answer is no.
        """
        if self.price_per_hour is None:
            raise UsageError(
                f"{engine} is paid for by the hour of audio: say what an hour costs with --price-per-hour AMOUNT "
                "(your price list has it), so that the total can be told before anything is sent."
            )
        hours = seconds / 3600
        total = hours * self.price_per_hour
        notice(
            f"{engine}: {recordings:,} recordings, {hours:,.2f} h of audio, at {self.price_per_hour:g} an hour: "
            f"{total:,.2f} in all."
        )
        if self.most is not None and total > self.most:
            raise UsageError(
                f"{total:,.2f} would exceed --max-cost {self.most:g}: allow more, or hear fewer with --limit N."
            )
        if self.agreed:
            return
        if not sys.stdin.isatty():
            raise UsageError("There is no terminal to ask at: add --yes to agree to this cost.")
        if not click.confirm("Send them?", default=False, err=True):
            raise SerError("Not agreed to: nothing was sent.")
