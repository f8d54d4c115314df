"""YAML from a browser: plain data or a clear refusal, quickly."""

import time

import pytest

from chats.errors import UserError
from ui.train.untrusted_yaml import MAX_BYTES, read_untrusted_yaml

BOMB = "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [*{a}, *{a}]" for a, b in ("ab", "bc", "cd"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", r"not YAML: .* in line"),
        ("a: b: c", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("!!python/name:os.system ''", "not YAML"),
        (BOMB, "uses aliases"),
        ("a: &a\n  b: *a", "uses aliases"),
        ("[" * 20_000, "nested too deeply"),
        ("- " * 20_000, "nested too deeply"),
        ("{a: " * 20_000, "nested too deeply"),
        ("x" * (MAX_BYTES + 1), "at most 100,000"),
        (b"\xff\xfe\x00", "not YAML|no text"),
        (b"\x80abc", "no text in UTF-8"),
        ("a: \x00", "not YAML"),
        ("a: 2024-99-99", "not YAML"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_quickly(content, message):
    start = time.monotonic()
    with pytest.raises(UserError, match=message):
        read_untrusted_yaml(content)
    assert time.monotonic() - start < 5


def test_plain_yaml_is_read():
    assert read_untrusted_yaml(b"optimizer: {learning_rate: 3e-9, betas: [0.9, 0.99]}") == {
        "optimizer": {"learning_rate": "3e-9", "betas": [0.9, 0.99]}
    }
