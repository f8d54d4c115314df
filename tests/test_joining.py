"""Pairs joined from LoRA files and fine-tuned models, and `python -m chats convert`."""

import json

import pytest
import torch
from safetensors.torch import save_file

import chats
from chats.__main__ import main
from chats.denoising.families import family_of
from chats.errors import UserError
from chats.pairs import hub
from tests.steps import relative_error, seeds
from tests.tiny import (
    LORA_ALPHA,
    RANK,
    tiny_adapter,
    tiny_call,
    tiny_pair,
    tiny_pipeline,
    tiny_twin,
)

TOLERANCE = 1e-10


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_pipeline("sd15").save_pretrained(folder)
    return folder


def painted(pipe, pair, **settings):
    with chats.guidance(pipe, pair, scale=4.0, **settings):
        return pipe("ab cd", generator=seeds(1), **tiny_call("sd15")).images


def diffusers_file(adapter, path, denoiser="unet"):
    """Write what diffusers' trainers write: rank and alpha in the header."""
    header = {f"{denoiser}.r": RANK, f"{denoiser}.lora_alpha": LORA_ALPHA}
    save_file(
        {f"{denoiser}.{key}": value for key, value in adapter.items()},
        path,
        metadata={"format": "pt", "lora_adapter_metadata": json.dumps(header)},
    )
    return path


def kohya_file(adapter, path):
    """Write what kohya's trainers write: an alpha beside each layer, names with underscores."""
    tensors = {}
    for key, value in adapter.items():
        layer, part = key.removesuffix(".weight").rsplit(".lora_", 1)
        name = "lora_unet_" + layer.replace(".", "_")
        tensors[f"{name}.lora_{'down' if part == 'A' else 'up'}.weight"] = value
        tensors[f"{name}.alpha"] = torch.tensor(LORA_ALPHA, dtype=torch.float64)
    save_file(tensors, path)
    return path


def old_diffusers_file(adapter, path):
    """Write attention processors, which have no alpha: it is multiplied in."""
    tensors = {}
    for key, value in adapter.items():
        layer, part = key.removesuffix(".weight").rsplit(".lora_", 1)
        block, name = layer.removesuffix(".0").rsplit(".", 1)
        scaled = value if part == "A" else value * LORA_ALPHA / RANK
        side = "down" if part == "A" else "up"
        tensors[f"unet.{block}.processor.{name}_lora.{side}.weight"] = scaled
    save_file(tensors, path)
    return path


WRITERS = {"diffusers": diffusers_file, "kohya": kohya_file, "old-diffusers": old_diffusers_file}


def test_neither_half_is_refused(base):
    with pytest.raises(UserError, match="Give a preferred half, a dispreferred half, or both"):
        chats.join_pair(base=base)


@pytest.mark.parametrize("name", ["nowhere", "../x/y", "a/../b"])
def test_a_half_that_is_nowhere_is_refused_with_what_a_half_is(base, name):
    with pytest.raises(UserError, match=r"There is no half .* A half is a LoRA file"):
        chats.join_pair(base=base, preferred=name)


def test_a_base_that_is_nowhere_is_refused():
    with pytest.raises(UserError, match="Unknown base 'nowhere'"):
        chats.join_pair(base="nowhere", preferred="x.safetensors")


def test_halves_of_two_kinds_are_refused(base, tmp_path):
    adapter = tiny_adapter(tiny_pipeline("sd15").unet, seed=1)
    lora = diffusers_file(adapter, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="the preferred half is a LoRA, the dispreferred half is a"):
        chats.join_pair(base=base, preferred=lora, dispreferred=base)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("text_encoder.layers.0.q_proj.lora_A.weight", "also adapts a text encoder"),
        ("transformer.blocks.0.lora_A.weight", "is no LoRA for the unet of the family 'sd15'"),
        ("unet.down_blocks.0.x.dora_scale", "not a plain LoRA"),
        ("unet.down_blocks.0.x.lora_magnitude_vector", "not a plain LoRA"),
    ],
)
def test_what_rows_cannot_mix_is_refused(base, tmp_path, extra, message):
    adapter = tiny_adapter(tiny_pipeline("sd15").unet, seed=1)
    tensors = {f"unet.{key}": value for key, value in adapter.items()}
    save_file({**tensors, extra: torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=message):
        chats.join_pair(base=base, preferred=tmp_path / "a.safetensors")


def test_a_pickle_is_refused(base, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="is a pickle file"):
        chats.join_pair(base=base, preferred=tmp_path / "a.bin")


def test_a_folder_with_several_files_is_asked_for_the_one(base, tmp_path):
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"holds 2 safetensors files \(a.safetensors, b"):
        chats.join_pair(base=base, preferred=tmp_path)


def test_infinite_weights_are_refused(base, tmp_path):
    adapter = tiny_adapter(tiny_pipeline("sd15").unet, seed=1)
    next(iter(adapter.values()))[0, 0] = float("inf")
    with pytest.raises(UserError, match="not finite"):
        chats.join_pair(base=base, preferred=diffusers_file(adapter, tmp_path / "a.safetensors"))


@pytest.mark.parametrize("layout", WRITERS)
def test_two_lora_files_paint_what_the_pair_of_their_weights_does(base, tmp_path, layout):
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "lora")
    files = {
        role: WRITERS[layout](half, tmp_path / f"{role}.safetensors")
        for role, half in pair.halves().items()
    }
    joined = chats.join_pair(base=base, **files)
    assert (joined.metadata.family, joined.metadata.rank) == ("sd15", RANK)
    assert relative_error(painted(pipe, joined), painted(pipe, pair)) < TOLERANCE


