import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from llmemb.encoder.folder import EncoderFolder, float32_memory, local_folder, write_layout
from llmemb.encoder.torch_engine import TorchEngine, load_tokenizer, tokenize
from llmemb.errors import InputError

TEXTS = ["title is red lamp", "brand is acme; title is a very long blue table", "lamp"]


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))


def vectors(path: Path, texts: list[str] = TEXTS, **options) -> np.ndarray:
    encoder = EncoderFolder.read(path)
    settings = {"precision": "fp32", "tokens_per_batch": 64, "device": "cpu"} | options
    return TorchEngine(encoder, **settings).encode(tokenize(load_tokenizer(encoder.path), texts, encoder.max_seq_len))


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_those_of_sentence_transformers(folder, pooling, normalize):
    from sentence_transformers import SentenceTransformer

    shutil.rmtree(folder / "2_Normalize", ignore_errors=True)
    write_layout(folder, embedding_dim=32, pooling=pooling, normalize=normalize, max_seq_len=16)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors(folder), expected, atol=1e-6)


def test_16_bits_round_and_do_no_more(folder):
    exact = vectors(folder)
    for precision in ("bf16", "fp16"):
        rounded = vectors(folder, precision=precision)
        assert (rounded != exact).any()
        assert ((rounded * exact).sum(axis=1) > 0.999).all()


def test_a_folder_saved_by_sentence_transformers_today_reads_the_same(folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.save(str(tmp_path / "saved"))
    read, saved = EncoderFolder.read(folder), EncoderFolder.read(tmp_path / "saved")
    assert (saved.pooling, saved.normalize, saved.max_seq_len) == (read.pooling, read.normalize, read.max_seq_len)
    np.testing.assert_allclose(vectors(tmp_path / "saved"), vectors(folder), atol=1e-6)


def test_a_vector_does_not_depend_on_its_neighbours(folder):
    np.testing.assert_allclose(vectors(folder, tokens_per_batch=1), vectors(folder, tokens_per_batch=1000), atol=1e-6)


def test_the_fingerprint_is_of_content_and_changes_with_any_weight_or_setting(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    before = EncoderFolder.read(folder).fingerprint()
    assert EncoderFolder.read(copy).fingerprint() == before
    (copy / "encoder.json").write_text("{}")
    assert EncoderFolder.read(copy).fingerprint() == before
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert EncoderFolder.read(copy).fingerprint() != before


def test_the_pooling_counts_wherever_modules_json_has_it(folder):
    plain = EncoderFolder.read(folder).fingerprint()
    (folder / "1_Pooling").rename(folder / "pooling")
    modules = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(modules.replace("1_Pooling", "pooling"))
    found = {plain}
    for pooling in ("mean", "cls"):
        (folder / "pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
        assert EncoderFolder.read(folder).pooling == pooling
        found.add(EncoderFolder.read(folder).fingerprint())
    assert len(found) == 3
    (folder / "modules.json").write_text(modules.replace("1_Pooling", "../elsewhere"))
    with pytest.raises(InputError, match=r"modules\.json: path: expected a folder beside it, got '\.\./elsewhere'$"):
        EncoderFolder.read(folder)


def test_two_poolings_at_once_are_refused(folder):
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True, "pooling_mode_cls_token": False})
    )
    with pytest.raises(
        InputError, match="pooling pooling_mode_mean_tokens and pooling_mode_max_tokens; expected one of them"
    ):
        EncoderFolder.read(folder)


@pytest.mark.parametrize("lowers", [False, True])
def test_capitals_that_sentence_transformers_lowers_are_lowered_or_refused(folder, lowers):
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from tokenizers.normalizers import NFC, Lowercase

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = Lowercase() if lowers else NFC()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": True}))
    texts = ["TITLE is Red LAMP", "title is red lamp"]
    if lowers:
        expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
        np.testing.assert_allclose(vectors(folder, texts), expected, atol=1e-6)
    else:
        with pytest.raises(InputError, match="do_lower_case: its tokenizer keeps capitals; expected one that lowers"):
            vectors(folder, texts)


@pytest.mark.parametrize(("model_type", "expected"), [("bert", 34), ("roberta", 32), ("mpnet", 32)])
def test_positions_that_padding_has_are_no_tokens(folder, model_type, expected):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": model_type, "max_position_embeddings": 34, "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "sentence_bert_config.json").write_text("{}")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 10**30}))
    assert EncoderFolder.read(folder).max_seq_len == expected


def test_a_limit_that_leaves_no_room_for_text_is_refused(folder):
    tokenizer = load_tokenizer(folder)
    with pytest.raises(
        InputError, match=r"^texts are to be cut at 2 tokens, of which 2 are special: expected a limit of 3 or more$"
    ):
        tokenize(tokenizer, TEXTS, 2)
    assert {len(ids) for ids in tokenize(tokenizer, TEXTS, 3)} == {3}


