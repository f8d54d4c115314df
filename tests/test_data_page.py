"""The Data tab of the real server: hostile uploads, the API, and a person in chromium."""

import csv
import io
import itertools
import json
import random
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Page, expect

from chats.shapes.prompts import pair_specs
from chats.shapes.world import caption, place, render, violate
from tests.browsing import NARROW, WIDE, keep, visit
from tests.serving import serve
from tests.tiny_tables import write

MAX_SERVER_BYTES = 1.5 * 2**30


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("server"), "--device", "cpu") as running:
        yield running


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    made = Client(server.url, download_files=str(tmp_path_factory.mktemp("files")), verbose=False)
    yield made
    made.close()


def png(color="red", size=(24, 16)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()


def row(prompt="a red circle", chosen="a.png", rejected="b.png") -> dict[str, str]:
    return {"prompt": prompt, "chosen_file_name": chosen, "rejected_file_name": rejected}


def jsonl(*rows) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in rows).encode()


def table(*rows) -> dict[str, bytes]:
    return {"metadata.jsonl": jsonl(*(rows or (row(),)))}


PICTURES = {"a.png": png("red"), "b.png": png("blue")}


def zipped(path: Path, members: dict[str, bytes], *, kind: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (kind | 0o644) << 16
            archive.writestr(info, content)
    return path


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says it is huge: a few hundred bytes, whatever it says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99)))


def send(client, path: Path, **named):
    return client.predict(file=handle_file(path), **named, api_name="/dataset_import")


def peak_bytes(server) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def left_behind(server) -> list[str]:
    """What lies in the workspace beside data sets; gradio leaves a file of 0 bytes."""
    staged = [path.name for path in (server.workspace / "datasets").glob(".staged-*")]
    files = [path for path in (server.workspace / "cache").rglob("*") if path.is_file()]
    uploads = [path.name for path in files if path.stat().st_size]
    return staged + uploads


