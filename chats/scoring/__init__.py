"""Scorers: what people would like, guessed from pictures and their prompts.

    from chats.scoring import scorer
    scores = scorer("pickscore").score(images, prompts)  # (N,)

Importing this package loads no torch, so that a form can list the scorers.
"""

from chats.scoring.registry import SCORERS, scorer
from chats.scoring.scorer import Scorer, score_pictures

__all__ = ["SCORERS", "Scorer", "score_pictures", "scorer"]
