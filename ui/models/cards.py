"""Devices and what lies on them as HTML: values in, escaped text out."""

from collections.abc import Sequence
from html import escape

from chats.models.reports import DeviceReport, OnDevice, Unloaded

SHOWN_UNLOADED = 5


def render_devices(reports: Sequence[DeviceReport]) -> str:
    """Draw every device: its memory as a bar, what is loaded, and what was dropped and why."""
    return f'<div class="devices">{"".join(map(_device, reports))}</div>'


def render_answer(text: str, *, kind: str = "done") -> str:
    """Draw what became of a request."""
    role = "alert" if kind == "error" else "status"
    lines = "<br>".join(escape(line) for line in text.splitlines())
    return f'<p class="models-answer" data-kind="{kind}" role="{role}">{lines}</p>' if text else ""


def size(num_bytes: int) -> str:
    """Write a number of bytes for people."""
    return _gb(num_bytes / 1e9)


def loaded_names(reports: Sequence[DeviceReport]) -> list[str]:
    """Return the names of all that is loaded, each once."""
    return list(dict.fromkeys(each.name for report in reports for each in report.loaded))


def _device(report: DeviceReport) -> str:
    used = f"It is used by {report.used_by}." if report.used_by else ""
    return (
        f'<section class="device"><h3>{escape(report.title)}</h3>'
        f'{_bar(report)}<p class="subdued">{escape(used)}</p>{_loaded(report.loaded)}'
        f"{_unloaded(report.unloaded)}</section>"
    )


def _bar(report: DeviceReport) -> str:
    if not report.total_gb:
        return '<p class="subdued">Nothing has been loaded on it yet.</p>'
    models = min(report.models_gb, report.used_gb)
    others = report.used_gb - models
    parts = (("models", models), ("others", others))
    drawn = "".join(
        f'<div class="part-{name}" style="width:{100 * size / report.total_gb:.2f}%"></div>'
        for name, size in parts
    )
    words = (
        f"{_gb(models)} in models and pairs, {_gb(others)} in all else, of {_gb(report.total_gb)}. "
        f"A model with its pair and pictures may take {_gb(report.room_gb)} now."
    )
    return f'<div class="memory-bar" role="img" aria-label="{words}">{drawn}</div><p>{words}</p>'


def _loaded(found: Sequence[OnDevice]) -> str:
    if not found:
        return ""
    rows = "".join(
        f"<tr><td>{escape(each.name)}</td><td>{_kind(each)}</td><td>{_gb(each.size_gb)}</td>"
        f"<td>{'in use' if each.in_use else 'idle'}</td></tr>"
        for each in reversed(found)
    )
    return (
        '<table class="on-device"><thead><tr><th>Loaded</th><th></th><th>Memory</th><th></th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )


def _unloaded(found: Sequence[Unloaded]) -> str:
    items = "".join(
        f"<li>{escape(each.name)} ({each.kind}, {_gb(each.size_gb)}): {escape(each.reason)}</li>"
        for each in list(reversed(found))[:SHOWN_UNLOADED]
    )
    return f"<h4>Unloaded</h4><ul>{items}</ul>" if items else ""


def _kind(each: OnDevice) -> str:
    return each.kind if each.placement == "resident" else f"{each.kind}, {each.placement}"


def _gb(size: float) -> str:
    return f"{size:.1f} GB" if size >= 1 else f"{1000 * size:.0f} MB"
