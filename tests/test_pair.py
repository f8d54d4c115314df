"""Pairs on disk: what is kept, what is refused, and the layout that the authors released."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import chats
from chats.denoising.adapter_rows import add_pair_adapters
from chats.denoising.families import denoiser_of
from chats.errors import UserError
from chats.pairs.pair import (
    LORA_FILE,
    Pair,
    PairMetadata,
    Recommended,
    load_pair,
    pair_from_adapters,
    save_pair,
)
from chats.pairs.released import load_released_pipeline
from tests.tiny import (
    FAMILIES,
    LORA_ALPHA,
    RANK,
    tiny_call,
    tiny_pair,
    tiny_pipeline,
    tiny_twin,
)

PROVENANCE = {"dataset": "tiny", "num_pairs": 12, "learning_rate": 3e-9, "seeds": [1, 2]}


def paint(pipe, pair, family: str = "sd15", **settings) -> torch.Tensor:
    with chats.guidance(pipe, pair, **settings):
        generator = torch.Generator().manual_seed(3)
        return pipe("ab cd", generator=generator, **tiny_call(family)).images


def saved_lora(folder: Path) -> Path:
    save_pair(tiny_pair(tiny_pipeline("sd15"), "lora"), folder)
    return folder


def rewrite(path: Path, change) -> None:
    """Change the tensors of a safetensors file and keep its header."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    path.unlink()
    save_file({key: value.contiguous() for key, value in change(tensors).items()}, path, header)


def rewrite_json(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_name_that_is_neither_a_folder_nor_a_hub_id_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"Unknown pair .*nowhere.*or a Hub id"):
        load_pair(tmp_path / "nowhere")


def test_a_folder_that_is_no_pair_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not a pair: it has neither pair\.json"):
        load_pair(tmp_path)


def test_a_pair_that_is_not_on_this_machine_is_refused_without_a_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="owner/absent is not on this machine and the Hub"):
        load_pair("owner/absent")


@pytest.mark.parametrize("name", ["pair.bin", "pair.pt", "pair.ckpt"])
def test_a_single_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match=f"{name} is a file; .* are never read"):
        load_pair(tmp_path / name)


@pytest.mark.parametrize("name", ["adapter_model.bin", "weights.pt", "weights.ckpt", "w.pth"])
def test_pickled_weights_are_refused_by_name(tmp_path, name):
    folder = saved_lora(tmp_path)
    (folder / "preferred" / LORA_FILE).unlink()
    (folder / "preferred" / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match=f"{name} .* is a pickle file"):
        load_pair(folder)


@pytest.mark.parametrize("magic", [pickle.dumps([1]), b"PK\x03\x04 and the rest of a zip"])
def test_pickled_weights_are_refused_by_their_first_bytes(tmp_path, magic):
    folder = saved_lora(tmp_path)
    (folder / "preferred" / LORA_FILE).write_bytes(magic)
    with pytest.raises(UserError, match="pickle or zip file under the name of a safetensors"):
        load_pair(folder)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_damaged_weights_are_refused(tmp_path, kind):
    save_pair(tiny_pair(tiny_pipeline("sd15"), kind), tmp_path)
    path = next((tmp_path / "preferred").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="is damaged"):
        load_pair(tmp_path)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, kind, value):
    save_pair(tiny_pair(tiny_pipeline("sd15"), kind), tmp_path)

    def spoil(tensors):
        next(iter(tensors.values())).view(-1)[0] = value
        return tensors

    rewrite(next((tmp_path / "dispreferred").glob("*.safetensors")), spoil)
    with pytest.raises(UserError, match="values that are not finite"):
        load_pair(tmp_path)


def test_a_full_half_with_weights_missing_is_refused(tmp_path):
    """Stock diffusers would fill them with random values."""
    save_pair(tiny_pair(tiny_pipeline("sd15"), "full"), tmp_path)
    path = next((tmp_path / "preferred").glob("*.safetensors"))
    rewrite(path, lambda tensors: {k: v for k, v in tensors.items() if k != "conv_in.weight"})
    with pytest.raises(UserError, match=r"do not match its config.json: .*conv_in.weight"):
        load_pair(tmp_path)


def test_a_full_half_of_another_class_is_refused(tmp_path):
    save_pair(tiny_pair(tiny_pipeline("pixart"), "full"), tmp_path)
    rewrite_json(tmp_path / "pair.json", family="sd15")
    with pytest.raises(UserError, match="preferred holds a PixArtTransformer2DModel; a pair of"):
        load_pair(tmp_path)


def test_a_lora_file_that_is_missing_is_refused(tmp_path):
    folder = saved_lora(tmp_path)
    (folder / "dispreferred" / LORA_FILE).unlink()
    with pytest.raises(UserError, match=f"The pair has no dispreferred/{LORA_FILE}"):
        load_pair(folder)


def test_a_pair_with_no_half_is_refused(tmp_path):
    folder = saved_lora(tmp_path)
    shutil.rmtree(folder / "preferred")
    shutil.rmtree(folder / "dispreferred")
    with pytest.raises(UserError, match="has neither a preferred nor a dispreferred half"):
        load_pair(folder)


