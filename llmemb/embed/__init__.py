"""Embedding the catalogue: every item's prompt through the encoder, into an immutable Parquet snapshot."""
