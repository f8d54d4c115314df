"""Errors of the reference, kept: trainings with them are those without; nothing stale is used."""

import json
import math

import pytest
import torch

from chats.errors import UserError
from chats.pairs.pair import load_pair
from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from training.config import TrainingConfig
from training.data.encoded_pairs import encode_pairs
from training.data.opening import open_batches, open_held_out, read_rows
from training.loop.metrics import MEASURED
from training.loop.pair_model import PairModel
from training.loop.trainer import train_on
from training.run import RunDirectory


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline("sd15", dtype=torch.float32)


@pytest.fixture
def make_config(tmp_path):
    folder = write_preferences(tmp_path / "pairs")

    def make(output, *, cached=True, data=None, objective=None, optimizer=None, **groups):
        return TrainingConfig.model_validate(
            {
                "data": {"path": folder, "cache": tmp_path / "cache"} | (data or {}),
                "model": {"rank": 2, "lora_alpha": 4} | groups.pop("model", {}),
                "objective": {"temperature": 100.0, "cache_reference": cached} | (objective or {}),
                "optimizer": {"num_steps": 3, "batch_size": 3, "learning_rate": 1e-3}
                | (optimizer or {}),
                "run": {"output": tmp_path / output, "log_every": 1} | groups.pop("run", {}),
                **groups,
            }
        )

    return make


@pytest.fixture
def reference_calls(monkeypatch):
    """Counts the forwards of the reference."""
    calls = []
    predict = PairModel.predict_reference

    def counted(*args):
        calls.append(1)
        return predict(*args)

    monkeypatch.setattr(PairModel, "predict_reference", counted)
    return calls


def trained(config, pipeline) -> list[dict]:
    source = open_batches(read_rows(config.data), pipeline, config.data, run=config.run.output)
    train_on(config, source, pipeline)
    lines = RunDirectory(config.run.output).read_metrics()
    return [{name: line[name] for name in line.keys() - MEASURED} for line in lines]


def weights(config):
    pair = load_pair(config.run.output / "pair")
    return {
        f"{role}.{name}": value
        for role, half in pair.halves().items()
        for name, value in (half if isinstance(half, dict) else half.state_dict()).items()
    }


@pytest.mark.parametrize("data", [{"cache": None}, {"encode": "online"}])
def test_errors_without_a_place_or_a_key_are_refused(make_config, data):
    with pytest.raises(ValueError, match=r"cache_reference needs data\.cache, and data\.encode"):
        make_config("run", data=data)


def test_an_objective_without_a_reference_is_refused(make_config, pipeline):
    config = make_config("run", objective={"name": "sft-all"})
    with pytest.raises(UserError, match="sft-all has no reference"):
        trained(config, pipeline)


def test_pairs_that_are_in_no_cache_are_refused(make_config, pipeline):
    config = make_config("run")
    dataset = encode_pairs(read_rows(config.data), pipeline)
    with pytest.raises(UserError, match=r"pairs that were encoded with data\.cache"):
        train_on(config, dataset, pipeline)


def test_errors_that_are_not_finite_end_the_training_and_are_not_kept(make_config, tmp_path):
    broken = tiny_pipeline("sd15", dtype=torch.float32)
    broken.unet.conv_out.bias.data[0] = math.nan
    with pytest.raises(UserError, match="errors are not all finite"):
        trained(make_config("run"), broken)
    assert not list((tmp_path / "cache" / "reference-errors").glob("*.safetensors"))


def test_a_damaged_file_is_computed_again(make_config, pipeline, tmp_path, reference_calls, caplog):
    first = trained(make_config("first"), pipeline)
    (shard,) = (tmp_path / "cache" / "reference-errors").glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-2] ^= 64
    shard.write_bytes(content)
    reference_calls.clear()
    assert trained(make_config("second"), pipeline) == first
    assert len(reference_calls) == 3
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("name", ["chats", "diffusion-dpo"])
def test_losses_and_weights_are_bit_for_bit_those_without(make_config, pipeline, kind, name):
    without, kept = (
        make_config(output, cached=cached, model={"kind": kind}, objective={"name": name})
        for output, cached in (("without", False), ("kept", True))
    )
    assert trained(kept, pipeline) == trained(without, pipeline)
    expected = weights(without)
    for weight_name, value in weights(kept).items():
        assert torch.equal(value, expected[weight_name]), weight_name


