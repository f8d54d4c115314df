"""A run's settings as HTML: all of them, or those in which runs differ."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from chats.errors import UserError
from training.changes import flat_settings
from training.jobs.catalogue import RunEntry
from training.jobs.console import JobConsole


def render_settings(entry: RunEntry) -> str:
    """Draw all settings of a run."""
    if entry.config is None:
        return '<p class="nothing">Its settings can’t be read.</p>'
    return _table(["setting", "value"], [[k, v] for k, v in flat_settings(entry.config).items()])


def render_differences(console: JobConsole, run_id: str, others: Mapping[str, str]) -> str:
    """Draw the settings in which a run differs from others.

    Args:
        console: Knows the settings.
        run_id: The run.
        others: What the others are called, by their ids.
    """
    try:
        found = {other: console.config_diff(run_id, other) for other in others}
    except UserError as error:
        return f'<p class="nothing">{escape(str(error))}</p>'
    names = sorted({name for differences in found.values() for name in differences})
    if not names:
        return '<p class="nothing">They have the same settings.</p>'
    mine = {name: pair[0] for each in found.values() for name, pair in each.items()}
    rows = [
        [name, mine[name], *(each.get(name, (None, mine[name]))[1] for each in found.values())]
        for name in names
    ]
    return _table(["setting", "this run", *others.values()], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th>'
        + "".join(f"<td>{escape(_value(value))}</td>" for value in values)
        + "</tr>"
        for name, *values in rows
    )
    return (
        f'<div class="settings-table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return str(value)
