"""Watching the encoders: how fast, how busy, how much padding, each and together."""

import time
from typing import NamedTuple

from llmemb.progress import Figure


class Work(NamedTuple):
    """What an encoder did: items, their tokens, the tokens held with padding, and seconds in the encoder."""

    items: int = 0
    tokens: int = 0
    held_tokens: int = 0
    seconds: float = 0.0

    def plus(self, other: "Work") -> "Work":
        return Work(
            self.items + other.items,
            self.tokens + other.tokens,
            self.held_tokens + other.held_tokens,
            self.seconds + other.seconds,
        )

    @property
    def padding_share(self) -> float:
        return 1 - self.tokens / self.held_tokens if self.held_tokens else 0.0


class Stint(NamedTuple):
    """A bucket's work, by which encoder, and from when to when on that one's clock."""

    encoder: str
    started: float
    ended: float
    work: tuple[int, int, int, float]


class Meter:
    """An actor that the encoders tell of each bucket's work so far; a bucket that is done again counts once."""

    def __init__(self) -> None:
        self._stints: dict[int, Stint] = {}

    def tell(self, bucket: int, stint: Stint) -> None:
        self._stints[bucket] = stint

    def read(self) -> tuple[int, int | None, dict[str, float]]:
        """Items done, and figures, for a progress bar."""
        stints = list(self._stints.values())
        total = total_work(stints)
        seconds = time.time() - min((stint.started for stint in stints), default=time.time())
        if not total.items or seconds <= 0:
            return total.items, None, {}
        figures: dict[str, float] = {
            "items/s": Figure(total.items / seconds, ",.0f"),
            "tokens/s": Figure(total.tokens / seconds, ",.0f"),
            "padding": Figure(total.padding_share, ".1%"),
            "busy": Figure(total.seconds / seconds / len({stint.encoder for stint in stints}), ".0%"),
        }
        return total.items, None, figures


def total_work(stints: list[Stint]) -> Work:
    total = Work()
    for stint in stints:
        total = total.plus(Work(*stint.work))
    return total


def describe(stints: list[Stint], seconds: float, price_per_hour: float | None) -> str:
    """The summary: all encoders together, what a million items cost, and each encoder."""
    total = total_work(stints)
    cost = ""
    if price_per_hour is not None:
        cost = f", {price_per_hour * seconds / 3600 / total.items * 1e6:,.2f} per million items"
    lines = [
        f"embed: {total.items:,} items, {total.tokens:,} tokens in {seconds:,.0f} s with start-up, "
        f"padding {total.padding_share:.1%}{cost}"
    ]
    for encoder in sorted({stint.encoder for stint in stints}):
        mine = [stint for stint in stints if stint.encoder == encoder]
        work = total_work(mine)
        up = max(1e-9, max(stint.ended for stint in mine) - min(stint.started for stint in mine))
        lines.append(
            f"  encoder {encoder}: {work.items:,} items, {work.items / up:,.0f} items/s, "
            f"{work.tokens / up:,.0f} tokens/s, busy {work.seconds / up:.0%} of {up:,.0f} s"
        )
    return "\n".join(lines)
