from llmemb import storage


def test_fingerprint_ignores_key_order_and_nothing_else() -> None:
    assert storage.fingerprint({"a": 1, "b": [2, 3]}) == storage.fingerprint({"b": [2, 3], "a": 1})
    assert storage.fingerprint({"a": 1, "b": [2, 3]}) != storage.fingerprint({"a": 1, "b": [3, 2]})
