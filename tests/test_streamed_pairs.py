"""Streams of the Hub, local parquet files in its place: each row once, wherever one resumes."""

import io
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from chats.errors import UserError
from tests.tiny import tiny_pipeline
from tests.tiny_tables import write
from training.config import DataSettings, TrainingConfig
from training.data.batches import DrawSettings
from training.data.opening import open_batches, read_rows
from training.loop.metrics import MEASURED
from training.loop.trainer import train_on
from training.preferences.stream import PairStream
from training.run import RunDirectory

HUB_ID = Path("somebody/preferences")
FILES, ROWS = 4, 5
PROMPTS = [f"{file} {row}" for file in range(FILES) for row in range(ROWS)]
SHORT = DrawSettings(
    seed=0,
    batch_size=3,
    level_at=lambda uniform: int(1000 * uniform),
    prompt_drop=0.0,
    dispreferred_prompt_drop=0.5,
)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline("sd15", dtype=torch.float32)


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def table(file: int) -> dict[str, list]:
    return {
        "prompt": PROMPTS[file * ROWS : (file + 1) * ROWS],
        "chosen": [{"bytes": png(100 * file + row), "path": None} for row in range(ROWS)],
        "rejected": [{"bytes": png(9000 + 100 * file + row), "path": None} for row in range(ROWS)],
    }


@pytest.fixture
def put_on_hub(monkeypatch, tmp_path):
    """Stand parquet files in for the Hub's only data set; row groups of two rows."""
    load_local = datasets.load_dataset

    def put(change=lambda file, columns: None) -> None:
        paths = []
        for file in range(FILES):
            columns = table(file)
            change(file, columns)
            path = tmp_path / "hub" / f"{file}.parquet"
            paths.append(str(write(path, columns, row_group_size=2)))

        def load_dataset(repo_id, *, split, streaming):
            assert (repo_id, split, streaming) == (HUB_ID.as_posix(), "train", True)
            dataset = load_local(
                "parquet",
                data_files={"train": paths},
                split="train",
                streaming=True,
                cache_dir=str(tmp_path / "hf"),
            )
            return dataset.cast_column("chosen", datasets.Image())

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    return put


def settings_of(**changes) -> DataSettings:
    return DataSettings(
        **{"path": HUB_ID, "streaming": True, "encode": "online", "shuffle_buffer": 4} | changes
    )


def opened(pipeline, run, *, num_processes=1, process_index=0, **changes):
    settings = settings_of(**changes)
    rows = read_rows(settings, num_processes=num_processes, process_index=process_index)
    return open_batches(rows, pipeline, settings, run=run)


def prompts_of(source, num_pairs, *, after=0, seed=0, num_processes=1, process_index=0):
    """The prompts of the next pairs, drawn one by one."""
    draws = replace(
        SHORT, batch_size=1, seed=seed, num_processes=num_processes, process_index=process_index
    )
    seen = []
    decode = source._encoder.decode

    def noted(chosen, **options):
        rows = decode(chosen, **options)
        seen.extend(rows.prompts)
        return rows

    source._encoder.decode = noted
    batches = source.batches(draws, after=after)
    list(islice(batches, num_pairs))
    batches.close()
    return seen


def test_a_stream_that_could_not_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"needs max_pairs, .* or encode online"):
        settings_of(encode="ahead")
    with pytest.raises(ValueError, match="buckets need max_pairs"):
        settings_of(buckets=True)
    with pytest.raises(UserError, match=r"is not on the Hub; .*Set data\.streaming"):
        read_rows(settings_of(path=tmp_path))


def test_nothing_of_a_stream_can_be_held_out(tmp_path):
    groups = {"data": settings_of().model_dump(), "run": {"output": tmp_path / "run"}}
    with pytest.raises(ValueError, match=r"validation\.held_out needs data\.max_pairs"):
        TrainingConfig.model_validate(groups | {"validation": {"held_out": 2}})


def test_a_missing_column_is_named_before_anything_is_loaded(put_on_hub):
    put_on_hub(lambda _, columns: columns.__setitem__("text", columns.pop("prompt")))
    with pytest.raises(UserError, match="no column 'prompt'"):
        read_rows(settings_of())


def test_a_row_that_cannot_be_used_ends_the_training_or_is_left_out(put_on_hub, pipeline, tmp_path):
    put_on_hub(lambda file, columns: file == 1 and columns["prompt"].__setitem__(2, ""))
    with pytest.raises(UserError, match=r"Row 8: prompt is empty"):
        prompts_of(opened(pipeline, tmp_path / "run"), 20)
    found = prompts_of(opened(pipeline, tmp_path / "skip", on_bad_rows="skip"), 19)
    assert sorted(found) == sorted(set(PROMPTS) - {"1 2"})


def test_a_damaged_picture_ends_the_training_or_another_takes_its_place(
    put_on_hub, pipeline, tmp_path
):
    put_on_hub(lambda file, columns: file == 0 and columns["chosen"][1].update(bytes=b"damaged"))
    with pytest.raises(UserError, match=r"Row 2: chosen is no PNG"):
        prompts_of(opened(pipeline, tmp_path / "run"), 4)
    found = prompts_of(opened(pipeline, tmp_path / "skip", on_bad_rows="skip"), 4)
    assert len(found) == 4
    assert set(found) == {"0 0", "0 2", "0 3"}


def test_a_process_without_rows_is_told(put_on_hub, pipeline, tmp_path):
    put_on_hub(lambda _, columns: columns.__setitem__("prompt", [""] * ROWS))
    with pytest.raises(UserError, match="holds no pair that can be used for process 0 of 1"):
        prompts_of(opened(pipeline, tmp_path / "run", on_bad_rows="skip"), 1)


