"""Pairs for others: what is refused, what comes back, and what no exported file says."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

import chats
from chats.denoising.adapter_rows import LowRank
from chats.denoising.families import denoiser_of, family_of
from chats.errors import UserError
from chats.pairs.pair import Pair, Recommended, load_pair
from chats.pairs.released import load_released_pipeline
from tests.tiny import merged, tiny_call, tiny_pair, tiny_pipeline
from training.publishing.export import export_pair, merge_adapter, public_metadata


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    """Pipelines that were loaded from a folder, which their configurations then name."""
    found = {}

    def base(family):
        if family not in found:
            folder = tmp_path_factory.mktemp("bases") / f"tiny-{family}"
            pipe = tiny_pipeline(family, dtype=torch.float32)
            pipe.save_pretrained(folder)
            found[family] = pipe, folder
        return found[family]

    return base


def tiny_pair_of(made, kind="lora", **fields) -> Pair:
    pipe, folder = made
    return tiny_pair(pipe, kind, **{"base": str(folder), **fields})


def paint(pipe, pair=None, **settings) -> torch.Tensor:
    with chats.guidance(pipe, pair, **settings):
        return latents(pipe)


def latents(pipe, **settings) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    call = {**tiny_call(family_of(pipe).name), "num_inference_steps": 2}
    return pipe("ab cd", generator=generator, **call, **settings).images


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_a_full_pair_is_refused_as_lora_files(base_of, tmp_path):
    with pytest.raises(UserError, match=r"two whole denoisers.*layout ours or released"):
        export_pair(tiny_pair_of(base_of("sd15"), "full"), tmp_path / "out", layout="lora")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "sd3"}, "known for sd15 and sdxl; the pair is of the family 'sd3'"),
        ({"halves": ("preferred",)}, "two denoisers; the pair has only a preferred half"),
        ({"null_prompt": "zeros"}, "can't say that the pair's null prompt is zeros"),
        ({"base": "not there"}, "Unknown model 'not there'"),
    ],
)
def test_what_the_released_layout_cannot_hold_is_refused(base_of, tmp_path, fields, message):
    if fields.get("family"):
        pair = tiny_pair_of(base_of("sd15"))
        pair = replace(pair, metadata=pair.metadata.model_copy(update=fields))
    else:
        pair = tiny_pair_of(base_of("sd15"), **fields)
    with pytest.raises(UserError, match=message):
        export_pair(pair, tmp_path / "new" / "out", layout="released")
    assert list(tmp_path.iterdir()) == []


def test_a_base_of_another_family_is_refused(base_of, tmp_path):
    pair = tiny_pair_of(base_of("sd15"), base=str(base_of("sdxl")[1]))
    with pytest.raises(UserError, match="family 'sd15', but its base tiny-sdxl is a StableDiffus"):
        export_pair(pair, tmp_path / "out", layout="released")


def test_a_base_without_a_part_is_refused_and_nothing_is_left(base_of, tmp_path):
    _, folder = base_of("sd15")
    shutil.copytree(folder, tmp_path / "base", ignore=shutil.ignore_patterns("vae"))
    pair = tiny_pair_of(base_of("sd15"), base=str(tmp_path / "base"))
    with pytest.raises(UserError, match="base has no vae, which the released layout needs"):
        export_pair(pair, tmp_path / "out", layout="released")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_adapters_that_do_not_fit_the_base_are_refused(base_of, tmp_path):
    pair = tiny_pair_of(base_of("sd15"))
    key = next(key for key in pair.preferred if ".lora_A." in key)
    wide = {**pair.preferred, key: torch.ones(2, 99)}
    with pytest.raises(UserError, match="for another architecture"):
        export_pair(replace(pair, preferred=wide), tmp_path / "out", layout="released")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_taken_is_refused_and_stays(base_of, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(UserError, match="exists already and is no empty folder"):
            export_pair(tiny_pair_of(base_of("sd15")), taken, layout="ours")
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_one_message(base_of, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Can't write .*out: Not a directory\. Free"):
        export_pair(tiny_pair_of(base_of("sd15")), tmp_path / "file" / "out", layout="ours")


def test_an_interrupted_export_leaves_nothing(base_of, tmp_path):
    broken = tiny_pair_of(base_of("sd15"))
    broken.dispreferred["bad.lora_A.weight"] = "not a tensor"
    with pytest.raises(AttributeError):
        export_pair(broken, tmp_path / "out", layout="ours")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_our_layout_keeps_the_pair_and_all_that_is_known_of_it(base_of, tmp_path, kind):
    best = Recommended(scale=2.5, alpha=0.25)
    pair = tiny_pair_of(base_of("sd15"), kind, recommended=best, null_prompt="zeros")
    (tmp_path / "out").mkdir()
    export_pair(pair, tmp_path / "out", layout="ours", card="# A card\n")
    loaded = load_pair(tmp_path / "out")
    assert loaded.metadata == pair.metadata.model_copy(update={"base": "tiny-sd15"})
    pipe, _ = base_of("sd15")
    assert_same(paint(pipe, loaded), paint(pipe, pair))
    assert (tmp_path / "out" / "README.md").read_text() == "# A card\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_released_layout_gives_the_same_guided_prediction(base_of, tmp_path, family, kind):
    pipe, _ = base_of(family)
    pair = tiny_pair_of(base_of(family), kind)
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    export_pair(pair, tmp_path / "out", layout="released")
    loaded = load_pair(tmp_path / "out")
    assert (loaded.metadata.kind, loaded.metadata.family) == ("full", family)
    whole = load_released_pipeline(tmp_path / "out", loaded.preferred)
    whole.set_progress_bar_config(disable=True)
    expected = paint(pipe, pair, alpha=0.7)
    assert_same(paint(whole, loaded, alpha=0.7), expected)
    assert (paint(pipe, method="cfg") - expected).norm() > 0.1 * expected.norm()
    assert all(torch.equal(pipe.unet.state_dict()[name], value) for name, value in before.items())


class ReleasedPipeline(DiffusionPipeline):
    """What the authors' own pipeline asks diffusers for."""

    def __init__(self, unet_win, unet_lose, text_encoder, tokenizer, vae, scheduler):
        super().__init__()
        self.register_modules(
            unet_win=unet_win,
            unet_lose=unet_lose,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            vae=vae,
            scheduler=scheduler,
        )


