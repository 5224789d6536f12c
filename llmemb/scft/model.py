"""The language model as SCFT trains it: one vector per text, with adapters or every weight trainable."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmemb.encoder import packed
from llmemb.encoder.batching import packed_batches, token_budget_batches
from llmemb.encoder.folder import EncoderFolder, Precision
from llmemb.encoder.pooling import PoolingMode, pool
from llmemb.encoder.torch_engine import load_model, pad
from llmemb.errors import InputError
from llmemb.scft.config import ScftConfig


class PooledEncoder(nn.Module):
    """A language model whose forward pass gives one vector per text, ``[texts, dim]`` in float32.

    Attributes:
        packs: Whether texts go end to end, without padding; :func:`llmemb.scft.engine.make_engine` finds out.
    """

    def __init__(self, model: nn.Module, pooling: PoolingMode) -> None:
        super().__init__()
        self.model: Any = model
        self.packs = False
        self._pooling = pooling

    def forward(self, token_ids: list[list[int]]) -> Tensor:
        device = next(self.model.parameters()).device
        if self.packs:
            return packed.embed_packed(self.model, packed.pack(token_ids, device), self._pooling, normalized=False)
        ids, mask = pad(token_ids, device)
        return pool(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, self._pooling)

    def batches(self, lengths: NDArray[np.int64], max_tokens: int) -> list[NDArray[np.int64]]:
        """Rows in batches within a token budget, padding counted where there is any."""
        return (packed_batches if self.packs else token_budget_batches)(lengths, max_tokens)


def make_model(folder: EncoderFolder, config: ScftConfig, *, precision: Precision) -> PooledEncoder:
    """The base model in ``precision``, with what is trained of it: the same for the same seed.

    DeepSpeed trains a float32 copy, which it makes of these weights after it has rounded them to its precision: in 16
    bits a float32 base loses its low bits at the start, however it was loaded.
    """
    import peft

    # Dropout would make the loss depend on how a batch is cut into chunks; the views are the augmentation.
    model = load_model(folder, precision=precision, dropout=False)
    if config.engine.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.tuning == "lora":
        torch.manual_seed(config.seed)
        try:
            model = peft.get_peft_model(model, _adapters(config))
        except ValueError as error:
            raise InputError(f"lora.target_modules: {folder.path}: {error}") from error
    return PooledEncoder(model, config.pooling or folder.pooling)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name, in an order that all workers share."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _adapters(config: ScftConfig) -> Any:
    import peft

    return peft.LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
    )