def test_a_stream_that_breaks_off_ends_the_training(put_on_hub, pipeline, tmp_path):
    put_on_hub()
    (tmp_path / "hub" / "2.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match=r"The split 'train' of somebody/preferences can't be read"):
        prompts_of(opened(pipeline, tmp_path / "run"), 20)


def test_each_epoch_gives_each_row_once_in_its_own_order(put_on_hub, pipeline, tmp_path):
    put_on_hub()
    found = prompts_of(opened(pipeline, tmp_path / "run"), 40)
    first, second = found[:20], found[20:]
    assert sorted(first) == sorted(second) == sorted(PROMPTS)
    assert first != second
    assert first != PROMPTS
    assert found[:20] != prompts_of(opened(pipeline, tmp_path / "other"), 20, seed=1)


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_the_rows_out(put_on_hub, pipeline, tmp_path, num_processes):
    """Four files among two are two each; among three, every third row."""
    put_on_hub()
    found = []
    for index in range(num_processes):
        part = {"num_processes": num_processes, "process_index": index}
        source = opened(pipeline, tmp_path / "run", **part)
        num_rows = len(PROMPTS[index::num_processes])
        found += prompts_of(source, num_rows, **part)
    assert sorted(found) == sorted(PROMPTS)


@pytest.mark.parametrize("num_processes", [1, 3])
@pytest.mark.parametrize("has_notes", [True, False])
def test_a_resume_neither_skips_nor_doubles_a_row(
    put_on_hub, pipeline, tmp_path, has_notes, num_processes
):
    """Within blocks and between epochs, with the notes of the run, torn in one line, or without."""
    put_on_hub()
    part = {"num_processes": num_processes, "process_index": num_processes - 1}
    total = 3 * len(PROMPTS) // num_processes
    whole = prompts_of(opened(pipeline, tmp_path / "run", **part), total, **part)
    (notes,) = (tmp_path / "run" / "stream").iterdir()
    lines = notes.read_text().splitlines()
    assert len(lines) > 4
    lines[2] = lines[2][:20]
    for after in (1, total // 3, total // 2 + 1, total - 5):
        if has_notes:
            notes.write_text("\n".join(lines) + "\n")
        else:
            notes.unlink(missing_ok=True)
        source = opened(pipeline, tmp_path / "run", **part)
        assert prompts_of(source, total - after, after=after, **part) == whole[after:]


def test_a_resume_reads_only_what_comes_after(put_on_hub, pipeline, tmp_path, monkeypatch):
    put_on_hub()
    prompts_of(opened(pipeline, tmp_path / "run"), 16)
    read, pairs = [], PairStream.pairs

    def noted(stream, place=None):
        for pair, after in pairs(stream, place):
            read.append(pair.prompt)
            yield pair, after

    monkeypatch.setattr(PairStream, "pairs", noted)
    prompts_of(opened(pipeline, tmp_path / "run"), 2, after=13)
    assert read[:4] == PROMPTS[12:16]


def test_another_number_of_processes_is_refused(put_on_hub, pipeline, tmp_path):
    put_on_hub()
    prompts_of(opened(pipeline, tmp_path / "run"), 8)
    two = opened(pipeline, tmp_path / "run", num_processes=2)
    with pytest.raises(UserError, match="with 1 processes; go on with as many, not with 2"):
        prompts_of(two, 1, after=2, num_processes=2)


def test_a_run_that_starts_afresh_forgets_the_notes_of_an_earlier_start(
    put_on_hub, pipeline, tmp_path
):
    put_on_hub()
    notes = tmp_path / "run" / "stream" / "process-0.jsonl"
    notes.parent.mkdir(parents=True)
    notes.write_text(json.dumps({"num_processes": 1, "num_before": 4, "epoch": 9}) + "\n")
    prompts_of(opened(pipeline, tmp_path / "run"), 1)
    assert '"epoch": 9' not in notes.read_text()


def test_no_two_rows_of_a_run_share_their_noise(put_on_hub, pipeline, tmp_path):
    put_on_hub()
    noise = set()
    for index in (0, 1):
        part = {"num_processes": 2, "process_index": index}
        batches = opened(pipeline, tmp_path / "run", **part).batches(
            replace(SHORT, batch_size=5, **part), after=0
        )
        for finish in islice(batches, 4):
            noise |= {each.sum().item() for each in finish().noise}
        batches.close()
    assert len(noise) == 40


def test_a_training_on_a_stream_resumes_bit_for_bit(put_on_hub, pipeline, tmp_path):
    put_on_hub()

    def config_of(output, num_steps):
        return TrainingConfig.model_validate(
            {
                "data": settings_of().model_dump(),
                "model": {"rank": 2, "lora_alpha": 4},
                "objective": {"temperature": 100.0},
                "optimizer": {"num_steps": num_steps, "batch_size": 3, "learning_rate": 1e-3},
                "run": {"output": tmp_path / output, "log_every": 1, "save_every": 4},
            }
        )

    def trained(config):
        train_on(config, opened(pipeline, config.run.output), pipeline)

    def lines(config):
        found = RunDirectory(config.run.output).read_metrics()
        return [{name: line[name] for name in line.keys() - MEASURED} for line in found]

    whole, cut = config_of("whole", 9), config_of("cut", 9)
    trained(whole)
    broken = opened(pipeline, cut.run.output)
    decode, calls = broken._encoder.decode, []

    def breaks_off(chosen, **options):
        calls.append(1)
        if len(calls) == 7:
            raise UserError("the network is gone")
        return decode(chosen, **options)

    broken._encoder.decode = breaks_off
    with pytest.raises(UserError, match="the network is gone"):
        train_on(cut, broken, pipeline)
    trained(cut)
    assert lines(cut) == lines(whole)
