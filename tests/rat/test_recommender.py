"""The artifact of a run, on a catalogue of twelve items: what it says, and what of it is refused."""

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from llmemb import storage
from llmemb.cli import app
from llmemb.data.sequences import Sequences
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.metrics import ranking
from llmemb.metrics.ranking import rank_targets
from llmemb.rat.content import ContentTraining
from llmemb.rat.inputs import load_embeddings
from llmemb.rat.methods.method import Inputs
from llmemb.rat.model import make_model
from llmemb.rat.recommender import Recommender, recipe, write_vectors
from llmemb.srs.encoder import TermWeights
from llmemb.srs.scoring import FinalTable, score
from tests.rat.conftest import EMBEDDING_DIM, NUM_ITEMS


def test_both_recommenders_load_and_rank_every_item(trained, dataset):
    ours, ids_only = Recommender.load(trained.output), Recommender.load(f"{trained.output}/collaborative")
    assert (ours.label, ids_only.label) == ("LLMEmb (SASRec)", "SASRec")
    for recommender in (ours, ids_only):
        assert recommender.item_embeddings.shape == (NUM_ITEMS, 4)
        ranks = rank_targets(recommender, dataset.test(), num_items=NUM_ITEMS)
        assert len(ranks) == 24
        assert recommender.info["dataset"] == dataset.fingerprint
    assert ours.info["embeddings"] == "first"
    assert ours.info["weights"] == storage.checksum(storage.read_bytes(f"{trained.output}/model.safetensors"))
    assert ids_only.info["embeddings"] is None
    assert ours.info["collaborative_recipe"] == recipe(ids_only.info)
    assert ids_only.info["collaborative_recipe"] is None


def test_cached_scores_equal_those_through_the_adapter(trained, dataset, monkeypatch):
    model = make_model(Inputs(trained, dataset, load_embeddings(Snapshot.open(trained.embeddings), dataset)[0]))
    ContentTraining(model, dataset.train, trained.content, sampled=False, seed=trained.seed).run().maps.put_into(model)
    weights = storage.read_bytes(f"{trained.output}/model.safetensors")
    model.load_state_dict(safetensors.torch.load(weights))
    with torch.inference_mode():
        through_adapter = model.eval().final_table()
    cached = Recommender.load(trained.output)
    torch.testing.assert_close(cached.item_embeddings, through_adapter.embeddings)
    torch.testing.assert_close(cached.content, through_adapter.content)
    assert cached.content.shape == (NUM_ITEMS, EMBEDDING_DIM)
    histories = dataset.test().histories
    expected = torch.cat(list(score(model.encoder, through_adapter, histories)))
    torch.testing.assert_close(torch.cat(list(cached.score(histories))), expected)
    monkeypatch.setattr(ranking, "CHUNK_SCORES", 5 * NUM_ITEMS)
    chunks = list(cached.score(histories))
    assert {len(chunk) for chunk in chunks[:-1]} == {5}
    torch.testing.assert_close(torch.cat(chunks), expected)


def test_the_item_embeddings_are_read_with_no_help(trained, dataset):
    table = pl.read_parquet(f"{trained.output}/item_embeddings/*.parquet")
    assert table["item_id"].to_list() == dataset.item_ids
    assert table["embedding"].dtype == pl.Array(pl.Float32, 4)
    manifest = storage.read_json(f"{trained.output}/item_embeddings/manifest.json")
    assert [entry["rows"] for entry in manifest["files"]] == [NUM_ITEMS]


def test_a_changed_table_is_noticed(trained, tmp_path):
    storage.upload(Path(trained.output), str(tmp_path / "copy"))
    part = tmp_path / "copy/item_embeddings/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="checksum"):
        Recommender.load(str(tmp_path / "copy"))