def test_buckets_and_weights_of_levels_change_nothing_either(make_config, pipeline):
    without, kept = (
        trained(
            make_config(
                str(cached),
                cached=cached,
                data={"buckets": True},
                noise={"min_snr_gamma": 5.0},
                optimizer={"batch_size": 1, "gradient_accumulation": 2},
            ),
            pipeline,
        )
        for cached in (False, True)
    )
    assert kept == without


def test_trainings_that_draw_the_same_share_the_errors(make_config, pipeline, reference_calls):
    trained(make_config("first"), pipeline)
    assert len(reference_calls) == 3
    reference_calls.clear()
    others = {"learning_rate": 1e-5, "ema_decay": 0.9, "num_steps": 2}
    trained(make_config("same", optimizer=others, model={"rank": 4}), pipeline)
    assert reference_calls == []
    longer = trained(make_config("longer", optimizer={"num_steps": 4}), pipeline)
    assert len(reference_calls) == 4
    assert longer == trained(make_config("x", optimizer={"num_steps": 4}, cached=False), pipeline)


def test_whatever_decides_the_errors_makes_others(make_config, pipeline, tmp_path):
    index = tmp_path / "cache" / "reference-errors" / "index.json"
    changes = (
        {},
        {"run": {"seed": 1}},
        {"objective": {"dispreferred_prompt_drop": 0.4}},
        {"objective": {"name": "diffusion-dpo"}},
        {"optimizer": {"num_steps": 1, "batch_size": 2}},
        {"model": {"kind": "full"}},
        {"data": {"max_pairs": 3}},
        {"data": {"resolution": 20}},
        {"data": {"null_prompt": "zeros"}},
        {"noise": {"sampling": "logit-normal"}},
    )
    for number, changed in enumerate(changes, start=1):
        trained(make_config(str(number), **({"optimizer": {"num_steps": 1}} | changed)), pipeline)
        assert len(json.loads(index.read_text())["shards"]) == number, changed


def test_another_model_has_other_errors(make_config, pipeline, tmp_path, reference_calls):
    trained(make_config("a"), pipeline)
    other = tiny_pipeline("sd15", dtype=torch.float32)
    with torch.no_grad():
        other.unet.conv_out.weight[0, 0, 0, 0] += 1e-3
    reference_calls.clear()
    trained(make_config("b"), other)
    assert len(reference_calls) == 3


def test_held_out_pairs_are_measured_though_the_reference_is_kept(make_config, pipeline):
    """Their draws are others than the training's: a full training keeps its reference for them."""
    lines = []
    for cached in (False, True):
        config = make_config(str(cached), cached=cached, model={"kind": "full"})
        source = open_batches(read_rows(config.data), pipeline, config.data, run=config.run.output)
        held_out = open_held_out(read_rows(config.data)[:2], pipeline, config.data)
        train_on(config, source, pipeline, held_out=held_out)
        found = RunDirectory(config.run.output).read_metrics()
        lines.append([{name: line[name] for name in line.keys() - MEASURED} for line in found])
    assert lines[0] == lines[1]
    assert "validation/margin" in lines[1][-1]


def test_a_full_training_with_kept_errors_holds_no_reference(make_config, pipeline, monkeypatch):
    made = []
    drop = PairModel.drop_reference

    def dropped(model):
        drop(model)
        made.append(model)

    monkeypatch.setattr(PairModel, "drop_reference", dropped)
    trained(make_config("run", model={"kind": "full"}), pipeline)
    assert set(made[0].denoisers) == {"preferred", "dispreferred"}
