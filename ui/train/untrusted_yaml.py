"""YAML that came from a browser: only plain data, and no more of it than a person would write."""

from typing import Any

import yaml

from chats.errors import UserError

MAX_BYTES = 100_000
MAX_DEPTH = 20


def read_untrusted_yaml(content: str | bytes) -> Any:
    """Read YAML of unknown origin.

    Raises:
        UserError: It is not YAML, too long, nested too deeply, or refers to itself: an alias can
            stand for a copy of a copy of a copy until no memory is left.
    """
    if len(content) > MAX_BYTES:
        raise UserError(
            f"The YAML has {len(content):,} bytes; settings have at most {MAX_BYTES:,}."
        )
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        _check_events(text)
        return yaml.safe_load(text)
    except UnicodeDecodeError:
        raise UserError("The file is no text in UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"This is not YAML: {error.problem}{where}.") from None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError):
        raise UserError("This is not YAML: it holds what no setting can be.") from None


def _check_events(text: str) -> None:
    """Look before anything is built, and stop at the first thing that no settings have."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise UserError("The YAML uses aliases (*name). Write their values out.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UserError(f"The YAML is nested too deeply: more than {MAX_DEPTH} levels.")
