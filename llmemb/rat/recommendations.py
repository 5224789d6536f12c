"""Recommendations for every user of a dataset, as one Parquet file."""

from collections.abc import Iterator

import pyarrow as pa

from llmemb import progress, storage
from llmemb.data.dataset import Dataset
from llmemb.rat.recommender import Recommender

USERS_PER_CHUNK = 4096
SCHEMA = pa.schema([("user_id", pa.string()), ("item_ids", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))])


def write_recommendations(
    recommender: Recommender, dataset: Dataset, uri: str, *, k: int, filter_seen: bool = True
) -> int:
    """Writes ``user_id``, ``item_ids`` (the best first) and their ``scores``, after each user's whole sequence.

    Items that the recommender does not know are passed over; a user without any other has empty lists. The file is
    there whole or not at all.

    Returns:
        The number of users that something is recommended to.
    """
    answered = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal answered
        sequences, item_ids, user_ids = dataset.sequences, dataset.item_ids, dataset.user_ids
        with progress.bar("recommend", len(user_ids), "users") as bar:
            for start in range(0, max(1, len(user_ids)), USERS_PER_CHUNK):
                users = range(start, min(start + USERS_PER_CHUNK, len(user_ids)))
                histories = [[item_ids[item - 1] for item in sequences[user].tolist()] for user in users]
                ranked = recommender.recommend(histories, k=k, filter_seen=filter_seen, skip_unknown=True)
                answered += sum(map(bool, ranked))
                bar.update(users.stop)
                columns = [
                    user_ids[users.start : users.stop],
                    [[item for item, _ in items] for items in ranked],
                    [[score for _, score in items] for items in ranked],
                ]
                yield pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)

    storage.write_tables(uri, tables())
    return answered