def test_a_stock_pipeline_class_with_two_unets_loads_the_released_layout(base_of, tmp_path):
    pair = tiny_pair_of(base_of("sd15"))
    export_pair(pair, tmp_path / "out", layout="released")
    whole = ReleasedPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    for role, unet in (("preferred", whole.unet_win), ("dispreferred", whole.unet_lose)):
        by_hand = merged(base_of("sd15")[0].unet, pair.half(role)).state_dict()
        assert all(
            torch.allclose(value, by_hand[name], atol=1e-5)
            for name, value in unet.state_dict().items()
        )
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "ChatsSD15Pipeline"


def test_a_pair_in_the_released_layout_is_not_written_so_again(base_of, tmp_path):
    export_pair(tiny_pair_of(base_of("sd15")), tmp_path / "first", layout="released")
    again = load_pair(tmp_path / "first")
    with pytest.raises(UserError, match="in the released layout already, in first"):
        export_pair(again, tmp_path / "second", layout="released")
    export_pair(again, tmp_path / "ours", layout="ours")
    assert load_pair(tmp_path / "ours").metadata.provenance["source"] == "first"


def test_a_base_in_16_bits_is_merged_in_32(tmp_path):
    """An update of about 2⁻¹⁴ of a weight is lost in float16, which keeps 11 bits."""
    pipe = tiny_pipeline("sd15", dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "half")
    pair = tiny_pair(pipe, "lora", base=str(tmp_path / "half"))
    small = {key: value.float() * 2.0**-7 for key, value in pair.preferred.items()}
    export_pair(replace(pair, preferred=small), tmp_path / "out", layout="released")
    found = load_pair(tmp_path / "out").preferred.state_dict()
    by_hand = merged(copy.deepcopy(pipe.unet).float(), small).state_dict()
    for name, weight in found.items():
        torch.testing.assert_close(weight, by_hand[name], rtol=1e-6, atol=1e-7)
    layer = next(iter(small)).rsplit(".lora_", 1)[0] + ".weight"
    assert (found[layer].half() - by_hand[layer]).abs().max() > 1e-5


