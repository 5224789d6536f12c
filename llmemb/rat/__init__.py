"""RAT, recommendation adaptation training: an adapter learns to turn LLM item embeddings into a recommender's.

The paper's second stage: the recommender's loss trains adapter and backbone together, on a frozen table of LLM
embeddings, while an alignment loss keeps the adapted items near those of a recommender that knows only IDs.
"""