def test_a_half_that_is_not_there_is_missed_only_when_it_is_used(tmp_path):
    folder = saved_lora(tmp_path)
    shutil.rmtree(folder / "dispreferred")
    pair = load_pair(folder)
    assert pair.halves().keys() == {"preferred"}
    with pytest.raises(UserError, match="The pair has no dispreferred half"):
        pair.half("dispreferred")


def test_a_dora_is_refused(tmp_path):
    folder = saved_lora(tmp_path)
    rewrite(
        folder / "preferred" / LORA_FILE,
        lambda tensors: {**tensors, "unet.x.lora_magnitude_vector": torch.ones(2)},
    )
    with pytest.raises(UserError, match=r"is not a plain LoRA .*no DoRA"):
        load_pair(folder)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_header_that_cannot_be_read_is_refused(tmp_path, text):
    path = saved_lora(tmp_path) / "preferred" / LORA_FILE
    tensors = load_file(path)
    path.unlink()
    save_file(tensors, path, {"lora_adapter_metadata": text})
    with pytest.raises(UserError, match="has a header that cannot be read"):
        load_pair(tmp_path)


@pytest.mark.parametrize("fields", [{"rank": 4}, {"lora_alpha": 1.0}])
def test_adapters_of_another_rank_or_alpha_than_pair_json_says_are_refused(tmp_path, fields):
    folder = saved_lora(tmp_path)
    rewrite_json(folder / "pair.json", **fields)
    with pytest.raises(UserError, match="One of the two files belongs to another pair"):
        load_pair(folder)


def test_half_of_a_low_rank_product_is_refused(tmp_path):
    folder = saved_lora(tmp_path)
    rewrite(folder / "preferred" / LORA_FILE, lambda tensors: dict(list(tensors.items())[1:]))
    with pytest.raises(UserError, match="has no pair of matrices of rank 2 for layer"):
        load_pair(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 2}, "format_version"),
        ({"kind": "dora"}, "kind"),
        ({"rank": None}, "a LoRA pair needs rank"),
        ({"surprise": 1}, "surprise"),
        ({"family": "sd9"}, "no model family 'sd9'"),
    ],
)
def test_metadata_that_is_wrong_is_refused_by_name(tmp_path, fields, message):
    folder = saved_lora(tmp_path)
    rewrite_json(folder / "pair.json", **fields)
    with pytest.raises(UserError, match=message):
        load_pair(folder)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_pair_of_another_architecture_is_refused_before_the_model_is_touched(kind):
    pipe = tiny_pipeline("sd15")
    config = {**pipe.unet.config, "cross_attention_dim": 16}
    wide = type(pipe.unet).from_config(config).to(torch.float64)
    other = tiny_pipeline("sd15")
    other.unet = wide
    pair = tiny_pair(other, kind)
    modules = [id(module) for module in pipe.unet.modules()]
    with (
        pytest.raises(UserError, match=r"for another architecture \(base 'tiny/base'\)"),
        chats.guidance(pipe, pair),
    ):
        pass
    assert [id(module) for module in pipe.unet.modules()] == modules


def test_adapters_on_fused_projections_are_refused():
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "lora")
    pipe.fuse_qkv_projections(vae=False)
    with (
        pytest.raises(UserError, match="projections are fused"),
        chats.guidance(pipe, pair),
    ):
        pass


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_pair_gives_the_same_picture_and_keeps_what_is_known_of_it(tmp_path, family, kind):
    pipe = tiny_pipeline(family)
    pair = tiny_pair(
        pipe,
        kind,
        null_prompt="zeros",
        objective="chats-no-ref",
        recommended=Recommended(scale=3.5, alpha=0.7),
        provenance=PROVENANCE,
    )
    save_pair(pair, tmp_path)
    loaded = load_pair(str(tmp_path))
    assert loaded.metadata == pair.metadata
    assert torch.equal(paint(pipe, loaded, family), paint(pipe, pair, family))


def test_an_interrupted_save_is_not_taken_for_a_pair(tmp_path):
    folder = saved_lora(tmp_path)
    broken = tiny_pair(tiny_pipeline("sd15"), "lora")
    broken.preferred["bad"] = "not a tensor"
    with pytest.raises(AttributeError):
        save_pair(broken, folder)
    with pytest.raises(UserError, match="is not a pair"):
        load_pair(folder)


def test_a_saved_full_half_does_not_say_where_it_was_loaded_from(tmp_path):
    pair = tiny_pair(tiny_pipeline("sd15"), "full")
    save_pair(pair, tmp_path / "first")
    save_pair(load_pair(tmp_path / "first"), tmp_path / "second")
    assert str(tmp_path) not in (tmp_path / "second" / "preferred" / "config.json").read_text()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_full_pair_keeps_the_dtype_of_its_files(tmp_path, dtype):
    save_pair(tiny_pair(tiny_pipeline("sd15", dtype=dtype), "full"), tmp_path)
    assert load_pair(tmp_path).preferred.dtype == dtype
    assert load_pair(tmp_path, dtype=torch.bfloat16).preferred.dtype == torch.bfloat16


