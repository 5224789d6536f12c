"""TSLRec, as the paper compares it: a language model reads sequences of IDs and tells what kinds of items they are of.

Kinds are latent: clusters of an ID-only recommender's item embeddings. Each item has a trainable vector that a
projector puts before a frozen language model; from the vectors of a user's history its pooled state has to tell how
often each kind occurs. Then each item alone is read, and the states' principal components are where the recommender's
trainable table starts. No text is read, so that causal and encoder-only models do the same.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from llmemb.data.sequences import Sequences
from llmemb.encoder.folder import local_folder
from llmemb.progress import Tell
from llmemb.rat.methods.language_model import ItemVectors, LanguageModel
from llmemb.rat.methods.llm2x import table_from_vectors
from llmemb.rat.methods.method import Inputs, Method

ITEMS_PER_CHUNK = 256


def learn_tslrec_vectors(inputs: Inputs, device: torch.device, tell: Tell) -> Float[Tensor, "item hidden"]:
    """The language model's state of each item, ``hidden_size`` wide.

    Raises:
        InputError: no such model.
        FloatingPointError: an epoch's mean loss is not finite.
    """
    config, settings = inputs.config, inputs.config.tslrec
    assert config.base_model is not None
    assert inputs.collaborative is not None
    categories = latent_categories(
        inputs.collaborative.item_embeddings.numpy(), number=settings.num_categories, seed=config.seed
    )
    torch.manual_seed(config.seed)
    with local_folder(config.base_model) as path:
        model = LanguageModel(path, generates=False).to(device)
    vectors = ItemVectors(inputs.dataset.num_items, config.model.hidden_dim, into=model).to(device)
    head = nn.Linear(model.hidden_size, int(categories.max()) + 1).to(device)
    trained = [*vectors.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    train = inputs.dataset.train
    users = np.flatnonzero(train.lengths > 0)
    histories = train.newest(np.minimum(train.lengths, min(settings.max_items, model.max_seq_len))).take(users)
    for epoch in range(settings.epochs):
        losses = []
        for batch in _batches(histories, settings.batch_size, np.random.default_rng([config.seed, epoch])):
            items, mask = _padded(histories.take(batch), device)
            state = model.read(vectors((items - 1).clamp(min=0)), mask)
            frequencies = torch.from_numpy(category_frequencies(histories.take(batch), categories)).to(state)
            loss = cross_entropy(head(state), frequencies)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        mean_loss = float(torch.stack(losses).mean())
        if not math.isfinite(mean_loss):
            raise FloatingPointError(f"epoch {epoch + 1}: loss {mean_loss}; a lower tslrec.learning_rate may help")
        tell(epoch + 1, settings.epochs, {"loss": mean_loss})
    return _read_items(model, vectors)


def latent_categories(embeddings: NDArray[np.float32], *, number: int, seed: int) -> NDArray[np.int64]:
    """int64 ``[items]``: the k-means cluster of each item's embedding; at most as many as there are items."""
    from sklearn.cluster import KMeans

    clusters = KMeans(min(number, len(embeddings)), n_init=1, random_state=seed).fit(embeddings)
    return clusters.labels_.astype(np.int64)


def category_frequencies(histories: Sequences, categories: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 ``[users, categories]``: the share of each category in each history."""
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    counts = np.zeros((len(histories), categories.max() + 1))
    np.add.at(counts, (users, categories[histories.items - 1]), 1)
    return counts / histories.lengths[:, None]


@torch.no_grad()
def _read_items(model: LanguageModel, vectors: ItemVectors) -> Float[Tensor, "item hidden"]:
    """The state of each item read alone."""
    every = torch.arange(len(vectors.vectors.weight), device=vectors.vectors.weight.device)
    states = []
    for items in every.split(ITEMS_PER_CHUNK):
        alone = items[:, None]
        states.append(model.read(vectors(alone), torch.ones_like(alone)).cpu())
    return torch.cat(states)


def _batches(histories: Sequences, batch_size: int, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """Users with histories of like length together, so that little is padded, in random order."""
    by_length = np.lexsort((random.random(len(histories)), histories.lengths))
    batches = np.array_split(by_length, -(-len(by_length) // batch_size))
    return [batches[number] for number in random.permutation(len(batches))]


def _padded(histories: Sequences, device: torch.device) -> tuple[Tensor, Tensor]:
    """int64 item indices ``[users, longest]``, padded on the right with 0, and the mask, 1 at items."""
    real = np.arange(histories.lengths.max()) < histories.lengths[:, None]
    items = np.zeros(real.shape, dtype=np.int64)
    items[real] = histories.items
    return torch.from_numpy(items).to(device), torch.from_numpy(real.astype(np.int64)).to(device)


def _table(inputs: Inputs) -> nn.Module:
    assert inputs.item_vectors is not None
    return table_from_vectors(
        inputs.item_vectors,
        inputs.config.model.hidden_dim,
        scaling="standardise",
        length=inputs.config.tslrec.start_length,
    )


TSLREC = Method("TSLRec", _table, learn_vectors=learn_tslrec_vectors)
