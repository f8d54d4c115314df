"""Weight files are judged before they are read."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from chats.errors import UserError
from chats.pairs.weight_files import check_weight_files, component_folders, read_json, weight_bytes


def save(path, **tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def test_a_pickle_is_refused_by_its_name(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"unet/model\.bin.*pickle.*safetensors"):
        check_weight_files(tmp_path)


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_a_pickle_under_another_name_is_refused_by_its_first_bytes(tmp_path, write):
    write({"weight": [1, 2]}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is a pickle or zip file"):
        check_weight_files(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: b"\xff" * 8 + data, lambda _: b""]
)
def test_a_damaged_file_is_named(tmp_path, damage):
    path = save(tmp_path / "vae" / "model.safetensors", weight=torch.ones(4))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"vae/model\.safetensors is damaged") as raised:
        check_weight_files(tmp_path)
    assert str(tmp_path) not in str(raised.value)


def test_a_pickle_beside_safetensors_is_never_read_and_does_not_hinder(tmp_path):
    save(tmp_path / "model.safetensors", weight=torch.ones(4))
    (tmp_path / "model.bin").write_bytes(b"")
    check_weight_files(tmp_path)


def test_sizes_are_those_of_the_loaded_dtype(tmp_path):
    """10 floats at 4 bytes and 3 integers at 8, whatever dtype the floats are stored in."""
    save(tmp_path / "a.safetensors", w=torch.ones(2, 5, dtype=torch.float16), i=torch.arange(3))
    assert weight_bytes(tmp_path, bytes_per_float=4) == 10 * 4 + 3 * 8


def test_variants_of_the_same_weights_count_once(tmp_path):
    save(tmp_path / "model.safetensors", w=torch.ones(10))
    save(tmp_path / "model.fp16.safetensors", w=torch.ones(10))
    assert weight_bytes(tmp_path, bytes_per_float=2) == 20


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_a_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "model_index.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"model_index\.json.*damaged"):
        read_json(path)


def test_components_are_those_of_the_index(tmp_path):
    listed = {"unet": ["d", "U"], "safety_checker": [None, None], "gone": ["a", "b"]}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "X", **listed}))
    for name in ("unet", "safety_checker", "other"):
        (tmp_path / name).mkdir()
    assert component_folders(tmp_path) == [tmp_path / "unet"]
