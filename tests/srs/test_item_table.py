import torch
from torch import nn

from llmemb.rat.scaling import Scaler
from llmemb.srs import item_table
from llmemb.srs.item_table import AdaptedTable, FrozenTable, IdTable, SummedTable


def test_a_summed_table_adds_its_parts_and_trains_both_but_not_the_frozen_vectors():
    frozen = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    adapter = nn.Linear(3, 2, bias=False)
    adapter.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    ids = IdTable(2, 2, init_std=0.0, known=torch.tensor([True, False]))
    ids.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    table = SummedTable([AdaptedTable(FrozenTable(frozen), adapter), ids])
    assert table().tolist() == [[1 + 1, 3 + 2], [4, 6]]
    assert {name for name, _ in table.named_parameters()} == {"parts.0.adapter.weight", "parts.1.weight"}
    assert set(table.state_dict()) == {name for name, _ in table.named_parameters()}


def test_a_frozen_table_is_scaled_once_or_as_it_is_read(monkeypatch):
    vectors, rows = torch.randn(6, 3), torch.tensor([4, 1])
    scaler = Scaler.fit(vectors, "standardise")
    once = FrozenTable(vectors, scaler)
    monkeypatch.setattr(item_table, "SCALED_ONCE", 17)
    as_read = FrozenTable(vectors, scaler)
    assert as_read.vectors is vectors
    assert once.vectors is not vectors
    torch.testing.assert_close(once(), as_read())
    torch.testing.assert_close(once(rows), as_read(rows))


def test_ids_differ_unless_they_start_at_zero():
    torch.manual_seed(0)
    assert len(torch.unique(IdTable(5, 3)(), dim=0)) == 5
    assert (IdTable(5, 3, init_std=0.0)() == 0).all()


def test_some_rows_are_those_of_the_whole_table():
    torch.manual_seed(0)
    tables = [
        IdTable(5, 3, known=torch.tensor([True, True, False, True, True])),
        AdaptedTable(FrozenTable(torch.randn(5, 4)), nn.Linear(4, 3)),
    ]
    for table in (*tables, SummedTable(tables)):
        torch.testing.assert_close(table(torch.tensor([2, 0])), table()[[2, 0]])
