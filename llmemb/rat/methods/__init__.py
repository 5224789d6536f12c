"""Methods: what a recommender's items are made of, LLMEmb's way and those that it is compared with.

All of them end in the same artifact, on any backbone, trained by the same loop; what differs is in a :class:`Method`.
"""

from collections.abc import Mapping

from llmemb.rat.methods.ids import IDS, TEXT_SUM
from llmemb.rat.methods.llm2x import LLM2X
from llmemb.rat.methods.llmemb import LLMEMB
from llmemb.rat.methods.melt import MELT
from llmemb.rat.methods.method import Method
from llmemb.rat.methods.said import SAID
from llmemb.rat.methods.tslrec import TSLREC

METHODS: Mapping[str, Method] = {
    "none": IDS,
    "llmemb": LLMEMB,
    "llm2x": LLM2X,
    "melt": MELT,
    "said": SAID,
    "tslrec": TSLREC,
    "text_sum": TEXT_SUM,
}
"""By the key ``method`` of a rat config."""
