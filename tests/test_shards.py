"""Tensors in files: damage, full disks and other processes first, then what is kept."""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from chats.errors import UserError
from training.data.shards import ShardStore, StoredRows

SMALL = 3000
"""Bytes of a file: three tensors of 16 numbers with their headers."""


def tensor(number: int) -> torch.Tensor:
    return torch.arange(16, dtype=torch.float32) + number


def filled(folder: Path, numbers=range(9), **options) -> ShardStore:
    store = ShardStore(folder, shard_bytes=SMALL, **options)
    with store.filling():
        for number in numbers:
            store.add(str(number), tensor(number))
    return store


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def found(folder: Path) -> set[int]:
    """Which of the nine tensors a new store finds, each of them whole."""
    store = ShardStore(folder)
    numbers = {number for number in range(9) if str(number) in store}
    assert all(torch.equal(store[str(number)], tensor(number)) for number in numbers)
    return numbers


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "gone"])
def test_a_damaged_file_is_as_if_it_had_never_been_and_is_made_anew(tmp_path, damage, caplog):
    filled(tmp_path)
    assert found(tmp_path) == set(range(9))
    victim = shards(tmp_path)[1]
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    changed = {
        "flip": bytes(content),
        "cut": victim.read_bytes()[:-8],
        "longer": victim.read_bytes() + b"x",
        "empty": b"",
    }
    victim.unlink()
    if damage != "gone":
        victim.write_bytes(changed[damage])
    left = found(tmp_path)
    assert len(left) == 6
    assert f"{victim} is damaged" in caplog.text

    store = ShardStore(tmp_path, shard_bytes=SMALL)
    with store.filling():
        missing = [number for number in range(9) if str(number) not in store]
        for number in missing:
            store.add(str(number), tensor(number))
    assert set(missing) == set(range(9)) - left
    assert found(tmp_path) == set(range(9))
    assert len(shards(tmp_path)) == 3


@pytest.mark.parametrize(
    "index", ["", "{", "[]", '{"version": 2, "shards": {}}', '{"version": 1, "shards": [1]}']
)
def test_a_damaged_index_is_as_if_there_were_nothing(tmp_path, index, caplog):
    filled(tmp_path)
    (tmp_path / "index.json").write_text(index)
    assert found(tmp_path) == set()
    assert "index.json is damaged" in caplog.text
    filled(tmp_path, range(3))
    assert found(tmp_path) == {0, 1, 2}
    assert len(shards(tmp_path)) == 1


def test_an_index_that_names_a_file_elsewhere_is_not_followed(tmp_path):
    filled(tmp_path / "other", range(3))
    name = shards(tmp_path / "other")[0].name
    index = json.loads((tmp_path / "other" / "index.json").read_text())
    index["shards"] = {f"../other/{name}": index["shards"][name]}
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "index.json").write_text(json.dumps(index))
    assert found(tmp_path / "cache") == set()


def test_what_a_killed_process_left_is_swept(tmp_path):
    filled(tmp_path, range(3))
    (tmp_path / f"{'0' * 32}.safetensors").write_bytes(b"renamed but not listed")
    (tmp_path / "abc.partial").write_bytes(b"half")
    filled(tmp_path, range(3, 6))
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json", ".lock", ""}
    assert len(shards(tmp_path)) == 2
    assert found(tmp_path) == set(range(6))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    store = ShardStore(tmp_path / "file" / "cache")
    with pytest.raises(UserError, match=r"Can't write the cache .*Set|set data\.cache"):
        store.filling().__enter__()


def test_a_full_disk_is_told_and_what_was_written_before_stays(tmp_path, monkeypatch):
    store = ShardStore(tmp_path, shard_bytes=SMALL)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def fill():
        with store.filling():
            for number in range(9):
                if number == 5:
                    monkeypatch.setattr("training.data.shards.save_file", full)
                store.add(str(number), tensor(number))

    with pytest.raises(UserError, match=r"No space left on device\. Free some space"):
        fill()
    assert found(tmp_path) == {0, 1, 2}
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("value", [1e6, float("inf"), float("nan")])
def test_numbers_that_do_not_fit_the_format_are_refused(tmp_path, value):
    store = ShardStore(tmp_path, dtype="float16")
    with store.filling(), pytest.raises(UserError, match=r"data\.cache_dtype"):
        store.add("a", torch.tensor([0.0, value]))
    assert "a" not in ShardStore(tmp_path)


def test_what_was_added_before_an_error_is_kept(tmp_path):
    store = ShardStore(tmp_path)

    def fail():
        with store.filling():
            store.add("0", tensor(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert found(tmp_path) == {0}


def test_a_missing_key_is_told():
    with pytest.raises(KeyError):
        ShardStore(Path("nowhere"))["a"]


def test_another_process_that_fills_the_folder_is_waited_for(tmp_path, caplog):
    """While this holds the lock and adds, the other waits; then it finds what was added."""
    caplog.set_level(logging.INFO)
    other = ShardStore(tmp_path)
    seen = []

    def fill():
        with other.filling():
            seen.append("0" in other)

    first = ShardStore(tmp_path)
    with first.filling():
        thread = threading.Thread(target=fill)
        thread.start()
        while "waiting for it" not in caplog.text:
            assert thread.is_alive()
        first.add("0", tensor(0))
        assert seen == []
    thread.join()
    assert seen == [True]


def test_two_processes_that_fill_at_once_lose_nothing(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.test_shards import filled\n"
        "filled(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])))"
    )
    root = Path(__file__).parents[1]
    processes = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path, first, last], cwd=root)
        for first, last in (("0", "6"), ("4", "9"))
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert found(tmp_path) == set(range(9))


def test_files_are_of_bounded_size_and_listed_with_size_and_hash(tmp_path):
    filled(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert set(index["shards"]) == {path.name for path in shards(tmp_path)}
    assert len(index["shards"]) == 3
    for path in shards(tmp_path):
        assert index["shards"][path.name]["size"] == path.stat().st_size < SMALL


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numbers_come_back_as_float32_and_whole_numbers_as_they_are(tmp_path, dtype):
    store = ShardStore(tmp_path, dtype=dtype)
    values = torch.tensor([1.0, 1 / 3, -70.5])
    with store.filling():
        store.add("a", values)
        store.add("mask", torch.tensor([1, 0, 1]))
    expected = values if dtype == "float32" else values.half().float()
    assert torch.equal(ShardStore(tmp_path)["a"], expected)
    assert torch.equal(ShardStore(tmp_path)["mask"], torch.tensor([1, 0, 1]))


def test_rows_read_as_a_tensor_does(tmp_path):
    """The rows 0 to 8 and, in front, one of zeros; also while they are not written yet."""
    store = filled(tmp_path)
    rows = StoredRows(store, [None, *map(str, range(9))])
    whole = torch.stack([torch.zeros(16), *map(tensor, range(9))])
    assert (rows.shape, rows.dtype, len(rows)) == (whole.shape, whole.dtype, 10)
    for places in ([3, 3, 0], torch.tensor([9, 1]), range(10)):
        assert torch.equal(rows[places], whole[[int(place) for place in places]])


def test_a_lock_is_the_only_thing_that_an_unused_store_makes(tmp_path):
    with ShardStore(tmp_path / "new").filling():
        assert FileLock(tmp_path / "new" / ".lock").lock_file
    assert shards(tmp_path / "new") == []
    assert not (tmp_path / "new" / "index.json").exists()
