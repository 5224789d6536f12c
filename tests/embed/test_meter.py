import time

import pytest

from llmemb.embed.meter import Meter, Stint, Work, describe

FIRST, SECOND = Work(100, 1000, 1250, 8.0), Work(50, 500, 500, 6.0)


def test_the_summary_says_what_each_encoder_did_and_what_a_million_items_cost():
    stints = [Stint("a", 0.0, 10.0, FIRST), Stint("b", 5.0, 13.0, SECOND), Stint("a", 10.0, 20.0, SECOND)]
    said = describe(stints, 36.0, price_per_hour=4.0)
    # 200 items, 2,000 of 2,250 tokens; 4 an hour for 36 s is 0.04 for 200 items.
    assert "200 items, 2,000 tokens in 36 s with start-up, padding 11.1%, 200.00 per million items" in said
    assert "encoder a: 150 items, 8 items/s, 75 tokens/s, busy 70% of 20 s" in said
    assert "encoder b: 50 items, 6 items/s, 62 tokens/s, busy 75% of 8 s" in said
    assert "per million" not in describe(stints, 36.0, price_per_hour=None)


def test_a_bucket_that_is_done_again_counts_once():
    meter, now = Meter(), time.time()
    assert meter.read() == (0, None, {})
    meter.tell(0, Stint("a", now - 10, now, FIRST))
    meter.tell(1, Stint("b", now - 10, now, SECOND))
    meter.tell(0, Stint("c", now - 10, now, FIRST))
    done, total, figures = meter.read()
    assert (done, total) == (150, None)
    assert figures["padding"] == 1 - 1500 / 1750
    assert figures["busy"] == pytest.approx(14 / 10 / 2, rel=0.1)
    assert {name: str(figures[name]) for name in ("padding", "busy")} == {"padding": "14.3%", "busy": "70%"}
    assert figures["tokens/s"] == pytest.approx(1500 / 10, rel=0.1)
