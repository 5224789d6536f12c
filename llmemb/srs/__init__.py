"""SRS, the sequential recommender system: item vectors in, scores of all items out.

A backbone never owns its item vectors: they come from an item table (IDs, adapted LLM embeddings, or both), so that the
finished table can be cached and handed to any serving system.
"""
