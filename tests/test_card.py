"""The model card of a pair: what it says, and that what it tells to type works."""

import re

import pytest
import torch
import yaml

from chats.pairs.pair import PairMetadata, Recommended
from tests.tiny import tiny_pair, tiny_pipeline
from training.publishing.card import model_card
from training.publishing.export import export_pair, public_metadata

BOTH = ("preferred", "dispreferred")
PROVENANCE = {
    "data": "owner/preferences",
    "num_pairs": 7459,
    "optimizer": {"name": "adamw", "learning_rate": 3e-9, "betas": [0.9, 0.999]},
    "seed": 5,
    "versions": {"torch": "2.0"},
}


def metadata(kind="lora", **fields) -> PairMetadata:
    size = {"rank": 4, "lora_alpha": 8, "target_modules": ("to_q", "to_v")}
    known = {"kind": kind, "base": "owner/base", "family": "sd15", "provenance": PROVENANCE}
    return PairMetadata(**{**known, **(size if kind == "lora" else {}), **fields})


def card(known=None, *, layout="ours", name="owner/pair", roles=BOTH, **options) -> str:
    return model_card(known or metadata(), layout=layout, name=name, roles=roles, **options)


def header(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_header_is_what_the_hub_reads():
    assert header(card()) == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["chats", "preference-optimization", "lora"],
        "base_model": "owner/base",
    }


def test_a_licence_is_named_only_if_it_is_given():
    assert header(card(license="apache-2.0"))["license"] == "apache-2.0"
    assert "licen" not in card().lower()


@pytest.mark.parametrize("base", ["/somewhere/else/sd15", "shapes"])
def test_a_base_that_is_not_on_the_hub_is_in_the_text_by_name_and_not_in_the_header(base):
    """The Hub refuses a card whose base_model is none of its models."""
    text = card(public_metadata(metadata(base=base)))
    assert "base_model" not in header(text)
    assert f"| base | {base.rpartition('/')[2]} |" in text
    assert "somewhere" not in text


def test_it_says_how_the_pair_was_made():
    text = card()
    for row in (
        "| kind | LoRA, rank 4, alpha 8, on to_q, to_v |",
        "| objective | chats |",
        "| data | owner/preferences |",
        "| num pairs | 7459 |",
        "| optimizer | name adamw, learning_rate 3e-09, betas (0.9, 0.999) |",
        "| seed | 5 |",
        "| versions | torch 2.0 |",
    ):
        assert row in text.splitlines()


def test_text_from_elsewhere_breaks_no_table():
    text = card(metadata(provenance={"data": "a | b\n# c <script>"}))
    assert "| data | a \\| b # c &lt;script> |" in text.splitlines()


def test_it_recommends_what_the_pair_recommends():
    text = card(metadata(recommended=Recommended(scale=2.5, alpha=-0.25)))
    assert "s = 2.5, α = -0.25" in text
    assert 'method="chats", scale=2.5, alpha=-0.25' in text


@pytest.mark.parametrize(
    ("role", "method"), [("preferred", "preferred-cfg"), ("dispreferred", "npo")]
)
def test_a_single_half_is_used_with_the_method_that_needs_no_other(role, method):
    text = card(roles=[role])
    assert f'method="{method}", scale=5' in text
    assert "α" not in text


def test_scores_are_shown_only_if_there_are_some():
    assert "Scores" not in card()
    text = card(scores={"HPS v2": "28.5"})
    assert "## Scores" in text
    assert "| HPS v2 | 28.5 |" in text


def test_the_curve_of_a_run_is_a_short_table_with_its_first_and_last_line():
    lines = [{"step": 10 * i, "loss": 0.7 - 0.001 * i, "lr": 1e-5} for i in range(1, 101)]
    lines[0]["rewards/accuracies"] = 0.5
    lines[-1]["loss"] = None
    rows = card(metrics=lines).partition("## Training curve")[2].strip().splitlines()
    assert rows[0] == "| step | loss | accuracy |"
    assert rows[2] == "| 10 | 0.699 | 0.5 |"
    assert rows[-1] == "| 1000 | – | – |"
    assert len(rows) == 2 + 10
    assert "Training curve" not in card()


@pytest.mark.parametrize("num_lines", [1, 2, 9])
def test_a_short_run_shows_every_line(num_lines):
    lines = [{"step": i, "loss": 0.5} for i in range(num_lines)]
    assert card(metrics=lines).count("| 0.5 |") == num_lines


@pytest.mark.parametrize("layout", ["lora", "released"])
def test_what_the_card_tells_to_type_paints(tmp_path, monkeypatch, layout):
    """Run as it stands, beside folders of the names that it uses."""
    monkeypatch.chdir(tmp_path)
    pipe = tiny_pipeline("sd15", dtype=torch.float32)
    pipe.save_pretrained("base")
    pair = tiny_pair(pipe, "lora", base=str(tmp_path / "base"))
    export_pair(pair, "owner/pair", layout=layout)
    text = card(public_metadata(pair.metadata), layout=layout)
    assert len(blocks(text)) == (2 if layout == "lora" else 1)
    for block in blocks(text):
        few_steps = block.replace('").images', '", num_inference_steps=2).images')
        names = {}
        exec(few_steps, names)
        assert names["image"].size == (16, 16)


def test_the_card_of_the_embedded_model_loads_it():
    text = card(metadata(base="shapes"))
    lines = blocks(text)[0].splitlines()
    names = {}
    exec("\n".join(line for line in lines if line.startswith(("from", "import"))), names)
    assert (names["BASE"] / "model_index.json").is_file()


def test_the_card_of_a_full_pair_names_no_lora():
    text = card(metadata("full"))
    assert "lora" not in text.lower()
    assert "two whole denoisers" in text


def test_adapters_that_were_merged_are_called_denoisers():
    text = card(layout="released")
    assert "lora" not in header(text)["tags"]
    assert "A pair of two denoisers" in text
    assert "on to_q, to_v, merged into the base |" in text
