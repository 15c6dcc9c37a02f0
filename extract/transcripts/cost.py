"""The cost of a paid engine: the user sees it and agrees to it before the first request."""

from __future__ import annotations

from dataclasses import dataclass

from ser_memory.common.console import agree
from ser_memory.common.errors import UsageError
from ser_memory.common.reporting import notice


@dataclass(frozen=True)
class Spending:
    """What the user allows; amounts are in the currency of the price."""

    price_per_hour: float | None = None  # of audio
    most: float | None = None  # for one run on one corpus
    agreed: bool = False  # --yes

    def agree(self, engine: str, recordings: int, seconds: float) -> None:
        """Report hours, price and total, and return if the user agrees.

        Raises UsageError without a price, above the limit, or if there is no terminal to ask at; SerError if the
        answer is no.
        """
        if self.price_per_hour is None:
            raise UsageError(
                f"{engine} costs money per hour of audio: give the price of an hour with --price-per-hour AMOUNT "
                "(see your price list), so that the total is known before anything is sent."
            )
        hours = seconds / 3600
        total = hours * self.price_per_hour
        notice(
            f"{engine}: {recordings:,} recordings, {hours:,.2f} h of audio, {self.price_per_hour:g} per hour: "
            f"{total:,.2f} in total."
        )
        if self.most is not None and total > self.most:
            raise UsageError(
                f"{total:,.2f} would exceed --max-cost {self.most:g}: allow more, or transcribe fewer utterances "
                "with --limit N."
            )
        if not self.agreed:
            agree("Send them?", "this cost")
