"""Watching the encoders: how fast, how busy, how much padding, each and together."""

import time
from typing import Any, NamedTuple


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


class Meter:
    """An actor that the encoders tell of each bucket's work so far; a bucket that is done again counts once."""

    def __init__(self) -> None:
        self._buckets: dict[int, tuple[str, Work]] = {}
        self._started: dict[str, float] = {}
        self._last = 0.0

    def tell(self, encoder: str, bucket: int, work: Work) -> None:
        self._last = time.monotonic()
        self._started.setdefault(encoder, self._last - work.seconds)
        self._buckets[bucket] = (encoder, work)

    def read(self) -> tuple[int, int | None, dict[str, Any]]:
        """Items done, and figures, for a progress bar."""
        total = self.total()
        seconds = self._last - min(self._started.values(), default=self._last)
        if not total.items or seconds <= 0:
            return total.items, None, {}
        busy = [encoder["busy"] for encoder in self.encoders()]
        return (
            total.items,
            None,
            {
                "items/s": f"{total.items / seconds:,.0f}",
                "tokens/s": f"{total.tokens / seconds:,.0f}",
                "padding": f"{total.padding_share:.1%}",
                "busy": f"{sum(busy) / len(busy):.0%} of {len(busy)}",
            },
        )

    def total(self) -> Work:
        return _sum([work for _, work in self._buckets.values()])

    def encoders(self) -> list[dict[str, Any]]:
        """Per encoder: its name, work, and the share of the time since its start that it was encoding."""
        result = []
        for name, started in self._started.items():
            work = _sum([work for encoder, work in self._buckets.values() if encoder == name])
            result.append({"encoder": name, "work": work, "busy": work.seconds / max(1e-9, self._last - started)})
        return result


def describe(total: Work, encoders: list[dict[str, Any]], seconds: float, price_per_hour: float | None) -> str:
    """The summary: all encoders together, what a million items cost, and each encoder."""
    cost = ""
    if price_per_hour is not None:
        cost = f", {price_per_hour * seconds / 3600 / total.items * 1e6:,.2f} per million items"
    lines = [
        f"embed: {total.items:,} items, {total.tokens:,} tokens in {seconds:,.0f} s with start-up, "
        f"padding {total.padding_share:.1%}{cost}"
    ]
    for encoder in encoders:
        work = encoder["work"]
        lines.append(
            f"  encoder {encoder['encoder']}: {work.items:,} items, {work.items / work.seconds:,.0f} items/s, "
            f"{work.tokens / work.seconds:,.0f} tokens/s, busy {encoder['busy']:.0%}"
        )
    return "\n".join(lines)


def _sum(parts: list[Work]) -> Work:
    total = Work()
    for part in parts:
        total = total.plus(part)
    return total