HOSTILE = {
    "zip slip": ({"../../x.png": b"1", **table()}, "leads out of the archive"),
    "absolute": ({"/etc/x.png": b"1", **table()}, "leads out of the archive"),
    "windows drive": ({"C:\\x.png": b"1", **table()}, "leads out of the archive"),
    "zip bomb": ({"zeros.png": bytes(2**26), **table()}, "unpacks to more than"),
    "endless line": (
        {"metadata.jsonl": b"x" * 2**22, "noise.bin": random.Random(0).randbytes(2**16)},
        "longer than 1,048,576 characters",
    ),
    "png bomb": (
        {"a.png": png_of_size(50_000, 50_000), "b.png": PICTURES["b.png"], **table()},
        "1 × too many pixels",
    ),
    "truncated png": (
        {"a.png": png(size=(300, 300))[:200], "b.png": PICTURES["b.png"], **table()},
        "damaged picture.*Is it cut short",
    ),
    "wrong content": (
        {"a.png": b"#!/bin/sh", "b.png": PICTURES["b.png"], **table()},
        "a.png is no PNG, JPEG or WebP",
    ),
    "missing pictures": (table(), "missing picture.*there is no image 'a.png'"),
    "outside": (table(row(chosen="../../../../etc/passwd")), "leads out of the folder"),
    "not utf-8": ({"metadata.csv": b"prompt,chosen\n\xff\xfe,b\n"}, "not UTF-8"),
    "no table": (PICTURES, "holds neither metadata.jsonl nor metadata.csv"),
    "two tables": ({"a.csv": b"x", "b.csv": b"y"}, "holds 2 tables"),
    "no columns": (table({"text": "x", "image": "a.png"}), "no column 'prompt'"),
    "no rows": ({"metadata.jsonl": b"\n"}, "holds no rows"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_zip_gets_a_clear_answer_and_leaves_nothing(client, server, tmp_path, name):
    members, message = HOSTILE[name]
    before = client.predict(api_name="/datasets_list")
    with pytest.raises(AppError, match=f"(?s){message}"):
        send(client, zipped(tmp_path / "hostile.zip", members))
    assert client.predict(api_name="/datasets_list") == before
    kept = left_behind(server)
    assert kept == (["hostile.zip"] if name == "no columns" else [])  # they may be named yet
    for path in (server.workspace / "cache").rglob("hostile.zip"):
        path.unlink()


def test_a_link_in_a_zip_is_refused(client, tmp_path):
    path = zipped(tmp_path / "link.zip", {"a.png": b"/etc/passwd"}, kind=stat.S_IFLNK)
    with pytest.raises(AppError, match="is a link or a device"):
        send(client, path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.tar", b"x", r"pairs\.tar is no \.zip and no \.parquet"),
        ("pairs.zip", b"x", "no zip file or is damaged"),
        ("pairs.parquet", b"x", "no parquet file or is damaged"),
        ("pairs.parquet.exe", b"MZ", r"is no \.zip and no \.parquet"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(
    client, server, tmp_path, name, content, message
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AppError, match=message):
        send(client, tmp_path / name)


def test_a_hundred_thousand_rows_without_pictures_are_counted(client, server, tmp_path):
    rows = [row(prompt=f"prompt {number}", chosen=f"{number}.png") for number in range(100_000)]
    path = zipped(tmp_path / "many.zip", table(*rows, row()) | PICTURES)
    answer = send(client, path)
    report = answer["report"]
    assert (report["num_read"], report["num_kept"]) == (100_001, 1)
    assert report["dropped"] == {"missing picture": 100_000}
    assert len(report["faults"]) == 200
    client.predict(dataset=answer["dataset"], confirm=True, api_name="/dataset_delete")


def test_a_forty_million_pixel_picture_is_taken_and_shown_in_bounded_memory(
    client, server, tmp_path
):
    """Decoded it takes 160 MB; every step beyond that would show in the server's peak."""
    stream = io.BytesIO()
    Image.new("RGBA", (8000, 5000), (9, 9, 9, 99)).save(stream, "PNG", compress_level=1)
    members = table() | {"a.png": stream.getvalue(), "b.png": PICTURES["b.png"]}
    answer = send(client, zipped(tmp_path / "large.zip", members))
    assert answer["report"]["sizes"] == {"8000 × 5000": 1, "24 × 16": 1}
    client.predict(dataset=answer["dataset"], confirm=True, api_name="/dataset_delete")
    assert peak_bytes(server) < MAX_SERVER_BYTES


def test_names_of_every_system_are_understood(client, tmp_path):
    """A nested folder, Windows' paths, spaces, emoji, and an ö that macOS writes as two letters."""
    rows = io.StringIO()
    writer = csv.DictWriter(rows, ["prompt", "chosen", "rejected"])
    writer.writeheader()
    writer.writerow({"prompt": "one", "chosen": "my pics\\a 1.png", "rejected": "my pics/🙂.png"})
    writer.writerow({"prompt": "two", "chosen": "sch\u00f6n.PNG", "rejected": "my pics/🙂.png"})
    members = {
        "set/inner/pairs.csv": "\ufeff".encode() + rows.getvalue().encode(),
        "set/inner/my pics/a 1.png": png("red"),
        "set/inner/my pics/🙂.png": png("blue"),
        "set/inner/scho\u0308n.PNG": png("green"),
        "set/inner/._pairs.csv": b"\0\5",
        "__MACOSX/set/inner/._pairs.csv": b"\0\5",
        "set/.DS_Store": b"\0",
    }
    answer = send(client, zipped(tmp_path / "bunt 🙂.zip", members))
    assert answer["report"]["num_kept"] == 2
    client.predict(dataset=answer["dataset"], confirm=True, api_name="/dataset_delete")


def test_columns_of_any_table_may_be_named_and_ties_are_told(client, tmp_path):
    columns = {
        "text": ["a", "b", "c"],
        "left": [{"bytes": png("red"), "path": None}] * 3,
        "right": [{"bytes": png("blue"), "path": None}] * 3,
        "l": [1, 0, 0.5],
        "r": [0, 1, 0.5],
    }
    path = write(tmp_path / "own.parquet", columns)
    with pytest.raises(AppError, match=r"it has \['l', 'left', 'r', 'right', 'text'\]"):
        send(client, path)
    answer = send(
        client,
        path,
        name="Mine",
        prompt_column="text",
        preferred_column="left",
        dispreferred_column="right",
        first_label="l",
        second_label="r",
    )
    assert (answer["report"]["num_kept"], answer["report"]["ties"]) == (2, [3])
    rows = client.predict(dataset=answer["dataset"], api_name="/dataset_rows")["rows"]
    assert rows[0]["chosen_file_name"] == rows[1]["rejected_file_name"]
    with pytest.raises(AppError, match="Two label columns are needed"):
        send(client, path, first_label="l")
    client.predict(dataset=answer["dataset"], confirm=True, api_name="/dataset_delete")


@pytest.mark.parametrize("name", ["20260101-00000000", "../work", ""])
def test_every_action_refuses_an_id_that_is_not_there(client, name):
    actions = {
        "dataset_validate": {},
        "dataset_rows": {},
        "dataset_edit": {"action": "undo"},
        "dataset_export": {},
        "dataset_push": {"repo_id": "owner/name"},
        "dataset_delete": {"confirm": True},
    }
    for action, named in actions.items():
        with pytest.raises(AppError, match=r"^There is no data set [^\n]*$"):
            client.predict(dataset=name, **named, api_name=f"/{action}")


@pytest.mark.parametrize("repo_id", ["", "no-owner", "/etc/passwd", "../x", "training/recipes"])
def test_what_is_no_id_of_the_hub_is_refused_and_never_a_folder(client, repo_id):
    for action in ("dataset_preview_hub", "dataset_import_hub"):
        with pytest.raises(AppError, match=r"is no id of the Hub|also a folder of the server"):
            client.predict(repo_id=repo_id, api_name=f"/{action}")


def test_without_a_network_the_hub_is_one_clear_message(client):
    for action in ("dataset_preview_hub", "dataset_import_hub"):
        with pytest.raises(AppError, match=r"somebody/preferences.*Hub cannot be reached"):
            client.predict(repo_id="somebody/preferences", api_name=f"/{action}")


def shapes_zip(path: Path, *, num_pairs: int) -> Path:
    """Pairs of the rendered world; then a row without its picture, and the first row again."""
    rng = random.Random(7)
    members, rows = {}, []
    for number, spec in enumerate(itertools.islice(pair_specs(), num_pairs)):
        for half, wanted in (("chosen", spec), ("rejected", violate(spec, rng))):
            stream = io.BytesIO()
            Image.fromarray(render(place(wanted, rng))).save(stream, "PNG")
            members[f"{number}-{half}.png"] = stream.getvalue()
        rows.append(row(caption(spec), f"{number}-chosen.png", f"{number}-rejected.png"))
    rows += [row("a lost picture", "lost.png", "0-rejected.png"), rows[0]]
    return zipped(path, members | table(*rows))


def test_a_program_imports_edits_checks_exports_and_deletes(client, server, tmp_path):
    path = shapes_zip(tmp_path / "shapes.zip", num_pairs=4)
    job = client.submit(file=handle_file(path), name="By program", api_name="/dataset_import")
    dataset = job.result()["dataset"]
    (listed,) = client.predict(api_name="/datasets_list")
    assert (listed["id"], listed["name"], listed["origin"]) == (
        dataset,
        "By program",
        "File (zip): shapes.zip",
    )
    assert (listed["num_pairs"], listed["version"]) == (5, 1)
    named = {"dataset": dataset, "api_name": "/dataset_edit"}
    repeats = client.predict(dataset=dataset, only="repeats", api_name="/dataset_rows")
    assert [each["row"] for each in repeats["rows"]] == [6]
    assert client.predict(action="drop", rows=[6], **named)["num_pairs"] == 4
    client.predict(action="prompt", rows=[1], prompt="a new\x07 prompt", **named)
    assert client.predict(action="swap", rows=[2], **named)["version"] == 4
    assert client.predict(action="undo", **named) == {
        "version": 5,
        "action": "undo",
        "rows": [2],
        "num_pairs": 4,
    }
    for wrong in (
        {"action": "explode"},
        {"action": "drop", "rows": [77]},
        {"action": "drop", "rows": "1"},
        {"action": "drop", "rows": ["1; rm"]},
        {"action": "drop", "rows": [1.5]},
    ):
        with pytest.raises(AppError, match=r"is no edit|no row 77|must be a"):
            client.predict(**wrong, **named)
    with pytest.raises(AppError, match="limit must be 0 to 500"):
        client.predict(dataset=dataset, limit=10**6, api_name="/dataset_rows")
    report = client.predict(dataset=dataset, api_name="/dataset_validate")
    assert (report["num_read"], report["num_kept"]) == (4, 4)
    exported = client.predict(dataset=dataset, api_name="/dataset_export")
    with zipfile.ZipFile(exported) as archive:
        lines = archive.read("metadata.jsonl").decode().splitlines()
    assert json.loads(lines[0])["prompt"] == "a new prompt"
    with pytest.raises(AppError, match=r"can't be undone\. Confirm it"):
        client.predict(dataset=dataset, confirm=False, api_name="/dataset_delete")
    with pytest.raises(AppError, match="Can't push to owner/name"):
        client.predict(dataset=dataset, repo_id="owner/name", api_name="/dataset_push")
    client.predict(dataset=dataset, confirm=True, api_name="/dataset_delete")
    assert client.predict(api_name="/datasets_list") == []


@pytest.mark.browser
def test_a_person_uploads_looks_edits_exports_and_deletes(browser, server, tmp_path):
    path = shapes_zip(tmp_path / "my shapes.zip", num_pairs=14)
    with visit(browser, server.url) as page:
        open_tab(page)
        expect(page.locator(".hint")).to_contain_text("No preferences yet")
        upload(page, path)
        expect(page.locator(".tiles [data-mood=bad]")).to_have_text("dropped1")
        expect(page.locator(".faults tbody tr")).to_have_text(
            "15missing picturethere is no image 'lost.png'"
        )
        expect(page.locator("#chats-place")).to_contain_text("1–12 of 15")
        expect(page.locator(".pair img")).to_have_count(24)
        edit(page, number=2, prompt="a {{this}} ${1 + 1} <b>star</b>")
        for size in (WIDE, NARROW):
            page.set_viewport_size(size)
            keep(page, f"data-{size['width']}")
        page.set_viewport_size(WIDE)
        page.locator(".filter label", has_text="Repeats").click()
        expect(page.locator(".pair")).to_have_count(1)
        page.get_by_role("button", name="Drop all shown").click()
        expect(page.locator(".nothing")).to_be_visible()
        expect(page.locator(".dataset-head")).to_contain_text("version 3")
        with page.expect_download() as download:
            page.locator("#chats-export").click()
        download.value.save_as(tmp_path / "out.zip")
        with zipfile.ZipFile(tmp_path / "out.zip") as archive:
            rows = [json.loads(line) for line in archive.read("metadata.jsonl").splitlines()]
        assert len(rows) == 14
        assert rows[1]["prompt"] == "a {{this}} ${1 + 1} <b>star</b>"
        page.get_by_role("button", name="Delete…").click()
        page.locator("#chats-yes").click()
        expect(page.locator(".hint")).to_be_visible()
    assert set(left_behind(server)) <= {path.name for path in exports(server)}


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Data", exact=True).click()


def upload(page: Page, path: Path) -> None:
    page.locator("#chats-data-file input[type=file]").set_input_files(path)
    expect(page.locator("#chats-data-file")).to_contain_text("shapes")
    page.locator("#chats-import").click()
    expect(page.locator("#chats-data-status")).to_contain_text("15 of 16 rows kept")


def edit(page: Page, *, number: int, prompt: str) -> None:
    card = page.locator(f".pair[data-row='{number}']")
    card.get_by_role("button", name="Edit").click()
    card.locator("textarea").fill(prompt)
    card.get_by_role("button", name="Save").click()
    expect(page.locator(".dataset-head")).to_contain_text("version 2")
    expect(card.locator(".pair-prompt")).to_have_text(prompt)


def exports(server) -> list[Path]:
    """Zips that were downloaded; gradio removes them after a day."""
    return list((server.workspace / "cache").rglob("preferences-*.zip"))