def test_a_pair_takes_the_dtype_of_the_pipeline():
    pair = {kind: tiny_pair(tiny_pipeline("sd15"), kind) for kind in ("lora", "full")}
    pipe = tiny_pipeline("sd15", dtype=torch.float32)
    assert paint(pipe, pair["lora"]).dtype == torch.float32
    assert paint(pipe, pair["full"]).dtype == torch.float32


def test_a_saved_adapter_loads_into_a_stock_pipeline_with_its_alpha(tmp_path):
    """`load_lora_weights` on one half is the preferred model alone."""
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "lora")
    ours = paint(pipe, pair, method="chats", scale=0.0)
    save_pair(pair, tmp_path)
    pipe.load_lora_weights(tmp_path / "preferred")
    stock = pipe(
        "ab cd",
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(3),
        **tiny_call("sd15"),
    ).images
    assert torch.allclose(ours, stock, rtol=1e-6, atol=1e-6 * stock.abs().max().item())


def test_trained_adapters_become_a_pair_that_paints_the_same(tmp_path):
    pipe = tiny_pipeline("sd15")
    add_pair_adapters(pipe.unet, rank=RANK, alpha=LORA_ALPHA, targets=("to_q", "to_v"))
    generator = torch.Generator().manual_seed(4)
    for name, weight in pipe.unet.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(weight, generator=generator)
    metadata = PairMetadata(
        kind="lora",
        base="tiny/base",
        family="sd15",
        rank=RANK,
        lora_alpha=LORA_ALPHA,
        target_modules=("to_q", "to_v"),
    )
    save_pair(pair_from_adapters(pipe.unet, metadata), tmp_path)
    trained = paint(pipe, None)
    fresh = tiny_pipeline("sd15")
    assert torch.equal(paint(fresh, load_pair(tmp_path)), trained)
    assert not torch.allclose(trained, paint(fresh, None, method="cfg"), rtol=1e-3)


def test_a_denoiser_without_adapters_does_not_become_a_pair():
    pipe = tiny_pipeline("sd15")
    pair = tiny_pair(pipe, "lora")
    with pytest.raises(UserError, match="Unknown adapter name 'preferred'"):
        pair_from_adapters(pipe.unet, pair.metadata)


def released_folder(pipe, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Write a tiny pipeline in the released layout; return its two halves."""
    names = {"text_encoder_2": "text_encoder_two", "tokenizer_2": "tokenizer_two"}
    win, lose = tiny_twin(pipe.unet, seed=11), tiny_twin(pipe.unet, seed=12)
    parts = {
        "unet_win": win,
        "unet_lose": lose,
        **{names.get(k, k): v for k, v in pipe.components.items() if k != "unet" and v is not None},
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {name: [type(part).__module__, type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ChatsPipeline", **index}))
    return win, lose


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_released_layout_loads_as_it_is(tmp_path, family):
    pipe = tiny_pipeline(family)
    win, lose = released_folder(pipe, tmp_path)
    pair = load_pair(tmp_path)
    assert pair.metadata.kind == "full"
    assert pair.metadata.family == family
    assert pair.metadata.base == str(tmp_path)
    assert pair.metadata.null_prompt == "empty"
    expected = paint(pipe, Pair(pair.metadata, preferred=win, dispreferred=lose), family)
    assert torch.equal(paint(pipe, pair, family), expected)
    whole = load_released_pipeline(tmp_path, pair.preferred, dtype=torch.float64)
    whole.set_progress_bar_config(disable=True)
    assert torch.equal(paint(whole, pair, family), expected)


def test_a_released_folder_with_a_part_missing_is_refused(tmp_path):
    released_folder(tiny_pipeline("sd15"), tmp_path)
    pair = load_pair(tmp_path)
    shutil.rmtree(tmp_path / "vae")
    with pytest.raises(UserError, match="has no vae: it is not a whole released pipeline"):
        load_released_pipeline(tmp_path, pair.preferred)


def test_a_released_pair_saves_in_our_layout(tmp_path):
    pipe = tiny_pipeline("sd15")
    released_folder(pipe, tmp_path / "released")
    pair = load_pair(tmp_path / "released")
    save_pair(pair, tmp_path / "ours")
    assert torch.equal(paint(pipe, load_pair(tmp_path / "ours")), paint(pipe, pair))


def test_a_released_pair_loads_with_the_denoiser_of_its_base(tmp_path):
    pipe = tiny_pipeline("sd15")
    released_folder(pipe, tmp_path)
    pair = load_pair(tmp_path)
    three = paint(pipe, pair, method="npo")
    assert denoiser_of(pipe) is pipe.unet
    assert torch.isfinite(three).all()


def test_importing_the_package_loads_no_torch():
    code = (
        "import sys, chats, chats.config, chats.denoising.methods, chats.denoising.families\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules\n"
        "assert {'guidance', 'load_pair'} <= set(dir(chats))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_the_package_says_what_it_does_not_have():
    with pytest.raises(AttributeError, match="module 'chats' has no attribute 'guide'"):
        chats.guide  # noqa: B018
