import errno
import os
from types import SimpleNamespace

import pytest

from llmemb.embed import records, shards
from llmemb.embed.changes import Changes
from llmemb.embed.plan import EncoderPlan, Parent
from llmemb.embed.shards import EncodeBucket
from llmemb.encoder.folder import EncoderFolder
from llmemb.errors import InputError, TemporaryError


def test_what_is_wrong_with_an_encoder_is_raised_by_its_first_bucket_and_not_by_its_constructor(tiny_encoder):
    plan = EncoderPlan(
        uri=str(tiny_encoder),
        fingerprint=EncoderFolder.read(tiny_encoder).fingerprint(),
        kind="torch",
        max_seq_len=64,
        precision="fp32",
        normalize=True,
        dimension=33,
        dtype="float32",
        tokens_per_batch=64,
        threads=1,
        device="cpu",
        gpus_per_worker=1,
        compiled=False,
    )
    encode = EncodeBucket(plan, None)
    with pytest.raises(InputError, match="makes 32; expected at most so many"):
        encode({"bucket": 0, "tokens": b""})


def test_a_store_that_is_gone_while_an_encoder_loads_is_told_by_the_first_bucket(monkeypatch):
    def fails(_: object) -> None:
        raise TemporaryError("s3://bucket: no answer")

    monkeypatch.setattr(shards, "_load_engine", fails)
    encode = EncodeBucket(SimpleNamespace(), None)
    with pytest.raises(TemporaryError, match="no answer"):
        encode({"bucket": 0, "tokens": b""})


def test_no_room_for_the_refused_items_is_one_line(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records.pq, "ParquetWriter", full)
    plan = SimpleNamespace(uri=str(tmp_path))
    assert records.write_refused(plan, []) is None
    with pytest.raises(InputError, match="No space left on device; TMPDIR names another folder"):
        records.write_refused(plan, [0])


def test_a_parents_manifest_that_leads_outside_is_not_copied_from(tmp_path):
    (tmp_path / "outside").write_bytes(b"secret")
    parent = Parent(str(tmp_path / "parent"), ({"file": "../outside"},), 4)
    plan = SimpleNamespace(num_buckets=1, shard_uri=lambda _: str(tmp_path / "copied"))
    with pytest.raises(InputError, match="expected a file of the folder itself"):
        shards._make_of_parents(parent, plan, 0, Changes({}))
    assert not (tmp_path / "copied").exists()
