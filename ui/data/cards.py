"""The Data tab's parts as HTML: values in, escaped text out."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from training.data.pictures import thumbnail
from training.datasets.dataset import Dataset
from training.datasets.records import Report, StoredRow
from training.datasets.store import DatasetSummary
from training.preferences.bad_rows import RowFault
from training.preferences.hub import HubPreview
from training.preferences.pairs import PictureFile
from ui.data.actions import Selection
from ui.pictures import display_uri

THUMBNAIL_PX = 256
_MAX_CELL_CHARS = 120
_MAX_FAULTS = 100

EMPTY = (
    '<div class="hint"><h3>No preferences yet</h3><p>Each is a prompt with a picture that people '
    "prefer and one that they do not. Add a zip, a parquet file or a data set of the Hub, or make "
    "1,000 pairs of the embedded model with</p><pre>python -m chats.shapes.pairs --output "
    "build/pairs\npython -m training import build/pairs</pre></div>"
)


def choice(summary: DatasetSummary) -> tuple[str, str]:
    """Return how a list of choices calls a data set, and its id."""
    facts = f"{_pairs(summary.num_pairs)} · {size(summary.num_bytes)} · version {summary.version}"
    return f"{summary.name}\n{facts}", summary.id


def render_head(summary: DatasetSummary, selection: Selection, report: Report | None) -> str:
    """Draw what a data set is, what became of the rows of its import, and what is odd in it."""
    facts = (
        f"{escape(summary.origin)} · {summary.created:%d %b %Y} · {size(summary.num_bytes)} · "
        f"version {summary.version}"
    )
    tiles = [("pairs now", selection.num_all, "")]
    if report is not None:
        tiles += [
            ("rows read", report.num_read, ""),
            ("kept", report.num_kept, ""),
            ("dropped", report.num_dropped, "bad"),
            ("ties, left out", report.num_ties, ""),
        ]
    tiles += [
        ("repeats", selection.num_repeats, "odd"),
        ("contradictions", selection.num_contradictions, "odd"),
    ]
    return (
        f'<div class="dataset-head"><h2>{escape(summary.name)}</h2><p>{facts}</p></div>'
        f'<dl class="tiles">{"".join(_tile(*tile) for tile in tiles)}</dl>'
        + (render_report(report) if report is not None else "")
    )


def render_report(report: Report) -> str:
    """Draw sizes, ties, and the rows that were left out, with the reason of each."""
    parts = []
    if report.sizes:
        most = ", ".join(f"{size} ({count:,})" for size, count in report.sizes.items())
        parts.append(f'<p class="sizes"><span>Pictures</span> {escape(most)}</p>')
    if report.ties:
        more = " …" if report.num_ties > len(report.ties) else ""
        rows = ", ".join(map(str, report.ties[:20]))
        parts.append(f'<p class="sizes"><span>Ties in rows</span> {rows}{more}</p>')
    if report.faults:
        kinds = ", ".join(f"{count:,} × {kind}" for kind, count in report.dropped.items())
        lines = "".join(
            f"<tr><td>{bad.row}</td><td>{escape(bad.kind)}</td><td>{escape(bad.reason[:300])}</td></tr>"
            for bad in report.faults[:_MAX_FAULTS]
        )
        more = report.num_dropped - min(len(report.faults), _MAX_FAULTS)
        rest = f"<p>… and {more:,} more.</p>" if more else ""
        parts.append(
            f"<details class='faults' open><summary>Left out: {escape(kinds)}</summary>"
            "<div class='scroll'><table><thead><tr><th>Row</th><th>What</th><th>Why</th></tr>"
            f"</thead><tbody>{lines}</tbody></table></div>{rest}</details>"
        )
    return f'<div class="report">{"".join(parts)}</div>'


def render_pairs(dataset: Dataset, rows: Sequence[StoredRow]) -> str:
    """Draw a card for each row; its buttons are heard by the script of the grid."""
    if not rows:
        return '<p class="nothing">No such rows.</p>'
    return f'<div class="pairs">{"".join(_pair(dataset, row) for row in rows)}</div>'


def render_preview(preview: HubPreview) -> str:
    """Draw the first rows of a data set on the Hub as a table."""
    head = "".join(f"<th>{escape(str(name)[:60])}</th>" for name in preview.columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{_cell(row.get(name))}</td>' for name in preview.columns)}</tr>"
        for row in preview.rows
    )
    known = f" of {preview.num_rows:,}" if preview.num_rows else ""
    return (
        f'<div class="preview"><p>The first {len(preview.rows)} rows{known}; nothing else was '
        f'fetched.</p><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def size(num_bytes: int) -> str:
    """Return a number of bytes for people."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"


def _tile(label: str, count: int, mood: str) -> str:
    shown = f' data-mood="{mood}"' if mood and count else ""
    return f"<div{shown}><dt>{label}</dt><dd>{count:,}</dd></div>"


def _pair(dataset: Dataset, row: StoredRow) -> str:
    halves = _half(dataset, "preferred", row.chosen_file_name)
    halves += _half(dataset, "dispreferred", row.rejected_file_name)
    prompt = escape(row.prompt)
    return (
        f'<article class="pair" data-row="{row.row}"><div class="halves">{halves}</div>'
        f'<p class="pair-prompt" title="{prompt}">{prompt}</p>'
        f'<textarea aria-label="Prompt of row {row.row}" rows="3">{prompt}</textarea>'
        f'<footer><span>row {row.row}</span><span class="acts">'
        '<button data-act="edit">Edit</button><button data-act="swap">Swap</button>'
        '<button data-act="drop">Drop</button><button data-act="prompt">Save</button>'
        '<button data-act="cancel">Cancel</button></span></footer></article>'
    )


def _half(dataset: Dataset, half: str, name: str) -> str:
    caption = f"<figcaption>{half}</figcaption>"
    return f'<figure data-half="{half}">{_picture(dataset, name)}{caption}</figure>'


def _picture(dataset: Dataset, name: str) -> str:
    try:
        content = PictureFile(dataset.picture(name)).read()
        uri = display_uri(thumbnail(content, name=name, side_px=THUMBNAIL_PX), min_px=THUMBNAIL_PX)
    except RowFault as fault:
        return f'<div class="lost">{escape(str(fault)[:120])}</div>'
    return f'<img src="{uri}" alt="" loading="lazy" decoding="async">'


def _cell(value: Any) -> str:
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(content, bytes):
        try:
            small = thumbnail(content, name="picture", side_px=96)
        except RowFault as fault:
            return escape(str(fault)[:_MAX_CELL_CHARS])
        return f'<img src="{display_uri(small, min_px=96)}" alt="">'
    return escape(str(value)[:_MAX_CELL_CHARS])


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count:,} pairs"
