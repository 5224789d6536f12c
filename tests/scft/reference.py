"""SCFT in plain torch: one process, one whole padded batch at a time, no engine."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llmemb import contrastive
from llmemb.encoder.folder import EncoderFolder
from llmemb.encoder.torch_engine import load_tokenizer, pad
from llmemb.scft.batches import global_batch
from llmemb.scft.config import ScftConfig
from llmemb.scft.items import ItemTexts
from llmemb.scft.model import make_model, trainable
from llmemb.scft.training import learning_rate


@dataclass(frozen=True)
class Reference:
    """Of each step the loss and the gradients before clipping; the weights and temperature at the end."""

    losses: list[float]
    gradients: list[dict[str, Tensor]]
    weights: dict[str, Tensor]
    temperature: float


def open_items(config: ScftConfig, path: Path) -> ItemTexts:
    folder = EncoderFolder.read(Path(config.base_model))
    return ItemTexts(path, config.prompt, load_tokenizer(folder.path), max_seq_len=folder.max_seq_len)


def train(config: ScftConfig, items: ItemTexts, trained: np.ndarray, *, num_steps: int) -> Reference:
    """InfoNCE with a trained temperature and clipping, as the config says.

    Args:
        trained: The items that are not held out.
    """
    encoder = make_model(EncoderFolder.read(Path(config.base_model)), config, precision="fp32")
    parameters = trainable(encoder)
    log_temperature = torch.tensor(config.loss.temperature).log().requires_grad_()
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=config.optimizer.weight_decay)
    own = torch.optim.AdamW([log_temperature], weight_decay=0.0)
    losses, gradients = [], []
    for step in range(num_steps):
        numbers = batch_numbers(step, config)
        loss = torch.stack(
            [_batch_loss(number, config, encoder, items, trained, log_temperature.exp()) for number in numbers]
        ).mean()
        optimizer.zero_grad()
        own.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.optimizer.max_gradient_norm)
        rate = learning_rate(step, max_steps=config.max_steps, config=config.optimizer)
        for each in (optimizer, own):
            each.param_groups[0]["lr"] = rate
            each.step()
    weights = {name: parameter.detach() for name, parameter in parameters.items()}
    return Reference(losses, gradients, weights, float(log_temperature.detach().exp()))


def batch_numbers(step: int, config: ScftConfig) -> range:
    """The global batches of a step counted from 0."""
    each = config.optimizer.batches_per_step
    return range(step * each, (step + 1) * each)


def _batch_loss(number: int, config: ScftConfig, encoder, items: ItemTexts, trained: np.ndarray, temperature) -> Tensor:
    batch = global_batch(number, seed=config.seed, num_items=len(trained), batch_size=config.batch_size)
    rows = trained[batch.items]
    views = items.views(rows, seed=config.seed, epoch=batch.epoch, drop_ratio=config.views.drop_ratio)
    ids, mask = pad(views, "cpu")
    states = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = torch.stack(
        [state[: int(own_mask.sum())].mean(dim=0) for state, own_mask in zip(states, mask, strict=True)]
    )
    equal = torch.from_numpy(items.equal(rows))
    return contrastive.info_nce(*pooled.view(2, len(rows), -1), temperature=temperature, equal=equal)
