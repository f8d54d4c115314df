"""A data set in a zip: what is refused whole, and what is unpacked once."""

import stat
import zipfile
from pathlib import Path

import pytest

from chats.errors import UserError
from tests.tiny_preferences import write_preferences
from training.config import DataSettings
from training.preferences import read_pairs, read_preferences
from training.preferences.archive import ArchiveLimits, unpack


def zipped(path: Path, members: dict[str, bytes], *, kind: int = 0, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(inside + name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (kind | 0o644) << 16
            archive.writestr(info, content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def folder(tmp_path):
    return write_preferences(tmp_path / "source" / "pairs")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "unpacked"


def nothing_was_left(target: Path) -> bool:
    return all(path.suffix == ".lock" for path in target.iterdir())


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "/x.png", "..\\x.png", "C:\\x.png", "c:x.png"]
)
def test_a_path_that_leads_out_is_refused_with_all_of_the_archive(tmp_path, target, name):
    archive = zipped(tmp_path / "slip.zip", {"good.png": b"1", name: b"2"})
    with pytest.raises(UserError, match=r"slip\.zip is refused: .* leads out"):
        unpack(archive, target)
    assert nothing_was_left(target)
    assert not list(tmp_path.glob("**/x.png"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path, target, kind):
    archive = zipped(tmp_path / "link.zip", {"link.png": b"/etc/passwd"}, kind=kind)
    with pytest.raises(UserError, match="is a link or a device"):
        unpack(archive, target)
    assert nothing_was_left(target)


def test_a_bomb_is_refused_while_it_unpacks(tmp_path, target):
    """64 MB of zeros hide in 62 kB: a thousandfold, where 200-fold is allowed."""
    archive = zipped(tmp_path / "bomb.zip", {"zeros.png": bytes(2**26)})
    assert archive.stat().st_size < 70_000
    with pytest.raises(UserError, match="refused: it unpacks to more than"):
        unpack(archive, target)
    assert nothing_was_left(target)


def test_what_an_archive_says_of_its_sizes_is_not_believed(tmp_path, target):
    """The directory claims 1 byte for each of the files, which hold 1000."""
    archive = zipped(tmp_path / "lie.zip", {"a.png": bytes(1000)})
    data = bytearray(archive.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    data[start + 24 : start + 28] = (1).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(UserError, match="no zip file or is damaged"):
        unpack(archive, target)
    assert nothing_was_left(target)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (ArchiveLimits(num_files=3), "more than 3 files"),
        (ArchiveLimits(num_bytes=1000), "more than 1,000 bytes"),
    ],
)
def test_too_many_files_and_too_many_bytes_are_refused(tmp_path, target, limits, message):
    archive = zipped(tmp_path / "big.zip", {f"{number}.png": bytes(300) for number in range(4)})
    with pytest.raises(UserError, match=message):
        unpack(archive, target, limits=limits)
    assert nothing_was_left(target)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_file_that_is_there_twice_is_refused(tmp_path, target):
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"1")
        archive.writestr("a.png", b"2")
    with pytest.raises(UserError, match=r"holds 'a\.png' twice"):
        unpack(path, target)


def test_a_file_under_a_file_is_refused(tmp_path, target):
    archive = zipped(tmp_path / "odd.zip", {"a": b"1", "a/b.png": b"2"})
    with pytest.raises(UserError, match=r"odd\.zip can't be unpacked"):
        unpack(archive, target)
    assert nothing_was_left(target)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"not a zip"])
def test_what_is_no_zip_is_refused(tmp_path, target, damage):
    path = tmp_path / "bad.zip"
    path.write_bytes(damage)
    with pytest.raises(UserError, match=r"bad\.zip is no zip file or is damaged"):
        unpack(path, target)


def test_a_damaged_member_is_refused(tmp_path, target):
    archive = zipped(tmp_path / "bad.zip", {"a.png": bytes(range(256)) * 8})
    data = bytearray(archive.read_bytes())
    data[60] ^= 255
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.zip is no zip file or is damaged"):
        unpack(archive, target)
    assert nothing_was_left(target)


def test_an_encrypted_archive_is_refused(tmp_path, target):
    archive = zipped(tmp_path / "secret.zip", {"a.png": b"1"})
    data = bytearray(archive.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        unpack(archive, target)


@pytest.mark.parametrize("inside", ["", "pairs/"])
def test_a_zip_of_a_folder_reads_as_the_folder_does(tmp_path, folder, inside):
    members = contents(folder) | {"__MACOSX/junk": b"", ".DS_Store": b""}
    archive = zipped(tmp_path / "pairs.zip", members, inside=inside)
    expected, pairs = read_pairs(folder), read_pairs(archive)
    assert [(pair.row, pair.prompt) for pair in pairs] == [
        (pair.row, pair.prompt) for pair in expected
    ]
    assert [pair.preferred.read() for pair in pairs] == [pair.preferred.read() for pair in expected]


def test_an_archive_is_unpacked_once_and_again_when_it_changes(tmp_path, folder):
    archive = zipped(tmp_path / "pairs.zip", contents(folder))
    settings = DataSettings(path=archive, cache=tmp_path / "cache")
    first = read_preferences(settings)[0].preferred.path
    assert first.is_relative_to(tmp_path / "cache" / "unpacked")
    first.write_bytes(b"marked")
    assert read_preferences(settings)[0].preferred.read() == b"marked"
    zipped(archive, contents(folder) | {"more": b""})
    assert read_preferences(settings)[0].preferred.path != first


def test_what_a_killed_process_left_is_replaced(tmp_path, folder, target):
    archive = zipped(tmp_path / "pairs.zip", contents(folder))
    whole = unpack(archive, target)
    whole.rename(whole.with_name(f".{whole.name}.partial"))
    assert unpack(archive, target) == whole
    assert contents(whole) == contents(folder)
    assert [path.name for path in target.iterdir() if path.suffix == ".partial"] == []
