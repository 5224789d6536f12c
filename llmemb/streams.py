"""The streams of random numbers that come from one seed, named where they are told apart by a number.

The order of an epoch is drawn by (seed, epoch) and has no such number. A stream without a place is so that of the
epoch of its number; the two draw different things, and nothing compares them.
"""

from enum import IntEnum

import numpy as np


class RecommenderStream(IntEnum):
    """What a recommender's training draws; a number that was given away is never given again."""

    MASKS = 1
    STEP = 2
    """A loss's candidates, and what a method's own loss draws."""
    BEFORE_EPOCH = 3
    VALIDATION_USERS = 4
    CONTENT_STEP = 5
    CONTENT_USERS = 6


class ScftStream(IntEnum):
    """What fine-tuning draws beside its batches and views."""

    HELD_OUT = 1
    HISTORIES = 2


def generator(seed: int, *place: int, stream: RecommenderStream | ScftStream) -> np.random.Generator:
    """A stream's numbers at some place, such as (epoch, step), of a training."""
    return np.random.default_rng([seed, *place, stream])
