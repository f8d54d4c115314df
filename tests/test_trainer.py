"""The training loop: what it refuses, what it computes, and what it leaves behind."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import nn

from chats.denoising.adapter_rows import lora_layers
from chats.denoising.families import family_of
from chats.errors import UserError
from chats.objective import OBJECTIVES, Prediction
from chats.pairs.pair import load_pair
from tests.tiny import tiny_pipeline
from tests.tiny_preferences import write_preferences
from training.__main__ import main
from training.config import ModelSettings, NoiseSettings, OptimizerSettings, TrainingConfig
from training.data.draws import draw_batch
from training.data.encoded_pairs import encode_pairs
from training.loop.metrics import MEASURED
from training.loop.noise import NoiseSchedule
from training.loop.optimizers import learning_rate
from training.loop.pair_model import PairModel
from training.loop.trainer import TrainingStoppedError, loss_terms, train, train_on
from training.preferences import read_pairs
from training.run import RunDirectory

TARGETS = ("to_q", "to_v", "conv1")
DENOISING = {"chats-no-ref", "sft-preferred", "sft-all"}


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline("sd15", dtype=torch.float32)


@pytest.fixture(scope="module")
def dataset(pipeline, tmp_path_factory):
    folder = write_preferences(tmp_path_factory.mktemp("data") / "pairs")
    return encode_pairs(read_pairs(folder), pipeline, name="pairs")


@pytest.fixture
def make_config(tmp_path):
    def make(output="run", *, model=None, objective=None, optimizer=None, run=None):
        return TrainingConfig.model_validate(
            {
                "data": {"path": tmp_path / "pairs"},
                "model": {"rank": 2, "lora_alpha": 4, "targets": TARGETS} | (model or {}),
                "objective": objective or {},
                "optimizer": {"num_steps": 2, "batch_size": 2} | (optimizer or {}),
                "run": {"output": tmp_path / output, "log_every": 1} | (run or {}),
            }
        )

    return make


def pair_model(pipeline, *, kind="lora", name="chats", seed=0) -> PairModel:
    return PairModel(
        pipeline.unet,
        objective=OBJECTIVES[name],
        settings=ModelSettings(kind=kind, rank=2, lora_alpha=4, targets=TARGETS),
        family=family_of(pipeline),
        seed=seed,
    )


def batch_and_schedule(dataset, pipeline, *, batch_size=2):
    schedule = NoiseSchedule.from_scheduler(pipeline.scheduler)
    batch = draw_batch(
        dataset,
        range(batch_size),
        seed=0,
        level_at=lambda uniform: schedule.level_at(uniform, NoiseSettings()),
        prompt_drop=0.0,
        dispreferred_prompt_drop=0.5,
    )
    return batch, schedule


def forward_terms(model, dataset, pipeline, *, name="chats"):
    batch, schedule = batch_and_schedule(dataset, pipeline)
    settings = TrainingConfig.model_fields["objective"].default
    return loss_terms(
        model,
        batch,
        schedule=schedule,
        error_weights=schedule.error_weights(None),
        objective=OBJECTIVES[name],
        settings=settings,
    )


def metrics_of(config) -> list[dict]:
    lines = (config.run.output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def randomise_adapters(model: PairModel) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.trained_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def state_copy(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_nan_stops_before_the_update_and_says_the_step(dataset, pipeline, make_config):
    """One of four samples is damaged; at batch 1 it comes up at one of the first four steps."""
    preferred = dataset.preferred.clone()
    preferred[0] = math.nan
    config = make_config(optimizer={"num_steps": 4, "batch_size": 1})
    with pytest.raises(TrainingStoppedError, match=r"loss is nan at step \d: stopped before") as e:
        train_on(config, replace(dataset, preferred=preferred), pipeline)
    step = int(str(e.value).split("step ")[1][0])
    path = config.run.output / "metrics.jsonl"
    assert (len(path.read_text().splitlines()) if path.exists() else 0) == step - 1
    assert not (config.run.output / "pair").exists()
    status = RunDirectory(config.run.output).status()
    assert (status.state, status.step, status.num_steps) == ("failed", step - 1, 4)
    assert (status.seconds_left is None) == (step == 1)


class _InfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


def test_an_infinite_gradient_stops_before_the_update(dataset, pipeline, make_config):
    damaged = copy.deepcopy(pipeline)
    damaged.unet.conv_out.register_forward_hook(lambda *args: _InfiniteGradient.apply(args[-1]))
    with pytest.raises(TrainingStoppedError, match=r"gradient's norm is (nan|inf) at step 1"):
        train_on(make_config(), dataset, damaged)


def test_a_folder_that_holds_a_finished_run_is_refused(dataset, pipeline, make_config):
    config = make_config()
    train_on(config, dataset, pipeline)
    with pytest.raises(UserError, match=r"holds a finished run\. Set run\.output"):
        train_on(config, dataset, pipeline)


def test_an_unfinished_run_is_started_afresh(dataset, pipeline, make_config):
    config = make_config()
    config.run.output.mkdir()
    (config.run.output / "metrics.jsonl").write_text('{"step": 99}\n')
    train_on(config, dataset, pipeline)
    assert [line["step"] for line in metrics_of(config)] == [1, 2]


def test_fp16_without_a_gpu_is_refused(dataset, pipeline, make_config):
    with pytest.raises(UserError, match="fp16 training needs a GPU"):
        train_on(make_config(run={"mixed_precision": "fp16"}), dataset, pipeline)


def test_layers_that_do_not_exist_are_refused(dataset, pipeline, make_config):
    with pytest.raises(UserError, match="nowhere"):
        train_on(make_config(model={"targets": ["nowhere"]}), dataset, pipeline)


def test_a_model_that_predicts_the_image_is_refused(dataset, pipeline, make_config):
    other = copy.copy(pipeline)
    other.scheduler = type(pipeline.scheduler).from_config(
        pipeline.scheduler.config, prediction_type="sample"
    )
    with pytest.raises(UserError, match="predicts 'sample'"):
        train_on(make_config(), dataset, other)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("temperature", [1.0, 1e6])
def test_chats_starts_at_log_2_exactly(dataset, pipeline, make_config, kind, temperature):
    config = make_config(
        model={"kind": kind},
        objective={"temperature": temperature},
        optimizer={"num_steps": 1, "batch_size": 4},
    )
    metrics = train_on(config, dataset, pipeline).metrics
    assert metrics["sigmoid_argument/std"] == 0.0
    assert metrics["rewards/preferred"] == metrics["rewards/dispreferred"] == 0.0
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-7)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_gradients_reach_the_pair_and_nothing_else(dataset, pipeline, kind):
    model = pair_model(pipeline, kind=kind)
    if kind == "lora":
        randomise_adapters(model)
    forward_terms(model, dataset, pipeline).loss.mean().backward()
    trained = dict(model.named_parameters())
    for name, parameter in trained.items():
        is_pair = (".preferred" in name or ".dispreferred" in name) and (
            kind == "full" or "lora_" in name
        )
        assert parameter.requires_grad == is_pair, name
        assert (parameter.grad is not None) == is_pair, name
    assert sum(parameter.requires_grad for parameter in trained.values()) > 0
    for component in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert all(parameter.grad is None for parameter in component.parameters())


def test_both_adapters_get_gradients(dataset, pipeline):
    """Of A and of B, once B is not zero; at the start A's are zero because B is."""
    model = pair_model(pipeline)
    randomise_adapters(model)
    forward_terms(model, dataset, pipeline).loss.mean().backward()
    for layer in lora_layers(model):
        for role in ("preferred", "dispreferred"):
            assert layer.lora_A[role].weight.grad.abs().max() > 0
            assert layer.lora_B[role].weight.grad.abs().max() > 0


