"""A frozen language model that is given learnt item vectors in place of tokens (SAID, TSLRec)."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from llmemb.encoder.folder import EncoderFolder
from llmemb.encoder.pooling import pool
from llmemb.encoder.torch_engine import load_model, load_tokenizer
from llmemb.errors import InputError

PROBE_TOKENS = 4
TOKEN_LENGTH, TOKEN_GAIN = 3.0, 0.1
VECTOR_INIT_STD = 0.1  # small, so that what is learnt soon outweighs where a vector started


class LanguageModel(nn.Module):
    """The model of a folder, frozen: gradients reach what it is given and no further.

    Args:
        generates: Whether its next-token head is needed. An encoder-only model has none; see :meth:`text_loss`.

    Attributes:
        causal: Whether its states depend on nothing after their token; found by trying.

    Raises:
        InputError: no model there, or a causal one without the head that generates.
    """

    def __init__(self, path: Path, *, generates: bool) -> None:
        super().__init__()
        folder = EncoderFolder.read(path)
        self.tokenizer = load_tokenizer(path)
        self.max_seq_len, self._pooling = folder.max_seq_len, folder.pooling
        self.model: Any = load_model(folder, precision="fp32")
        self.causal = is_causal(self.model)
        self.hidden_size: int = self.model.config.get_text_config().hidden_size
        self.generator: Any = None
        if generates and self.causal:
            del self.model  # one of them in memory at a time
            self.generator = _load_generator(path)
            self.model = self.generator.get_decoder()
        self.requires_grad_(False).eval()
        # An encoder-only model's folder has no head: one of the form that BERT has for masked tokens.
        self.token_head = TokenHead(self.token_embeddings) if generates and not self.causal else None

    @property
    def token_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    @property
    def token_scale(self) -> float:
        """The deviation of its token embeddings' values: what it is used to read. Gemma's layer scales its weights."""
        every = torch.arange(self.token_embeddings.num_embeddings, device=self.token_embeddings.weight.device)
        return float(self.token_embeddings(every).std())

    def read(
        self, vectors: Float[Tensor, "batch seq hidden"], mask: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch hidden"]:
        """The pooled states of sequences of vectors, padded on the right."""
        states = self.model(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
        return pool(states, mask, self._pooling)

    def text_loss(
        self, vectors: Float[Tensor, "batch hidden"], tokens: Int[Tensor, "batch seq"], mask: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, ""]:
        """How badly the model tells each item's text from its vector, in nats per token.

        A causal model reads the vector and then generates the text token by token. An encoder-only one cannot: it reads
        the vector alone, and its state, through a trained :class:`TokenHead`, tells which tokens the text has, in any
        order.
        """
        real = mask.bool()
        if self.causal:
            assert self.generator is not None
            read = torch.cat([vectors[:, None], self.token_embeddings(tokens[:, :-1])], dim=1)
            # The whole model's, since some (Gemma 2, Cohere, Granite) scale or cap what their head says.
            logits = self.generator(inputs_embeds=read, attention_mask=mask).logits  # the vector at token 0
            log_probabilities = log_softmax(logits.float(), dim=-1)
            return -log_probabilities.gather(2, tokens[:, :, None])[:, :, 0][real].mean()
        assert self.token_head is not None
        state = self.read(vectors[:, None], torch.ones_like(mask[:, :1]))
        log_probabilities = log_softmax(self.token_head(state), dim=-1)
        return -log_probabilities.gather(1, tokens)[real].mean()


class TokenHead(nn.Module):
    """Logits of all tokens from a state: as BERT tells a masked token, through its own token embeddings.

    Attributes:
        bias: ``[token]``, zero at first; see :meth:`start_at_frequencies`.
    """

    vectors: Tensor

    def __init__(self, tokens: nn.Embedding) -> None:
        super().__init__()
        num_tokens, dim = tokens.weight.shape
        norm = nn.LayerNorm(dim)
        nn.init.constant_(norm.weight, TOKEN_GAIN)  # at first the bias speaks
        self.state = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), norm)
        # Of one length, roughly, however small a model's are: logits of a few nats are in reach.
        vectors = tokens.weight.detach() / (tokens.weight.detach().std() * dim**0.5) * TOKEN_LENGTH
        self.register_buffer("vectors", vectors, persistent=False)
        self.bias = nn.Parameter(torch.zeros(num_tokens))

    def start_at_frequencies(self, counts: Int[Tensor, " token"]) -> None:
        """Sets the bias to the tokens' log frequencies, so that no vector has to learn which are common."""
        self.bias.data.copy_(torch.log((counts + 1) / (counts + 1).sum()))

    def forward(self, states: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch token"]:
        return self.state(states) @ self.vectors.T + self.bias


class ItemVectors(nn.Module):
    """A trainable vector per item, and the projector that makes of it what a language model can read.

    Its outputs are at first about as large as the model's token embeddings.
    """

    def __init__(self, num_items: int, dim: int, *, into: LanguageModel) -> None:
        super().__init__()
        self.vectors = nn.Embedding(num_items, dim)
        self.projector = nn.Linear(dim, into.hidden_size)
        nn.init.normal_(self.vectors.weight, std=VECTOR_INIT_STD)
        nn.init.normal_(self.projector.weight, std=into.token_scale / (VECTOR_INIT_STD * dim**0.5))
        nn.init.zeros_(self.projector.bias)

    def forward(self, rows: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        return self.projector(self.vectors(rows))


@torch.no_grad()
def is_causal(model: nn.Module) -> bool:
    """Whether a model's first state does not feel its last token."""
    tokens = torch.arange(PROBE_TOKENS)[None].repeat(2, 1)
    tokens[1, -1] = 0
    first = model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[:, 0]
    return bool(torch.allclose(first[0], first[1], rtol=0, atol=1e-5))


def _load_generator(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path, trust_remote_code=False, use_safetensors=True, output_loading_info=True, dtype=torch.float32
    )
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:
        raise InputError(
            f"base_model: {path} has no {missing[0]}: method said generates text; expected a causal model saved "
            "with its language modelling head"
        )
    return model
