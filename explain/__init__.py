"""Why a reward model decided as it did: LIME, Anchors and pairs from one exact table of rewards."""

from explain.pair import explain_pair
from explain.text import explain_text

__all__ = ["explain_pair", "explain_text"]
