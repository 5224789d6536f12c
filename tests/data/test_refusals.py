"""Refused rows, counted by reason."""

from llmemb.data.refusals import Refusals


def test_sifting_counts_all_rows_and_refuses_those_with_a_reason() -> None:
    refusals = Refusals()
    usable = refusals.sift("f.csv", [2, 5, 6, 9], {3: "no user_id", 1: "no item_id"})
    assert usable.tolist() == [True, False, True, False]
    assert (refusals.rows, refusals.total) == (4, 2)
    assert [(example["row"], example["reason"]) for example in refusals.examples] == [
        (5, "no item_id"),
        (9, "no user_id"),
    ]
    assert refusals.sift("f.csv", [], {}).tolist() == []
    assert refusals.sift("f.csv", range(10, 20), dict.fromkeys(range(10), "no user_id")).sum() == 0
    assert refusals.to_json()["counts"] == {"no item_id": 1, "no user_id": 11}
    assert [example["row"] for example in refusals.examples] == [5, 9, 10, 11]
