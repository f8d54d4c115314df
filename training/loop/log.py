"""log.txt: what a trainer and the libraries below it say, each line with its time, in the run.

The trainer's main process writes it itself, so it is there however the process was started, and
whoever closes the page or the terminal takes nothing with them.
"""

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.disk import disk_errors_explained

logger = logging.getLogger(__name__)

_OURS = ("chats", "training")
"""Loggers whose ordinary news is written; of all others only warnings are."""


@contextlib.contextmanager
def log_file(path: Path, *, mistakes: tuple[type[Exception], ...]) -> Iterator[None]:
    """Add what is logged, warned and raised meanwhile to a file; a line is there once it is said.

    The terminal goes on to show warnings as it did.

    Args:
        path: The file.
        mistakes: Errors whose text says all; of others the traceback is written.

    Raises:
        UserError: The file can't be written to.
    """
    with disk_errors_explained(path):
        handler = logging.FileHandler(path, encoding="utf-8", errors="replace")
    handler.setFormatter(_formatter())
    with contextlib.ExitStack() as stack:
        stack.callback(handler.close)
        for each in _listened_to():
            each.addHandler(handler)
            stack.callback(each.removeHandler, handler)
        stack.enter_context(_terminal_shows_warnings())
        stack.enter_context(_ordinary_news())
        stack.enter_context(_warnings_logged())
        stack.enter_context(_end_logged(mistakes))
        yield


def _formatter() -> logging.Formatter:
    formatter = logging.Formatter(
        "%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ"
    )
    formatter.converter = time.gmtime
    return formatter


def _listened_to() -> list[logging.Logger]:
    """Return the root logger, and every one that hands nothing on to it, as libraries do."""
    known = logging.Logger.manager.loggerDict.values()
    deaf = [each for each in known if isinstance(each, logging.Logger) and not each.propagate]
    return [logging.getLogger(), *deaf]


@contextlib.contextmanager
def _terminal_shows_warnings() -> Iterator[None]:
    """Stand in for logging's last resort, which shows warnings only while nobody listens."""
    root = logging.getLogger()
    if len(root.handlers) > 1:
        yield
        return
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING)
    terminal.addFilter(lambda record: record.name != __name__)  # it has seen these already
    root.addHandler(terminal)
    try:
        yield
    finally:
        root.removeHandler(terminal)


@contextlib.contextmanager
def _ordinary_news() -> Iterator[None]:
    before = {name: logging.getLogger(name).level for name in _OURS}
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _warnings_logged() -> Iterator[None]:
    """Write what `warnings.warn` shows as well; it is still shown."""
    show = warnings.showwarning

    def both(message: Any, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        show(message, category, filename, *rest, **more)
        logger.warning("%s: %s (%s)", category.__name__, message, Path(filename).name)

    warnings.showwarning = both
    try:
        yield
    finally:
        warnings.showwarning = show


@contextlib.contextmanager
def _end_logged(mistakes: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except mistakes as error:
        logger.error("%s", error)
        raise
    except BaseException as error:
        logger.error("Ended by %s.", type(error).__name__, exc_info=True)
        raise
