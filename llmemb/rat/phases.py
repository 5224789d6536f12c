"""The phases of a run, which are told of as one row of epochs."""

from typing import NamedTuple, Self

from llmemb.rat.config import RatConfig
from llmemb.rat.methods import METHODS


class Phases(NamedTuple):
    """How many epochs each has at most, in order; 0 for what a method does not have.

    Attributes:
        vectors: In which a language model learns item vectors.
        content: In which it is learnt which content follows which.
        training: The recommender's own.
    """

    vectors: int
    content: int
    training: int

    @classmethod
    def of(cls, config: RatConfig) -> Self:
        method = METHODS[config.method]
        return cls(
            vectors=getattr(config, config.method).epochs
            if method.learn_vectors
            else 0,  # a method and its settings have one name
            content=config.content.epochs if config.learns_content else 0,
            training=config.training.max_epochs,
        )
