"""Prompts as people send them, fitted to the embedded model's tokenizer."""

import time

import pytest
from transformers import CLIPTokenizer

from chats.generation.prompts import TokenLimit, clean_prompt
from chats.shapes import BASE


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(BASE / "tokenizer")


@pytest.fixture(scope="module")
def limits(tokenizer):
    return [TokenLimit(tokenizer, 24)]


@pytest.mark.parametrize(
    "text", ["red star\x00", "red\x1b star", "red\ud800 star", "red\u202e star"]
)
def test_control_characters_are_removed_with_a_notice(limits, text):
    cleaned = clean_prompt(text, limits=limits)
    assert cleaned.text == "red star"
    assert cleaned.notices == ("Prompt: 1 control characters were removed.",)


def test_ten_thousand_tokens_are_cut_quickly_and_the_notice_names_the_rest(limits, tokenizer):
    words = ["red", "star"] * 5_000
    started = time.thread_time()
    cleaned = clean_prompt(" ".join(words), limits=limits)
    assert time.thread_time() - started < 2
    kept = cleaned.text.split()
    assert kept == words[: len(kept)]
    assert len(tokenizer(cleaned.text)["input_ids"]) == 24
    (notice,) = cleaned.notices
    rest = " ".join(words[len(kept) :])
    assert f"left out: “{rest[:50]}" in notice
    assert f"{len(rest):,} characters" in notice
    assert len(notice) < 300


def test_fifty_megabytes_do_not_hang(limits):
    started = time.thread_time()
    assert len(clean_prompt("x" * 50_000_000, limits=limits).text) < 1_000
    assert time.thread_time() - started < 5


def test_a_prompt_is_cut_between_words(limits, tokenizer):
    cleaned = clean_prompt("red " * 21 + "circlecircle tail", limits=limits)
    assert cleaned.text == "red " * 20 + "red"
    assert "circlecircle tail" in cleaned.notices[0]


def test_one_word_without_end_is_cut_where_it_must_be(limits, tokenizer):
    cleaned = clean_prompt("x" * 500, limits=limits)
    assert 0 < len(cleaned.text) < 500
    assert len(tokenizer(cleaned.text)["input_ids"]) <= 24


@pytest.mark.parametrize("text", ["red " * 21 + "🫠", "red " * 20 + "🫠 star", "🫠" * 30])
def test_a_character_of_several_tokens_is_never_cut_in_two(limits, tokenizer, text):
    cleaned = clean_prompt(text, limits=limits)
    assert text.startswith(cleaned.text)
    assert 0 < len(tokenizer(cleaned.text)["input_ids"]) <= 24
    assert len(cleaned.notices) == 1


def test_the_tokenizer_that_reads_most_decides_the_cut(tokenizer):
    limits = [TokenLimit(tokenizer, 8), TokenLimit(tokenizer, 20)]
    cleaned = clean_prompt("red " * 30, limits=limits)
    assert len(cleaned.text.split()) == 18
    assert "20 tokens" in cleaned.notices[0]


@pytest.mark.parametrize("text", ["", "three red stars", "ein ★ — ‘x’"])
def test_a_prompt_that_fits_stays_as_it_is(limits, text):
    assert clean_prompt(text, limits=limits) == type(clean_prompt("", limits=limits))(text, ())
