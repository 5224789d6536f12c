"""LLMEmb: a language model makes the item embeddings of a sequential recommender.

The rooms follow the data: ``data`` (catalogue and interactions), ``prompts``, ``scft`` (fine-tuning the language
model), ``embed`` (the catalogue through it), ``srs`` and ``rat`` (the recommender trained on the result),
``evaluation``; they stand on ``metrics``, ``storage``, ``artifact`` and ``config``.
"""

__version__ = "0.1.0"
