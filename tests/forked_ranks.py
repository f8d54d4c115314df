"""Trains in processes that are forked, not started: importing costs more than training.

    python -m tests.forked_ranks JOBS.json

Each job is a training: its config, the engine whose file says the environment, as `accelerate
launch` reads it, the number of processes, the number of a batch at which all of them kill
themselves (0: none), and the number of a backward whose gradient is infinite (0: none). Writes the
hash of the weights that rank N ends with to OUTPUT/rank-N; of a training that such a gradient
stopped, why, and whether the weights are still those of its checkpoint.
"""

import hashlib
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import ClassVar

import torch
from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, parse_flag_from_env
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from tests.tiny import tiny_pipeline
from training.config import TrainingConfig
from training.data.encoded_pairs import encode_pairs
from training.launch import ENGINES
from training.loop import trainer
from training.loop.checkpoints import newest_checkpoint
from training.loop.pair_model import PairModel
from training.loop.sharding import whole
from training.preferences import read_pairs


class KeptPairModel(PairModel):
    """A pair model that can be looked at after the training."""

    made: ClassVar[list[PairModel]] = []
    infinite_at: ClassVar[int] = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.made.append(self)
        self.num_backwards = 0
        next(self.trained_parameters()).register_hook(self._spoil)

    def _spoil(self, gradient):
        self.num_backwards += 1
        return gradient * torch.inf if self.num_backwards == self.infinite_at else gradient


def main() -> None:
    """Do the jobs one after the other; a rank that fails ends it."""
    torch.set_num_threads(1)
    pipeline = tiny_pipeline("sd15", dtype=torch.float32)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    if any(job["engine"] == "zero2" for job in jobs):
        importlib.import_module("deepspeed")  # once, and not in every child
    for job in jobs:
        config = TrainingConfig.model_validate(job["config"])
        dataset = encode_pairs(read_pairs(config.data.path), pipeline)
        environment = environment_of(job["engine"], job["num_processes"])
        children = []
        for rank in range(job["num_processes"]):
            child = os.fork()
            if child == 0:
                os.environ.update(environment)
                if job["num_processes"] > 1:
                    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
                KeptPairModel.infinite_at = job["infinite_at"]
                _train(config, dataset, pipeline, kill_at=job["kill_at"])
                os._exit(0)
            children.append(child)
        expected = -signal.SIGKILL if job["kill_at"] else 0
        for child in children:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status != expected:
                for other in children:
                    if other != child:
                        os.kill(other, signal.SIGKILL)
                sys.exit(f"{job['engine']}: a rank ended with {status}, not with {expected}")


def environment_of(engine: str, num_processes: int) -> dict[str, str]:
    """Return what `accelerate launch` would set, on the CPU."""
    if num_processes == 1:
        return {"ACCELERATE_USE_CPU": "true"}
    command = ["--config_file", str(ENGINES / f"{engine}.yaml"), "-m", "training"]
    command[2:2] = ["--num_processes", str(num_processes)]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    prepared = prepare_multi_gpu_env(arguments)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ""  # as the launch itself sets it
        _, prepared = prepare_deepspeed_cmd_env(arguments)
    return prepared | {
        "ACCELERATE_USE_CPU": "true",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
    }


def shard_on_the_cpu() -> None:
    """Let accelerate use FSDP here: it asks for GPUs, though torch can do it over gloo."""
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def share_states_on_the_cpu() -> None:
    """Let accelerate use DeepSpeed here: it takes no CPU, though DeepSpeed itself does."""
    import deepspeed.ops

    # Exchange through shared memory is an extension that a compiler would be needed for.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.DEEPSPEED
    os.environ.pop("ACCELERATE_USE_CPU", None)


def _train(config, dataset, pipeline, *, kill_at: int) -> None:
    try:
        if parse_flag_from_env("ACCELERATE_USE_FSDP"):
            shard_on_the_cpu()
        if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
            share_states_on_the_cpu()
        trainer.PairModel = KeptPairModel
        trainer.draw_batch = _killing(trainer.draw_batch, at=kill_at)
        try:
            trainer.train_on(config, dataset, pipeline, held_out=dataset)
            left = _digest(KeptPairModel.made[0])
        except trainer.TrainingStoppedError as error:
            left = f"{error} Unchanged: {_is_of_the_checkpoint(KeptPairModel.made[0], config)}"
        (config.run.output / f"rank-{PartialState().process_index}").write_text(left)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def _digest(model) -> str:
    digest = hashlib.sha256()
    for parameter in model.trained_parameters():
        digest.update(whole(parameter.detach()).numpy().tobytes())
    return digest.hexdigest()


def _is_of_the_checkpoint(model, config) -> bool:
    saved, _ = newest_checkpoint(config.run.output / "checkpoints").load()
    return all(
        torch.equal(parameter, saved["model"][name])
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )


def _killing(draw, *, at: int):
    calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(*args, **kwargs)

    return counted


if __name__ == "__main__":
    main()