@pytest.mark.parametrize("family", ["sdxl", "sd3", "pixart", "flux"])
def test_lora_files_of_other_families_are_read_with_their_alpha(tmp_path, family):
    pipe = tiny_pipeline(family)
    pipe.save_pretrained(tmp_path / "base")
    pair, prefix = tiny_pair(pipe, "lora"), family_of(pipe).denoiser
    files = {
        role: diffusers_file(half, tmp_path / f"{role}.safetensors", prefix)
        for role, half in pair.halves().items()
    }
    joined = chats.join_pair(base=tmp_path / "base", **files)
    assert joined.metadata.family == family
    for role, half in pair.halves().items():
        ours = joined.half(role)
        assert set(ours) == set(half)
        for key, value in half.items():
            scaling = 1 if "lora_A" in key else LORA_ALPHA / RANK
            assert relative_error(ours[key], scaling * value) < TOLERANCE


def test_halves_of_two_ranks_and_layers_are_saved_and_loaded_as_one(base, tmp_path):
    """The dispreferred one adapts `to_q` alone, by a product of rank 1."""
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "lora")
    small = {
        key: value[:1] if "lora_A" in key else value[:, :1].contiguous()
        for key, value in pair.dispreferred.items()
        if ".to_q." in key
    }
    joined = chats.join_pair(
        base=base,
        preferred=diffusers_file(pair.preferred, tmp_path / "good.safetensors"),
        dispreferred=diffusers_file(small, tmp_path / "bad.safetensors"),
    )
    chats.save_pair(joined, tmp_path / "pair")
    again = chats.load_pair(tmp_path / "pair")
    assert again.metadata.rank == RANK
    assert relative_error(painted(pipe, again), painted(pipe, joined)) < TOLERANCE
    # Its header says alpha 6 for rank 2; of rank 1 the scaling is 6.
    layer = next(iter(small)).removesuffix(".lora_A.weight")
    product = (
        again.dispreferred[f"{layer}.lora_B.weight"] @ again.dispreferred[f"{layer}.lora_A.weight"]
    )
    hand = 6 * small[f"{layer}.lora_B.weight"] @ small[f"{layer}.lora_A.weight"]
    assert relative_error(product, hand) < TOLERANCE


def test_two_fine_tuned_models_become_a_full_pair(base, tmp_path):
    """One is the folder of a denoiser, the other that of a whole pipeline."""
    pipe = tiny_pipeline("sd15")
    good, bad = tiny_twin(pipe.unet, seed=5), tiny_pipeline("sd15", seed=9)
    good.save_pretrained(tmp_path / "good")
    bad.save_pretrained(tmp_path / "bad")
    joined = chats.join_pair(base=base, preferred=tmp_path / "good", dispreferred=tmp_path / "bad")
    pair = chats.Pair(joined.metadata, good, bad.unet)
    assert relative_error(painted(pipe, joined), painted(pipe, pair)) < TOLERANCE


@pytest.mark.parametrize(
    ("role", "method", "wrong"),
    [("preferred", "preferred-cfg", "chats"), ("dispreferred", "npo", "preferred-cfg")],
)
def test_one_half_from_the_hub_is_sampled_by_its_method(
    base, tmp_path, monkeypatch, role, method, wrong
):
    """A repository with a `unet` folder alone, as Diffusion-DPO's is."""
    pipe, asked = tiny_pipeline("sd15"), []
    half = tiny_twin(pipe.unet, seed=5)
    half.save_pretrained(tmp_path / "unet")

    def fetch(repository, patterns=(), **_):
        asked.append((repository, tuple(patterns)))
        return tmp_path

    monkeypatch.setattr(hub, "fetch_texts", fetch)
    monkeypatch.setattr(hub, "fetch_files", fetch)
    joined = chats.join_pair(base=base, **{role: "owner/dpo-tiny"})
    assert asked[1] == ("owner/dpo-tiny", ("unet/*.json", "unet/*.safetensors"))
    expected = chats.Pair(joined.metadata, **{role: half})
    ours, hand = (painted(pipe, each, method=method) for each in (joined, expected))
    assert relative_error(ours, hand) < TOLERANCE
    with pytest.raises(UserError, match="The pair has no"):
        painted(pipe, joined, method=wrong)


def test_a_file_inside_a_repository_is_a_half(base, tmp_path, monkeypatch):
    adapter = tiny_adapter(tiny_pipeline("sd15").unet, seed=1)
    diffusers_file(adapter, tmp_path / "npo.safetensors")
    monkeypatch.setattr(hub, "fetch_files", lambda *_, **__: tmp_path)
    joined = chats.join_pair(base=base, dispreferred="owner/name/npo.safetensors")
    assert joined.metadata.kind == "lora"
    with pytest.raises(UserError, match="has no file"):
        chats.join_pair(base=base, dispreferred="owner/name/other.safetensors")


def test_convert_writes_a_pair_and_never_over_another_folder(base, tmp_path, capsys):
    adapter = tiny_adapter(tiny_pipeline("sd15").unet, seed=1)
    lora = diffusers_file(adapter, tmp_path / "a.safetensors")
    command = ["convert", "--base", str(base), "--preferred", str(lora)]
    command += ["--output", str(tmp_path / "pair")]
    assert main(command) == 0
    assert "lora, sd15, preferred" in capsys.readouterr().out
    assert chats.load_pair(tmp_path / "pair").dispreferred is None
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give either --pair, or --preferred"),
        (["--pair", "a", "--preferred", "b"], "Give either --pair, or --preferred"),
        (["--preferred", "b"], "Give --base"),
    ],
)
def test_convert_says_what_is_missing(arguments, message, capsys):
    assert main(["convert", *arguments]) == 2
    assert message in capsys.readouterr().err
