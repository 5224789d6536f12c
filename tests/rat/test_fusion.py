import numpy as np
import pytest
import torch

from llmemb.data.sequences import Sequences, Targets
from llmemb.rat.fusion import Fusion, _within_reach, choose, fuse
from llmemb.rat.training import TrainableRecommender, validation_ndcg
from llmemb.srs.encoder import HistoryEncoder, TermWeights
from llmemb.srs.item_table import IdTable
from llmemb.srs.sasrec import SASRec
from llmemb.srs.scoring import FinalTable, score, score_parts
from llmemb.workers import Worker

NUM_ITEMS = 30
HEAD = np.arange(NUM_ITEMS + 1) <= 10  # padding is no target


def make_model(content: torch.Tensor | None) -> TrainableRecommender:
    torch.manual_seed(0)
    backbone = SASRec(hidden_dim=4, num_blocks=1, num_heads=1, max_seq_len=3, dropout=0.0)
    encoder = HistoryEncoder(
        backbone, hidden_dim=4, max_seq_len=3, similarity="cosine", temperature=0.1, content_decay=0.5
    )
    return TrainableRecommender(IdTable(NUM_ITEMS, 4), encoder, num_items=NUM_ITEMS, content=content)


def fusion(content_weight: float, overall: float, of_tail: float) -> Fusion:
    return Fusion(content_weight=content_weight, validation_ndcg=overall, validation_tail_ndcg=of_tail)


def targets(histories: list[list[int]], items: list[int]) -> Targets:
    return Targets(np.arange(len(items)), Sequences.from_lists(histories), np.array(items, dtype=np.int32))


def test_repeats_fall_where_nobody_repeats_and_stay_where_all_do():
    others = targets([[1, 2], [3, 4], [5, 6]], [7, 8, 9])
    same = targets([[1, 2], [3, 4], [5, 6]], [2, 4, 6])
    for wanted, expected in ((others, -100.0), (same, 0.0)):
        model = make_model(None)
        _, tried = fuse(model, wanted, head=HEAD, seen_logits=[0.0, -100.0], content_weights=[0.0, 5.0])
        assert model.encoder.seen_logit == expected
        assert [fusion.content_weight for fusion in tried] == [0.0, 0.0]  # no content, no weight to try


def test_content_gets_weight_where_it_tells_the_target():
    content = torch.eye(NUM_ITEMS)
    content[9], content[19] = content[0], content[1]  # item 10 reads as item 1 does, item 20 as item 2
    wanted = targets([[5, 1], [7, 2]], [10, 20])
    model = make_model(content)
    chosen, tried = fuse(model, wanted, head=HEAD, seen_logits=[-100.0], content_weights=[0.0, 50.0])
    assert model.encoder.content_weight == 50.0
    assert chosen == tried[1]
    assert chosen.validation_ndcg == pytest.approx(1.0)
    assert tried[0].validation_ndcg < 1.0
    assert model.final_table().content is content


def test_content_gets_a_share_where_it_tells_some_targets_and_the_model_others():
    content = torch.eye(NUM_ITEMS)
    content[9] = content[0]  # item 10 reads as item 1 does
    model = make_model(content)
    histories = [[5, 1], [7, 2]]
    own = next(iter(score(model.encoder, model.final_table(), Sequences.from_lists(histories)))).clone()
    own[1, [6, 1]] = -torch.inf
    wanted = targets(histories, [10, int(own[1].argmax()) + 1])
    chosen, tried = fuse(
        model, wanted, head=HEAD, seen_logits=[-100.0], content_weights=[0.0], content_shares=[0.0, 0.5, 1.0]
    )
    assert chosen == tried[1]
    assert chosen.validation_ndcg == pytest.approx(1.0)
    assert model.encoder.weights == TermWeights(-100.0, 0.0, 0.5)
    assert model.final_table().content is content


def test_content_without_weight_is_no_part_of_the_final_table():
    content = torch.eye(NUM_ITEMS)
    content[10:] = content[0]  # all but the targets read as item 1 does
    model = make_model(content)
    chosen, _ = fuse(model, targets([[5, 1]], [9]), head=HEAD, seen_logits=[0.0], content_weights=[0.0, 50.0])
    assert chosen.content_weight == 0.0
    assert model.final_table().content is None


def test_what_is_chosen_is_what_the_model_then_scores():
    model = make_model(torch.nn.functional.normalize(torch.randn(NUM_ITEMS, 6), dim=1))
    wanted = targets([[1, 2, 3], [4, 5], [6], [7, 8]], [9, 4, 11, 12])
    weights = {"seen_logits": [0.0, -3.0], "content_weights": [0.0, 1.0, 4.0], "content_shares": [0.0, 0.2]}
    chosen, tried = fuse(model, wanted, head=HEAD, **weights)
    assert len(tried) == 12
    for each in tried:
        model.encoder.weights = each
        assert validation_ndcg(model, wanted, worker=Worker()) == pytest.approx(each.validation_ndcg)
    model.encoder.weights = chosen
    assert chosen.validation_ndcg == max(fusion.validation_ndcg for fusion in tried)
    assert validation_ndcg(model, wanted, worker=Worker()) == pytest.approx(chosen.validation_ndcg)
    of_tail = wanted.take(np.flatnonzero(~HEAD[wanted.items]))
    assert len(of_tail.items) == 2
    assert validation_ndcg(model, of_tail, worker=Worker()) == pytest.approx(chosen.validation_tail_ndcg)


def test_targets_out_of_reach_are_left_out_and_change_no_figure():
    model = make_model(torch.nn.functional.normalize(torch.randn(NUM_ITEMS, 3), dim=1))
    random = np.random.default_rng(0)
    histories = random.integers(1, NUM_ITEMS + 1, (60, 4)).tolist()
    wanted = targets(histories, random.integers(1, NUM_ITEMS + 1, 60).tolist())
    [parts] = score_parts(model.encoder, FinalTable(model.item_embeddings(), model.content), wanted.histories)
    assert 10 < len(_within_reach(parts, wanted.items)) < 50
    _, tried = fuse(
        model, wanted, head=HEAD, seen_logits=[-2.0, 0.0], content_weights=[0.0, 3.0], content_shares=[0.0, 0.5, 1.0]
    )
    for each in tried:
        model.encoder.weights = each
        assert validation_ndcg(model, wanted, worker=Worker()) == pytest.approx(each.validation_ndcg)


@pytest.mark.parametrize(("tail_price", "expected"), [(0.0, 2.0), (0.02, 3.0), (0.1, 4.0)])
def test_the_tail_gets_what_the_price_allows(tail_price: float, expected: float):
    tried = [
        fusion(1.0, 0.0700, 0.090),  # too dear, whatever the tail has of it
        fusion(2.0, 0.1000, 0.040),
        fusion(3.0, 0.0985, 0.050),
        fusion(4.0, 0.0950, 0.060),
        fusion(5.0, 0.0940, 0.060),
    ]
    assert choose(tried, tail_price=tail_price).content_weight == expected


def test_without_tail_targets_the_best_overall_is_chosen_at_any_price():
    assert choose([fusion(1.0, 0.09, 0.0), fusion(2.0, 0.10, 0.0)], tail_price=0.5).content_weight == 2.0
