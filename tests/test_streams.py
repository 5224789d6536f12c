import numpy as np
import pytest

from llmemb.streams import RecommenderStream, ScftStream, generator


@pytest.mark.parametrize("streams", [RecommenderStream, ScftStream])
def test_a_stream_is_that_of_its_number_after_the_place(streams):
    for stream in streams:
        expected = np.random.default_rng([7, 3, 5, stream.value]).random(4)
        np.testing.assert_array_equal(generator(7, 3, 5, stream=stream).random(4), expected)
    assert len({generator(7, stream=stream).random() for stream in streams}) == len(streams) > 1


def test_numbers_that_artifacts_were_made_with_stay():
    assert [stream.value for stream in RecommenderStream] == [1, 2, 3, 4, 5, 6]
    assert [stream.value for stream in ScftStream] == [1, 2]
