"""SAID (Hu et al., WWW 2024): item vectors from which a language model can generate the item's text.

Every item has a trainable vector; a projector puts it before a frozen language model, which has to generate the item's
prompt from it. The vectors then are the recommender's item table, frozen as in the paper unless ``said.freeze`` is
false. What an encoder-only model does is said in :meth:`LanguageModel.text_loss`.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmemb.encoder.folder import local_folder
from llmemb.encoder.torch_engine import pad, tokenize
from llmemb.errors import InputError
from llmemb.progress import Tell
from llmemb.rat.methods.language_model import ItemVectors, LanguageModel
from llmemb.rat.methods.method import Inputs, Method
from llmemb.srs.item_table import FrozenTable, IdTable

SHARED_RATE = 0.3


def learn_said_vectors(inputs: Inputs, device: torch.device, tell: Tell) -> Float[Tensor, "item dim"]:
    """The vectors, ``hidden_dim`` wide; items without any text keep where they started.

    Raises:
        InputError: no such model, attributes that the catalogue lacks, or no item with text.
        FloatingPointError: an epoch's mean loss is not finite.
    """
    config, dataset = inputs.config, inputs.dataset
    assert config.base_model is not None
    assert config.prompt is not None
    config.prompt.check_columns(dataset.item_columns, config.dataset)
    texts = config.prompt.render_batch(dataset.items(config.prompt.columns))
    rows = np.array([row for row, text in enumerate(texts) if text])
    if not len(rows):
        raise InputError(f"dataset: {config.dataset}: no item has a value for {', '.join(config.prompt.columns)}")
    torch.manual_seed(config.seed)
    with local_folder(config.base_model) as path:
        model = LanguageModel(path, generates=True).to(device)
    tokens = tokenize(
        model.tokenizer, [texts[row] or "" for row in rows], min(config.said.max_tokens, model.max_seq_len)
    )
    vectors = ItemVectors(dataset.num_items, config.model.hidden_dim, into=model).to(device)
    if model.token_head is not None:
        counts = np.bincount(np.concatenate(tokens), minlength=model.token_embeddings.num_embeddings)
        model.token_head.start_at_frequencies(torch.from_numpy(counts).to(device))
    shared = [*vectors.projector.parameters(), *(each for each in model.parameters() if each.requires_grad)]
    rate = config.said.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": vectors.vectors.parameters()},
        {"params": shared, "lr": rate * SHARED_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    for epoch in range(config.said.epochs):
        losses = []
        order = np.random.default_rng([config.seed, epoch]).permutation(len(rows))
        for batch in np.array_split(order, -(-len(order) // config.said.batch_size)):
            items = torch.from_numpy(rows[batch]).to(device)
            loss = model.text_loss(vectors(items), *pad([tokens[place] for place in batch], device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        mean_loss = float(torch.stack(losses).mean())
        if not math.isfinite(mean_loss):
            raise FloatingPointError(f"epoch {epoch + 1}: loss {mean_loss}; a lower said.learning_rate may help")
        tell(epoch + 1, config.said.epochs, {"loss": mean_loss})
    return vectors.vectors.weight.detach().cpu()


def _table(inputs: Inputs) -> nn.Module:
    assert inputs.item_vectors is not None
    return FrozenTable(inputs.item_vectors) if inputs.config.said.freeze else IdTable.starting_at(inputs.item_vectors)


SAID = Method("SAID", _table, learn_vectors=learn_said_vectors)
