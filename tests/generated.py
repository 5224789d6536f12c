"""Made up, and the same each time: a tiny encoder, and catalogues of any size."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from llmemb import storage
from llmemb.buckets import buckets

if TYPE_CHECKING:
    import polars as pl

_WORDS = "title brand category price is a an very long red blue green table lamp chair desk acme nova 10 20 ; ."
WORDS = _WORDS.split()


def write_tiny_encoder(path: Path) -> Path:
    """A random two-layer BERT of 32 dimensions with a word-level tokenizer, as a sentence-transformers folder."""
    import torch
    from transformers import BertConfig, BertModel

    from llmemb.encoder.folder import write_layout

    _tiny_tokenizer().save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(path)
    write_layout(path, embedding_dim=32, pooling="mean", normalize=True, max_seq_len=64)
    return path


def _tiny_tokenizer() -> Any:
    """Whole words, and four special tokens before them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.model_max_length = 64
    return fast


def hashed_titles(num_items: int, *, start: int = 0, night: int = 0) -> Iterator[tuple[str, str]]:
    """Ids and titles of three to thirteen words, each drawn by the hash of its id and of the night."""
    for index in range(start, start + num_items):
        digest = hashlib.blake2b(f"{index} {night}".encode(), digest_size=14).digest()
        yield f"item-{index}", " ".join(WORDS[byte % len(WORDS)] for byte in digest[: 3 + digest[-1] % 11])


def write_catalogue(folder: Path, titles: Mapping[str, str | None], *, num_files: int = 8, **columns: Any) -> str:
    """A dataset of items with a title each, as prepare cuts it, and no interactions."""
    item_ids = list(titles)
    table = pa.table({"item_id": item_ids, "title": pa.array(titles.values(), pa.string()), **columns})
    files = buckets(item_ids, num_files)
    entries = [
        storage.write_table(str(folder / "items" / f"part-{index:05d}.parquet"), table.filter(pa.array(files == index)))
        for index in range(num_files)
    ]
    info = {"counts": {"items": len(item_ids)}, "files": {"items": entries}}
    storage.write_json(str(folder / "dataset.json"), info | {"fingerprint": storage.fingerprint(info)})
    return str(folder)


def write_tiny_decoder(path: Path, kind: str = "llama", *, with_head: bool = True, **settings: Any) -> Path:
    """A random two-layer decoder of 32 dimensions with the same tokenizer; without its head it cannot generate.

    Args:
        settings: More of its config.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    _tiny_tokenizer().save_pretrained(path)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=4 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        initializer_range=0.5,  # with the usual 0.02 all its answers are alike
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=0,
        **settings,
    )
    (AutoModelForCausalLM if with_head else AutoModel).from_config(config).save_pretrained(path)
    return path


def prepare_dataset(folder: Path, items: "pl.DataFrame", interactions: "pl.DataFrame") -> str:
    """The dataset of two tables, of which everything is kept, ordered by ``timestamp``."""
    from llmemb.data.config import PrepareConfig
    from llmemb.data.prepare import run_prepare

    items.write_parquet(folder / "items.parquet")
    interactions.write_parquet(folder / "interactions.parquet")
    settings = {
        "items": str(folder / "items.parquet"),
        "interactions": str(folder / "interactions.parquet"),
        "columns": {"order_by": "timestamp"},
        "filters": {"min_user_interactions": 1, "min_item_interactions": 1},
        "output": str(folder / "dataset"),
    }
    run_prepare(PrepareConfig.parse(settings))
    return settings["output"]
