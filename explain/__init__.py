"""Why a reward model decided as it did: LIME, Anchors, Shapley values and pairs from one table of rewards."""

from explain.api import explain
from explain.pair import explain_pair
from explain.text import explain_text

__all__ = ["explain", "explain_pair", "explain_text"]