def test_only_the_trained_adapter_of_a_single_model_objective_learns(pipeline):
    model = pair_model(pipeline, name="diffusion-npo")
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning
    assert all("dispreferred" in name for name in learning)


def test_adapters_in_one_forward_equal_separate_forwards(dataset, pipeline):
    """Against peft's own way, one active adapter at a time: predictions and gradients."""
    model = pair_model(pipeline)
    randomise_adapters(model)
    batch, schedule = batch_and_schedule(dataset, pipeline)
    timesteps = schedule.timesteps[batch.levels]
    together = model(batch.latents, timesteps, batch.conditions)
    trained = [each for each in together if each.model != "reference"]
    sum(together[each].square().sum() for each in trained).backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    model.end_step()
    separate = copy.deepcopy(model)
    separate.zero_grad()
    denoiser = separate.denoisers["reference"]
    for each, output in together.items():
        for layer in lora_layers(denoiser):
            layer.set_adapter([] if each.model == "reference" else each.model)
        alone = denoiser(
            batch.latents[each.half], timesteps, **batch.conditions[each.condition]
        ).sample
        assert (output - alone).norm() <= 1e-5 * alone.norm(), each
        if each.model != "reference":
            alone.square().sum().backward()
    found = {n: p.grad for n, p in separate.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_the_preferred_adapter_does_not_touch_the_other_predictions(dataset, pipeline):
    model = pair_model(pipeline)
    batch, schedule = batch_and_schedule(dataset, pipeline)
    inputs = (batch.latents, schedule.timesteps[batch.levels], batch.conditions)
    before = model(*inputs)
    with torch.no_grad():
        for layer in lora_layers(model):
            layer.lora_B["preferred"].weight.fill_(0.1)
    after = model(*inputs)
    for each in before:
        assert torch.equal(before[each], after[each]) == (each.model != "preferred"), each


def test_the_dispreferred_model_and_its_reference_see_the_same_dropped_prompts(dataset, pipeline):
    """With untrained models, predictions on z⁻ under c′ are equal; under c they would not be."""
    outputs = pair_model(pipeline, kind="full").eval()
    batch, schedule = batch_and_schedule(dataset, pipeline, batch_size=4)
    predictions = outputs(batch.latents, schedule.timesteps[batch.levels], batch.conditions)
    trained = Prediction("dispreferred", "dispreferred", "dropped")
    reference = Prediction("reference", "dispreferred", "dropped")
    assert torch.equal(predictions[trained], predictions[reference])
    arguments = [batch.conditions[name]["encoder_hidden_states"] for name in ("prompt", "dropped")]
    assert not torch.equal(*arguments)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_same_seed_gives_the_same_losses_bit_for_bit(dataset, pipeline, make_config, kind):
    lines = []
    for output in ("first", "second"):
        config = make_config(output, model={"kind": kind}, optimizer={"learning_rate": 1e-3})
        torch.manual_seed(len(lines))
        train_on(config, dataset, pipeline)
        lines.append([line | dict.fromkeys(MEASURED, 0) for line in metrics_of(config)])
    assert lines[0] == lines[1]
    assert lines[0][0]["loss"] != lines[0][1]["loss"]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_batch_1_accumulated_4_times_equals_batch_4(dataset, pipeline, make_config, kind):
    """Losses and gradients agree, and the weights move alike: apart by under 1% of the way."""
    start = weights_of(pair_model(pipeline, kind=kind).trained_half("preferred"))
    found = []
    for batch_size, accumulation in ((4, 1), (1, 4)):
        config = make_config(
            f"batch_{batch_size}",
            model={"kind": kind},
            objective={"temperature": 1.0},
            optimizer={
                "num_steps": 3,
                "learning_rate": 1e-4,
                "batch_size": batch_size,
                "gradient_accumulation": accumulation,
            },
        )
        pair = load_pair(train_on(config, dataset, pipeline).pair)
        found.append((weights_of(pair.preferred), metrics_of(config)))
    (large, large_lines), (small, small_lines) = found
    for one, other in zip(large_lines, small_lines, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    assert distance(large, small) < 0.01 * distance(large, start)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum((one[name] - other[name]).square().sum().item() for name in one) ** 0.5


def weights_of(half) -> dict[str, torch.Tensor]:
    return half.state_dict() if isinstance(half, nn.Module) else dict(half)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_what_training_saves_load_pair_loads(dataset, pipeline, make_config, kind, name):
    config = make_config(
        model={"kind": kind}, objective={"name": name}, optimizer={"learning_rate": 1e-3}
    )
    result = train_on(config, dataset, pipeline)
    pair = load_pair(result.pair)
    assert tuple(pair.halves()) == OBJECTIVES[name].trained
    assert pair.metadata.objective == name
    assert pair.metadata.kind == kind
    assert pair.metadata.null_prompt == "empty"
    assert pair.metadata.rank == (2 if kind == "lora" else None)
    assert pair.metadata.provenance["data"] == "pairs"
    assert pair.metadata.provenance["optimizer"]["learning_rate"] == 1e-3
    base = pipeline.unet.state_dict()
    for half in pair.halves().values():
        for weight_name, weight in weights_of(half).items():
            assert torch.isfinite(weight).all()
            if kind == "lora" and "lora_B" in weight_name:
                assert weight.any()
        if kind == "full":
            assert any(not torch.equal(w, base[n]) for n, w in weights_of(half).items())
    assert ("rewards/margins" in result.metrics) == (name not in DENOISING)


def test_the_pipeline_stays_as_it_was(dataset, pipeline, make_config):
    before = state_copy(pipeline.unet)
    flags = [parameter.requires_grad for parameter in pipeline.unet.parameters()]
    train_on(make_config(optimizer={"learning_rate": 1e-2}), dataset, pipeline)
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert flags == [parameter.requires_grad for parameter in pipeline.unet.parameters()]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_training_lowers_the_loss(dataset, pipeline, make_config, kind):
    config = make_config(
        model={"kind": kind},
        objective={"temperature": 100.0},
        optimizer={"num_steps": 24, "batch_size": 4, "learning_rate": 3e-3},
    )
    train_on(config, dataset, pipeline)
    losses = [line["loss"] for line in metrics_of(config)]
    assert sum(losses[-8:]) / 8 < 0.9 * math.log(2)


def test_a_line_of_metrics_covers_its_window(dataset, pipeline, make_config):
    """Five steps, a line every two: after steps 2, 4 and, being the last, 5."""
    config = make_config(optimizer={"num_steps": 5}, run={"log_every": 2})
    result = train_on(config, dataset, pipeline)
    lines = metrics_of(config)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert lines[-1] == result.metrics
    assert set(lines[0]) == {
        "step",
        "loss",
        "rewards/preferred",
        "rewards/dispreferred",
        "rewards/margins",
        "rewards/accuracies",
        "sigmoid_argument/mean",
        "sigmoid_argument/std",
        "grad_norm",
        "lr",
        "pairs_per_second",
        "data_wait_seconds",
        "memory_gb",
    }


def test_bf16_starts_at_log_2_and_learns(dataset, pipeline, make_config):
    config = make_config(
        run={"mixed_precision": "bf16"}, optimizer={"num_steps": 3, "learning_rate": 1e-2}
    )
    train_on(config, dataset, pipeline)
    lines = metrics_of(config)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert lines[2]["loss"] != lines[0]["loss"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
    ],
)
def test_the_learning_rate_rises_and_falls_as_the_schedule_says(schedule, expected):
    """Two steps of warm-up (1/2, 1), then four at shares 0, 1/4, 1/2, 3/4 of the way down."""
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=2, num_steps=6, schedule=schedule)
    found = [learning_rate(step, settings) for step in range(1, 7)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_prediction_type_is_the_schedulers(prediction_type):
    schedule = NoiseSchedule.from_scheduler(DDIMScheduler(prediction_type=prediction_type))
    assert schedule.prediction_type == prediction_type
    torch.testing.assert_close(schedule.signal**2 + schedule.sigma**2, torch.ones(1000))


def test_the_levels_of_a_flow_model_run_from_noise_to_image():
    """z_t = (1 − t)·x₀ + t·ε, and the model is told 1000·t."""
    schedule = NoiseSchedule.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert schedule.prediction_type == "flow"
    torch.testing.assert_close(schedule.signal + schedule.sigma, torch.ones(1000))
    torch.testing.assert_close(schedule.timesteps, 1000 * schedule.sigma)


def test_a_shift_that_follows_the_pictures_size_is_the_samplers_own():
    """Flux: µ from 0.5 at 256 tokens to 1.15 at 4096; at 1024 tokens 0.5 + 0.65 · 768 / 3840."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    schedule = NoiseSchedule.from_scheduler(scheduler, num_tokens=1024)
    scheduler.set_timesteps(sigmas=[level / 1000 for level in range(1000, 0, -1)], mu=0.63)
    torch.testing.assert_close(schedule.sigma.flip(0), scheduler.sigmas[:-1])
    asked = NoiseSchedule.from_scheduler(scheduler, shift=3.0)
    plain = NoiseSchedule.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0))
    torch.testing.assert_close(asked.sigma, plain.sigma)


def test_the_command_line_trains_from_a_folder_to_a_pair(pipeline, tmp_path, monkeypatch, capsys):
    pipeline.save_pretrained(tmp_path / "base")
    write_preferences(tmp_path / "pairs")
    arguments = f"--model.base {tmp_path / 'base'} --data.path {tmp_path / 'pairs'} "
    arguments += f"--run.output {tmp_path / 'run'} --model.rank 2 --optimizer.num-steps 1"
    monkeypatch.setattr("sys.argv", ["training", *arguments.split()])
    assert main() == 0
    pair = load_pair(tmp_path / "run" / "pair")
    assert pair.metadata.base == str(tmp_path / "base")
    assert pair.metadata.target_modules == ("to_q", "to_k", "to_v", "to_out.0")
    assert main() == 1
    assert "holds a finished run" in capsys.readouterr().err


def test_a_mistake_in_the_data_is_told_before_the_model_is_loaded(make_config):
    config = make_config(model={"base": "no such model"})
    with pytest.raises(UserError, match=r"data folder .* does not exist"):
        train(config)
