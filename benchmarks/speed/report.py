"""Tables of the results, and the parts of docs/performance.md that commands write."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.device import machine
from benchmarks.speed.sampling import FULL, LORA, PAPER
from benchmarks.speed.turns import rows

PAGE = Path("docs/performance.md")


def write_part(page: Path, command: str, lines: Sequence[str]) -> None:
    """Replace the part of a page that a command writes; what people wrote around it stays."""
    begin, end = f"<!-- written by `{command}`; do not edit -->", f"<!-- end of `{command}` -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    page.parent.mkdir(parents=True, exist_ok=True)
    part = "\n".join([begin, "", *lines, "", end])
    page.write_text(f"{before}{part}{after or chr(10)}", encoding="utf-8")


@contextlib.contextmanager
def printed_to(page: Path | None, command: str) -> Iterator[None]:
    """Print as usual; if that succeeds, write all of it to the page as well."""
    if page is None:
        yield
        return
    heard = _Tee(sys.stdout)
    with contextlib.redirect_stdout(heard):
        yield
    lines = [_measured_on(machine()), "", "```text", *heard.getvalue().strip().splitlines(), "```"]
    write_part(page, command, lines)


def results_of(folder: Path) -> list[dict[str, Any]]:
    """Return what the stages wrote, in the order of their names."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]


def report_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return tables of everything that was measured, with the machines."""
    lines: list[str] = []
    for found in results:
        if found["rounds"]:
            lines += [f"### {title(found)}", "", _measured_on(found["machine"]), ""]
            lines += [*table(found), ""]
    return lines[:-1]


def title(found: Mapping[str, Any]) -> str:
    """Return the heading of a stage."""
    settings = found["settings"]
    model, side = Path(settings["base"]).name, settings["resolution"]
    size = f"{side} px" if side else "own size"
    if "kind" in settings:
        pairs = settings["pairs_per_step"]
        return f"Training a {settings['kind']} pair on {model}, {size}, {pairs} pairs a step"
    return (
        f"Sampling {model}, {size}, {settings['num_steps']} steps, "
        f"{settings['batch_size']} pictures a call"
    )


def table(found: Mapping[str, Any]) -> list[str]:
    """Return a stage as a table of Markdown."""
    is_training = "kind" in found["settings"]
    unit, forwards = ("pairs/s", " forwards a pair |") if is_training else ("img/s", "")
    complete = sum(len(each) == len(found["names"]) + 1 for each in found["rounds"])
    lines = [
        f"Ratio: median of {complete} whole rounds, with their range, to the first row; there it "
        "is the turn after each round over the one before it.",
        "",
        f"| | {unit} | ratio | range | peak memory |{forwards}",
        f"| --- | --- | --- | --- | --- |{' --- |' if is_training else ''}",
    ]
    lines += [_line(row, is_training=is_training) for row in rows(found)]
    paper = PAPER.get(found["settings"].get("batch_size"))
    if paper and not is_training:
        ratios = {row["name"]: row["ratio"] for row in rows(found) if "ratio" in row}
        ours = [f"{name} {ratios[name]:.2f}" for name in (FULL, LORA) if name in ratios]
        if ours:
            lines += [
                "",
                f"CHATS over CFG at batch {found['settings']['batch_size']}: the paper {paper:.2f} "
                f"(SDXL on an A100); here {', '.join(ours)}.",
            ]
    return lines


def _line(row: Mapping[str, Any], *, is_training: bool) -> str:
    if "speed" not in row:
        speed = row.get("failed", "–")
        cells = [speed, "–", "–", "–"]
    else:
        has_ratio = "ratio" in row
        cells = [
            f"{row['speed']:.3g}" + (f", then {row['failed']}" if "failed" in row else ""),
            f"{row['ratio']:.2f}" if has_ratio else "–",
            f"{row['low']:.2f} to {row['high']:.2f}" if has_ratio else "–",
            f"{row['memory_gb']:.1f} GB",
        ]
    if is_training:
        cells.append(f"{row['forwards']:.1f}" if "forwards" in row else "–")
    return f"| {row['name']} | {' | '.join(cells)} |"


def _measured_on(found: Mapping[str, str]) -> str:
    libraries = ", ".join(
        f"{name} {value}" for name, value in found.items() if name not in ("device", "date")
    )
    return f"{found['date']}, {found['device']}; {libraries}."


class _Tee(io.StringIO):
    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._stream.flush()
