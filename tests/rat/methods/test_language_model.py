"""SAID and TSLRec with a random Llama and a random BERT."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmemb.data.dataset import Dataset
from llmemb.data.sequences import Sequences
from llmemb.errors import InputError
from llmemb.rat.config import RatConfig
from llmemb.rat.methods import language_model, tslrec
from llmemb.rat.methods.language_model import ItemVectors, LanguageModel
from llmemb.rat.methods.method import Collaborative, Inputs
from llmemb.rat.methods.said import learn_said_vectors
from llmemb.rat.methods.tslrec import category_frequencies, latent_categories, learn_tslrec_vectors
from tests.generated import WORDS, write_tiny_decoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return write_tiny_decoder(tmp_path_factory.mktemp("llama"))


def make_inputs(method: str, dataset: str, base_model: Path, **settings) -> Inputs:
    uris = {
        "dataset": dataset,
        "output": "o",
        "base_model": str(base_model),
        "prompt": {"attributes": ["title", "brand"]},
    }
    config = RatConfig.model_validate({**uris, "method": method, "model": {"hidden_dim": 8}, **settings})
    items = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 8))).float()
    return Inputs(config, Dataset.open(dataset), collaborative=Collaborative(items, {}))


def test_a_model_is_causal_if_its_states_do_not_feel_what_follows(llama, tiny_encoder):
    assert LanguageModel(llama, generates=True).causal
    assert not LanguageModel(tiny_encoder, generates=True).causal


def test_a_causal_model_is_held_once(llama, monkeypatch):
    held, load_model, load_generator = [], language_model.load_model, language_model._load_generator

    def watched(*arguments, **options):
        model = load_model(*arguments, **options)
        held[:] = [weakref.ref(parameter) for parameter in model.parameters()]
        return model

    def alone(path):
        assert not any(each() is not None for each in held)
        return load_generator(path)

    monkeypatch.setattr(language_model, "load_model", watched)
    monkeypatch.setattr(language_model, "_load_generator", alone)
    assert LanguageModel(llama, generates=True).generator is not None
    assert held


def test_a_causal_loss_is_that_of_generating_the_text(llama):
    model = LanguageModel(llama, generates=True)
    vectors, tokens = torch.randn(2, 32), torch.tensor([[5, 6, 7], [8, 9, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    expected = []
    for row in range(2):  # one by one, each token from what stands before it
        real = int(mask[row].sum())
        for place in range(real):
            read = torch.cat([vectors[row : row + 1], model.token_embeddings(tokens[row, :place])])[None]
            logits = model.generator.lm_head(model.model(inputs_embeds=read).last_hidden_state[0, -1])
            expected.append(-torch.log_softmax(logits, dim=0)[tokens[row, place]])
    torch.testing.assert_close(model.text_loss(vectors, tokens, mask), torch.stack(expected).mean())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("gemma2", {"final_logit_softcapping": 1.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("granite", {"logits_scaling": 4.0}),
    ],
)
def test_a_causal_loss_is_the_models_own(kind, settings, tmp_path):
    path = write_tiny_decoder(tmp_path, kind, **settings)
    model, own = LanguageModel(path, generates=True), AutoModelForCausalLM.from_pretrained(path)
    vectors, tokens = torch.randn(2, 32), torch.tensor([[5, 6, 7], [8, 9, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    read = torch.cat([vectors[:, None], own.get_input_embeddings()(tokens)], dim=1)
    labels = torch.cat([torch.full((2, 1), -100), tokens.where(mask.bool(), -100)], dim=1)  # it shifts them itself
    expected = own(inputs_embeds=read, attention_mask=torch.cat([mask[:, :1], mask], dim=1), labels=labels).loss
    torch.testing.assert_close(model.text_loss(vectors, tokens, mask), expected)


@pytest.mark.parametrize("kind", ["llama", "gemma", "gemma2", "gemma3_text"])
def test_item_vectors_start_as_large_as_what_the_model_reads(kind, tmp_path):
    model = LanguageModel(write_tiny_decoder(tmp_path, kind), generates=False)
    torch.manual_seed(0)
    items = ItemVectors(400, 64, into=model)(torch.arange(400))
    tokens = model.token_embeddings(torch.arange(1, 4 + len(WORDS)))
    assert (items.std() / tokens.std()).item() == pytest.approx(1, rel=0.1)


def test_an_encoder_only_model_tells_tokens_in_any_order(tiny_encoder):
    model = LanguageModel(tiny_encoder, generates=True)
    vectors, mask = torch.randn(1, 32), torch.ones(1, 3, dtype=torch.int64)
    one, other = (model.text_loss(vectors, torch.tensor([tokens]), mask) for tokens in ([5, 6, 7], [7, 5, 6]))
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, model.text_loss(vectors, torch.tensor([[5, 6, 8]]), mask))


@pytest.mark.parametrize("kind", ["causal", "encoder-only"])
def test_said_learns_to_tell_the_text_from_the_vectors(kind, llama, tiny_encoder, tiny_dataset):
    told = []
    inputs = make_inputs(
        "said", tiny_dataset, llama if kind == "causal" else tiny_encoder, said={"epochs": 40, "batch_size": 20}
    )
    vectors = learn_said_vectors(inputs, CPU, lambda done, total, figures: told.append(figures["loss"]))
    assert vectors.shape == (40, 8)
    assert told[-1] < told[0] - 0.2, told  # an encoder-only model begins at the tokens' frequencies


@pytest.mark.parametrize("kind", ["causal", "encoder-only"])
def test_a_learnt_vector_tells_its_own_text_and_not_anothers(kind, llama, tiny_encoder):
    torch.manual_seed(0)
    model = LanguageModel(llama if kind == "causal" else tiny_encoder, generates=True)
    items = ItemVectors(2, 8, into=model)
    tokens, mask, rows = torch.tensor([[5, 6, 7], [9, 8, 10]]), torch.ones(2, 3, dtype=torch.int64), torch.arange(2)
    frozen = [parameter.clone() for parameter in model.model.parameters()]
    optimizer = torch.optim.Adam([*items.parameters(), *(p for p in model.parameters() if p.requires_grad)], lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        model.text_loss(items(rows), tokens, mask).backward()
        optimizer.step()
    own, swapped = (float(model.text_loss(items(order), tokens, mask).detach()) for order in (rows, rows.flip(0)))
    assert own < swapped - 0.3
    assert all(torch.equal(new, old) for new, old in zip(model.model.parameters(), frozen, strict=True))


def test_said_refuses_a_causal_model_without_its_head(tmp_path):
    with pytest.raises(InputError, match=r"has no lm_head\.weight: method said generates text"):
        LanguageModel(write_tiny_decoder(tmp_path / "headless", with_head=False), generates=True)


def test_frequencies_are_the_shares_of_categories_in_each_history():
    histories = Sequences.from_lists([[1, 2, 3, 1], [3]])
    frequencies = category_frequencies(histories, np.array([0, 2, 1]))
    assert frequencies.tolist() == [[0.5, 0.25, 0.25], [0, 1, 0]]


def test_categories_are_clusters():
    embeddings = np.array([[0, 0], [0, 0.1], [5, 5], [5, 5.1]], dtype=np.float32)
    a, b, c, d = latent_categories(embeddings, number=2, seed=0)
    assert a == b != c == d
    assert len(latent_categories(embeddings, number=9, seed=0)) == 4


@pytest.mark.parametrize("kind", ["causal", "encoder-only"])
def test_tslrec_learns_to_tell_the_categories_of_a_history(kind, llama, tiny_encoder, tiny_dataset):
    told = []
    model = llama if kind == "causal" else tiny_encoder
    inputs = make_inputs("tslrec", tiny_dataset, model, tslrec={"epochs": 25, "num_categories": 4, "batch_size": 10})
    vectors = learn_tslrec_vectors(inputs, CPU, lambda done, total, figures: told.append(figures["loss"]))
    assert vectors.shape == (40, 32)
    assert told[-1] < told[0] - 0.05
    assert torch.isfinite(vectors).all()


@pytest.mark.parametrize("kind", ["causal", "encoder-only"])
def test_tslrec_tells_frequencies_from_what_the_model_makes_of_the_newest_items(
    kind, llama, tiny_encoder, tiny_dataset
):
    told, path = [], llama if kind == "causal" else tiny_encoder
    settings = {"epochs": 1, "num_categories": 3, "batch_size": 99, "max_items": 4}  # one step: nothing is learnt yet
    inputs = make_inputs("tslrec", tiny_dataset, path, tslrec=settings)
    learn_tslrec_vectors(inputs, CPU, lambda done, total, figures: told.append(figures["loss"]))
    categories = latent_categories(inputs.collaborative.item_embeddings.numpy(), number=3, seed=inputs.config.seed)
    torch.manual_seed(inputs.config.seed)
    model = LanguageModel(path, generates=False)
    vectors, head = ItemVectors(40, 8, into=model), torch.nn.Linear(32, 3)
    expected = []
    for user in range(30):
        newest = [int(item) for item in inputs.dataset.train[user]][-4:]
        read = torch.stack([vectors.projector(vectors.vectors.weight[item - 1]) for item in newest])
        state = model.model(inputs_embeds=read[None]).last_hidden_state[0].mean(0)  # both folders' pooling
        log_probabilities = torch.log_softmax(head(state), dim=0)
        expected.append(-sum(log_probabilities[categories[item - 1]] for item in newest).item() / len(newest))
    assert inputs.dataset.train.lengths.tolist() == [6] * 30
    assert told == [pytest.approx(np.mean(expected), rel=1e-5)]


@pytest.mark.parametrize(("method", "learn"), [("said", learn_said_vectors), ("tslrec", learn_tslrec_vectors)])
def test_a_training_that_diverges_ends_at_once(method, learn, tiny_encoder, tiny_dataset):
    told = []
    inputs = make_inputs(method, tiny_dataset, tiny_encoder, **{method: {"epochs": 50, "learning_rate": 1e30}})
    with pytest.raises(FloatingPointError, match=f"loss nan; a lower {method}.learning_rate may help"):
        learn(inputs, CPU, lambda *epoch: told.append(epoch))
    assert len(told) < 3


@pytest.mark.parametrize("kind", ["causal", "encoder-only"])
def test_tslrec_hands_on_what_the_model_makes_of_each_item_alone(kind, llama, tiny_encoder, tiny_dataset, monkeypatch):
    made = []

    class Kept(ItemVectors):
        def __init__(self, *args, into: LanguageModel) -> None:
            super().__init__(*args, into=into)
            made.append((self, into.model))

    monkeypatch.setattr(tslrec, "ItemVectors", Kept)
    monkeypatch.setattr(tslrec, "ITEMS_PER_CHUNK", 16)
    inputs = make_inputs("tslrec", tiny_dataset, llama if kind == "causal" else tiny_encoder, tslrec={"epochs": 1})
    states = learn_tslrec_vectors(inputs, CPU, lambda *told: None)
    [(vectors, model)] = made
    with torch.no_grad():
        alone = [model(inputs_embeds=vectors(torch.tensor([[row]]))).last_hidden_state[0, 0] for row in range(40)]
    torch.testing.assert_close(states, torch.stack(alone))