@pytest.mark.parametrize("part", ["model.safetensors", "item_embeddings", "item_content"])
def test_what_another_run_wrote_is_refused(trained, tmp_path, part):
    storage.upload(Path(trained.output), str(tmp_path / "copy"))
    place, other = tmp_path / "copy" / part, Path(trained.output) / "collaborative" / part
    if part == "model.safetensors":
        shutil.copy(other, place)
    else:  # whole and sound in itself, and of as many items
        values = np.ones((NUM_ITEMS, 4), dtype=np.float32)
        write_vectors(str(place), Recommender.load(trained.output).item_ids, values, {})
    with pytest.raises(InputError, match=rf"recommender: .*{part} is not what recommender.json names"):
        Recommender.load(str(tmp_path / "copy"))


def test_content_that_a_cut_off_run_left_is_not_read_by_one_that_chose_none(trained, tmp_path):
    storage.upload(Path(trained.output), str(tmp_path / "copy"))
    info = storage.read_json(f"{tmp_path}/copy/recommender.json")
    assert info["item_content"] is not None
    storage.write_json(f"{tmp_path}/copy/recommender.json", info | {"item_content": None})
    assert len(Recommender.load(str(tmp_path / "copy")).item_ids) == NUM_ITEMS


def test_a_recommender_without_its_content_is_refused(trained, tmp_path):
    storage.upload(Path(trained.output), str(tmp_path / "copy"))
    shutil.rmtree(tmp_path / "copy/item_content")
    with pytest.raises(InputError, match=r"item_content/manifest\.json"):
        Recommender.load(str(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("change", "message"), [({"max_seq_len": 9}, "size mismatch"), ({"hidden_dim": 2}, "mismatch")]
)
def test_weights_of_another_shape_are_one_line(trained, tmp_path, change, message):
    storage.upload(Path(trained.output), str(tmp_path / "copy"))
    info = storage.read_json(f"{tmp_path}/copy/recommender.json")
    storage.write_json(f"{tmp_path}/copy/recommender.json", info | {"model": info["model"] | change})
    with pytest.raises(InputError, match=f"recommender: .*{message}"):
        Recommender.load(str(tmp_path / "copy"))


def test_a_recommender_whose_backbone_is_not_here_is_one_line(trained, tmp_path):
    shutil.copytree(trained.output, tmp_path / "copy")
    info = storage.read_json(f"{tmp_path}/copy/recommender.json") | {"backbone": "no_such_package:Backbone"}
    storage.write_json(f"{tmp_path}/copy/recommender.json", info)
    with pytest.raises(InputError, match=r"recommender: .*copy: .*no_such_package"):
        Recommender.load(str(tmp_path / "copy"))


def test_recommendations_are_the_best_scores_by_item_id(trained, dataset):
    model = Recommender.load(trained.output)
    history = dataset.item_ids[2:5]
    [ranked] = model.recommend([history], k=4)
    sequences = Sequences.from_lists([[3, 4, 5]])
    [scores] = torch.cat(list(model.score(sequences))).tolist()
    by_score = sorted(zip(scores, dataset.item_ids, strict=True), reverse=True)
    unseen = [(score, item) for score, item in by_score if item not in history]
    assert [item for item, _ in ranked] == [item for _, item in unseen[:4]]
    assert [score for _, score in ranked] == pytest.approx([score for score, _ in unseen[:4]])
    assert len(model.recommend([history], k=99)[0]) == NUM_ITEMS - 3
    assert len(model.recommend([history], k=99, filter_seen=False)[0]) == NUM_ITEMS
    with pytest.raises(InputError, match="history: 'nothing' is none of the recommender's 12 items"):
        model.recommend([["nothing"]], k=1)
    with pytest.raises(InputError, match=r"history: histories\[0\] is 'i1': expected a list of item ids for each"):
        model.recommend(["i1"], k=1)
    with pytest.raises(InputError, match="k: expected 1 or more, got 0"):
        model.recommend([history], k=0)
    with pytest.raises(InputError, match="index: no kind 'faiss': expected one of flat, hnsw, ivf"):
        model.build_index("faiss")


def test_unknown_items_of_a_history_are_passed_over_if_wanted(trained, dataset):
    model, history = Recommender.load(trained.output), dataset.item_ids[:3]
    [expected] = model.recommend([history], k=4)
    histories = [["gone"], [history[0], "gone", *history[1:]], ["gone", "gone too"]]
    for index in (None, model.build_index("flat")):
        ranked = model.recommend(histories, k=4, skip_unknown=True, index=index)
        assert [[item for item, _ in each] for each in ranked] == [[], [item for item, _ in expected], []]
        assert model.recommend([["gone"]], k=4, skip_unknown=True, index=index) == [[]]


def test_there_is_no_recommendation_from_nothing(trained, dataset):
    model = Recommender.load(trained.output)
    for index in (None, model.build_index("flat")):
        with pytest.raises(InputError, match=r"history: histories\[1\] has no item: expected at least one"):
            model.recommend([dataset.item_ids[:2], []], k=1, index=index)
    for empty in ("", ","):
        shown = CliRunner().invoke(app, ["recommend", trained.output, "--history", empty])
        assert shown.exit_code == 2
        assert "error: history: histories[0] has no item" in shown.output


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
@pytest.mark.parametrize("weights", [TermWeights(0.0, 2.0), TermWeights(-3.0, 2.0), TermWeights(-3.0, 2.0, 0.3)])
def test_an_index_finds_the_same_as_scoring_every_item(trained, dataset, kind, weights):
    model = Recommender.load(trained.output)
    model._encoder.weights = weights
    assert model.content is not None
    histories = [dataset.item_ids[2:5], dataset.item_ids[:6], dataset.item_ids[7:9] * 2]
    index = model.build_index(kind)
    for settings in ({"k": 3}, {"k": 3, "filter_seen": False}, {"k": 99}):
        searched, scored = model.recommend(histories, index=index, **settings), model.recommend(histories, **settings)
        for ours, expected in zip(searched, scored, strict=True):
            assert [item for item, _ in ours] == [item for item, _ in expected]
            assert [score for _, score in ours] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_an_index_of_another_training_is_refused(trained, dataset, tmp_path, kind):
    model, histories = Recommender.load(trained.output), [dataset.item_ids[2:5]]
    old = FinalTable(model.item_embeddings.flip(0), model.content)  # as many items, as wide
    stale = Recommender(model.info, model._encoder, model.item_ids, old).build_index(kind)
    with pytest.raises(InputError, match="index: it holds the vectors of another recommender: build it anew"):
        model.recommend(histories, k=3, index=stale)
    narrow = Recommender(model.info, model._encoder, model.item_ids, FinalTable(model.item_embeddings))
    with pytest.raises(InputError, match=r"index: its vectors have 4 values; expected the recommender's 9"):
        model.recommend(histories, k=3, index=narrow.build_index(kind))
    file = str(tmp_path / "index.faiss")
    faiss.write_index(model.build_index(kind), file)
    assert len(model.recommend(histories, k=3, index=faiss.read_index(file))[0]) == 3
    faiss.write_index(stale, file)
    with pytest.raises(InputError, match="index: it holds the vectors of another recommender"):
        model.recommend(histories, k=3, index=faiss.read_index(file))


def test_of_an_index_that_rounds_only_the_size_is_checked(trained, dataset):
    model = Recommender.load(trained.output)
    rounded = faiss.IndexScalarQuantizer(9, faiss.ScalarQuantizer.QT_4bit, faiss.METRIC_INNER_PRODUCT)
    rounded.train(model._table.joined().numpy())
    rounded.add(model._table.joined().numpy())
    assert len(model.recommend([dataset.item_ids[2:5]], k=3, index=rounded)[0]) == 3


def test_the_command_shows_recommendations_with_titles(trained, dataset):
    arguments = ["recommend", trained.output, "--history", ",".join(dataset.item_ids[:2]), "-k", "3"]
    shown = CliRunner().invoke(app, [*arguments, "--dataset", dataset.uri])
    assert shown.exit_code == 0, shown.output
    assert len(shown.output.splitlines()) == 1 + 2 + 3
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)["recommended"]
    expected = Recommender.load(trained.output).recommend([dataset.item_ids[:2]], k=3)[0]
    assert [row["item_id"] for row in found] == [item for item, _ in expected]
    assert all(row["item_id"] in shown.output for row in found)
