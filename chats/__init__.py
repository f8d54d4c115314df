"""CHATS: human-aligned pairs of denoisers, combined while sampling, on stock diffusers pipelines.

    pair = chats.load_pair("path/or/hub-id")
    with chats.guidance(pipe, pair, method="chats", scale=5.0, alpha=0.5):
        image = pipe("three red stars").images[0]

Importing this package loads no torch: each name below is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chats.config import Shaping
    from chats.generation.pipeline import guidance
    from chats.pairs.joining import join_pair
    from chats.pairs.pair import Pair, PairMetadata, load_pair, save_pair

__all__ = [
    "Pair",
    "PairMetadata",
    "Shaping",
    "guidance",
    "join_pair",
    "load_pair",
    "save_pair",
]
_HOMES = {
    "Shaping": "chats.config",
    "guidance": "chats.generation.pipeline",
    "join_pair": "chats.pairs.joining",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'chats' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_HOMES.get(name, "chats.pairs.pair")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