def test_the_width_of_a_vector_is_the_engines(folder):
    assert EncoderFolder.read(folder).embedding_dim == 32 == vectors(folder).shape[1]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "distilbert", "dim": 24},
        {"model_type": "qwen3_vl", "hidden_size": 7, "text_config": {"hidden_size": 24}},
    ],
)
def test_the_width_is_found_whatever_a_config_calls_it(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    assert EncoderFolder.read(folder).embedding_dim == 24


def test_a_config_without_a_width_is_one_line(folder):
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(InputError, match=r"config\.json does not say how many values a vector has"):
        _ = EncoderFolder.read(folder).embedding_dim


def test_what_is_stored_is_read_from_the_headers(folder):
    weights = load_file(folder / "model.safetensors")
    expected = sum(weight.numel() for weight in weights.values())
    first, *others = weights
    (folder / "model.safetensors").unlink()
    save_file({first: weights[first]}, folder / "model-00001-of-00002.safetensors")
    save_file({name: weights[name].bfloat16() for name in others}, folder / "model-00002-of-00002.safetensors")
    assert EncoderFolder.read(folder).num_parameters == expected
    assert EncoderFolder.read(folder).stored_precision == "bf16"
    cut = folder / "model-00002-of-00002.safetensors"
    cut.write_bytes(cut.read_bytes()[:-10])
    with pytest.raises(InputError, match="encoder: cannot be loaded: "):
        _ = EncoderFolder.read(folder).num_parameters


def test_a_small_model_needs_no_room_of_its_own_and_a_large_one_its_float32_copy():
    assert float32_memory(22_000_000) == 0
    assert 28e9 < float32_memory(7_000_000_000) < 40e9


def test_pickled_weights_and_unknown_modules_are_refused(folder):
    (folder / "modules.json").write_text(json.dumps([{"type": "my.package.Evil", "path": ""}]))
    with pytest.raises(InputError, match=r"modules\.json has Evil"):
        EncoderFolder.read(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="never read"):
        EncoderFolder.read(folder)


def add_adapter(path: Path) -> None:
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))


def name_other_weights(path: Path, value: object, key: str = "transformers_weights") -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {key: value}))


def name_in_index(path: Path, name: str) -> None:
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"weight": name}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_adapter, r"adapter_config\.json: expected no adapter beside a model; merge it first"),
        (partial(name_other_weights, value="adapter_model.bin"), r"transformers_weights: .* got adapter_model\.bin"),
        (partial(name_other_weights, value="other/model.safetensors"), r"got other/model\.safetensors"),
        (
            partial(name_other_weights, value={"transformers_weights": "adapter_model.bin"}, key="text_config"),
            r"transformers_weights: .* got adapter_model\.bin",
        ),
        (partial(name_other_weights, value=["config.4.0.0.json"], key="configuration_files"), "configuration_files"),
        (partial(name_in_index, name="pytorch_model.bin"), r"index\.json: .* got pytorch_model\.bin"),
        (partial(name_in_index, name="../other.safetensors"), r"index\.json: .* got \.\./other\.safetensors"),
    ],
)
def test_what_else_transformers_would_load_is_refused(folder, change, message):
    change(folder)
    with pytest.raises(InputError, match=message) as caught:
        EncoderFolder.read(folder)
    assert "\n" not in str(caught.value)


def test_weights_of_the_folder_may_have_any_name_and_an_index(folder):
    expected = vectors(folder)
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(load_file(folder / "weights.safetensors"), "weights.safetensors"),
    }
    (folder / "weights.safetensors.index.json").write_text(json.dumps(index))
    for name in ("weights.safetensors", "weights.safetensors.index.json"):
        name_other_weights(folder, name)
        np.testing.assert_array_equal(vectors(folder), expected)


def lose_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()


def lose_layer(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layer.1." not in name}
    save_file(kept, path / "model.safetensors", {"format": "pt"})


def cut_weights(path: Path) -> None:
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-1000])


def name_no_model(path: Path) -> None:
    (path / "config.json").write_text('{"model_type": "nosuch"}')


def cut_config(path: Path) -> None:
    (path / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_tokenizer, "no tokenizer: expected one of tokenizer.json"),
        (lose_layer, r"16 weights of a bert are missing: encoder\.layer\.1\."),
        (cut_weights, "cannot be loaded: Error while deserializing header"),
        (name_no_model, "cannot be loaded: The checkpoint you are trying to load has model type `nosuch`"),
        (cut_config, r"config\.json: not JSON"),
    ],
)
def test_a_folder_that_lacks_something_is_one_clear_line_and_never_random(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        vectors(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("package://no_such_package/model", "not installed"),
        ("package://llmemb/../tests", "no folder"),
        ("/no/such/folder", "no such folder"),
    ],
)
def test_a_missing_model_is_one_clear_line(uri, message):
    with pytest.raises(InputError, match=message), local_folder(uri):
        pass
