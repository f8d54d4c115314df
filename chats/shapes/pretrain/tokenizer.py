"""The Shapes tokenizer: whole words of the world, letters for everything else."""

from __future__ import annotations

import itertools
import json
import string
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer

from chats.shapes.clip import CONTEXT_LENGTH
from chats.shapes.world import BACKGROUNDS, COLORS, NUMBER_WORDS, SHAPES

_OTHER_WORDS = (
    "a an photo picture image of and on with background to the left right above over below under"
)
_CHARACTERS = string.ascii_lowercase + string.digits + ",.'-!?"
_START, _END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer() -> CLIPTokenizer:
    """Build the CLIP byte-pair tokenizer in which every word of the world is one token."""
    vocabulary, merges = _vocabulary()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = {token: index for index, token in enumerate(vocabulary)}
        (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        settings = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": CONTEXT_LENGTH,
            "bos_token": _START,
            "eos_token": _END,
            "unk_token": _END,
            "pad_token": _END,
            "do_lower_case": True,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def _words() -> list[str]:
    plurals = [shape + ("es" if shape == "cross" else "s") for shape in SHAPES]
    words = {*_OTHER_WORDS.split(), *NUMBER_WORDS.values(), *COLORS, *BACKGROUNDS, *SHAPES}
    return sorted(words.union(plurals), key=lambda word: (len(word), word))


def _vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    tokens = [*_CHARACTERS, *(character + "</w>" for character in _CHARACTERS)]
    merges: list[tuple[str, str]] = []
    for word in _words():
        pieces = _split(word, merges)
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            merges.append(pair)
            if "".join(pair) not in tokens:
                tokens.append("".join(pair))
            pieces = _split(word, merges)
    return [*tokens, _START, _END], merges


def _split(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Apply the merges in order of rank, as byte-pair encoding does."""
    rank = {pair: index for index, pair in enumerate(merges)}
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        pairs = list(itertools.pairwise(pieces))
        best = min(pairs, key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            break
        merged, index = [], 0
        while index < len(pieces):
            if tuple(pieces[index : index + 2]) == best:
                merged.append("".join(best))
                index += 2
            else:
                merged.append(pieces[index])
                index += 1
        pieces = merged
    return pieces
