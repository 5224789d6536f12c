"""Which runs go on in the same folder."""

import pytest

from llmemb.data.dataset import Dataset
from llmemb.embed.config import EmbedConfig
from llmemb.embed.plan import plan_snapshot, vector_identity
from llmemb.encoder.folder import EncoderFolder
from llmemb.prompts import PromptTemplate


@pytest.mark.parametrize(
    ("engine", "same"),
    [
        ({"tokens_per_batch": 64}, True),
        ({"threads_per_worker": 1}, True),
        ({"kind": "vllm"}, False),
        ({"compile": True}, False),
    ],
)
def test_another_engine_does_not_go_on_with_what_one_has_made(engine, same, tiny_dataset, tiny_encoder, ray_local):
    assert (folder_of({}, tiny_dataset, tiny_encoder) == folder_of(engine, tiny_dataset, tiny_encoder)) is same


def folder_of(engine: dict, dataset: str, encoder) -> str:
    settings = {"dataset": dataset, "encoder": str(encoder), "output": "/root", "engine": engine}
    config = EmbedConfig.parse(settings)
    folder = EncoderFolder.read(encoder)
    identity = vector_identity(config, folder, "0", width=folder.embedding_dim, on_gpu=False)
    template = PromptTemplate.model_validate({"attributes": ["title"]})
    return plan_snapshot(config, Dataset.open(dataset), template, identity, None, num_parameters=0).uri
