"""Errors that a person can cause and mend."""

from pydantic import ValidationError


class UserError(ValueError):
    """A mistake in what was asked; its text is shown to the person as it is.

    The text says what was wrong, the value that was given and what to do about it.
    """


class DeviceBusyError(UserError):
    """A training uses the device that pictures were to be made on."""


def explain_validation(error: ValidationError) -> UserError:
    """Turn a pydantic error into one plain line per wrong setting."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"]) or "settings"
        given = problem.get("input")
        shown = f" (given: {_shorten(given)})" if problem["type"] != "missing" else ""
        lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}{shown}.")
    return UserError("\n".join(lines))


def _shorten(value: object, *, max_chars: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