def test_merging_equals_adding_the_adapters_output():
    """W·x + (alpha / r)·B·A·x of `LowRank`, on a linear layer and on a strided convolution."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    conv, linear = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Linear(4, 6)
    model = nn.ModuleDict({"conv": conv, "linear": linear}).double()
    adapter = {
        "conv.lora_A.weight": noise(2, 3, 3, 3),
        "conv.lora_B.weight": noise(5, 2, 1, 1),
        "linear.lora_A.weight": noise(2, 4),
        "linear.lora_B.weight": noise(6, 2),
    }
    inputs = {"conv": noise(1, 3, 8, 8), "linear": noise(7, 4)}
    expected = {}
    for name, layer in model.items():
        low_rank = LowRank(*(adapter[f"{name}.lora_{part}.weight"] for part in "AB"), scaling=1.5)
        with torch.no_grad():
            expected[name] = layer(inputs[name])
            low_rank.add_to(expected[name], inputs[name], layer)
    merge_adapter(model, adapter, scaling=1.5)
    for name, layer in model.items():
        torch.testing.assert_close(layer(inputs[name]), expected[name])


@pytest.mark.parametrize("role", ["preferred", "dispreferred"])
@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_stock_diffusers_loads_each_half_of_the_lora_layout(base_of, tmp_path, family, role):
    pipe, _ = base_of(family)
    pair = tiny_pair_of(base_of(family))
    export_pair(pair, tmp_path / "out", layout="lora")
    by_hand = copy.copy(pipe)
    name = family_of(pipe).denoiser
    setattr(by_hand, name, merged(denoiser_of(pipe), pair.half(role)))
    stock = copy.deepcopy(pipe)
    stock.load_lora_weights(tmp_path / "out" / role)
    assert_same(latents(stock, guidance_scale=3.0), latents(by_hand, guidance_scale=3.0))


def test_the_lora_layout_is_a_pair_of_ours_whose_alpha_is_its_rank(base_of, tmp_path):
    pipe, _ = base_of("sd15")
    pair = tiny_pair_of(base_of("sd15"))
    export_pair(pair, tmp_path / "out", layout="lora")
    loaded = load_pair(tmp_path / "out")
    assert loaded.metadata.lora_alpha == loaded.metadata.rank != pair.metadata.lora_alpha
    assert_same(paint(pipe, loaded), paint(pipe, pair))


@pytest.mark.parametrize("layout", ["ours", "released", "lora"])
def test_no_exported_file_names_a_path_of_this_machine(base_of, tmp_path, layout):
    _, folder = base_of("sd15")
    # What transformers and diffusers write once a model was loaded from a folder.
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    for name in ("text_encoder/config.json", "vae/config.json", "unet/config.json"):
        path = base / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "_name_or_path": str(base)}))
    path = base / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name_or_path": str(base)}))
    provenance = {"data": str(tmp_path / "pairs"), "more": [{"cache": str(tmp_path)}]}
    pair = tiny_pair_of(base_of("sd15"), base=str(base), provenance=provenance)
    export_pair(pair, tmp_path / "out", layout=layout)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) >= 3
    for path in written:
        assert str(tmp_path).encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("base", "public"),
    [
        ("shapes", "shapes"),
        ("owner/name", "owner/name"),
        ("/somewhere/else/sd15", "sd15"),
        ("C:\\models\\sd15", "sd15"),
        ("~/models/sd15", "sd15"),
        ("../models/sd15", "sd15"),
    ],
)
def test_a_base_is_public_by_its_hub_id_or_its_folders_name(base_of, base, public):
    pair = tiny_pair_of(base_of("sd15"), base=base, provenance={"source": base, "rate": 3e-9})
    found = public_metadata(pair.metadata)
    assert found.base == public
    assert found.provenance == {"source": public, "rate": 3e-9}


def test_a_folder_that_is_written_like_a_hub_id_is_a_folder(base_of, tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    pair = tiny_pair_of(base_of("sd15"), base="models/mine", provenance={"data": "models/mine"})
    found = public_metadata(pair.metadata)
    assert (found.base, found.provenance["data"]) == ("mine", "mine")
