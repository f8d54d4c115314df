"""Settings by their full names, `optimizer.learning_rate`: to compare, to change."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chats.errors import UserError, explain_validation

_Settings = TypeVar("_Settings", bound=BaseModel)


def flat_settings(config: BaseModel) -> dict[str, Any]:
    """Return every setting as JSON, by its full name."""
    return _flat(config.model_dump(mode="json"), "")


def changed_settings(config: _Settings, changes: Mapping[str, Any]) -> _Settings:
    """Return settings with others laid over them.

    Args:
        config: The settings.
        changes: Values by full names.

    Raises:
        UserError: One line for each setting that is wrong.
    """
    settings = config.model_dump(mode="json")
    for name, value in changes.items():
        *groups, last = name.split(".")
        place = settings
        for group in groups:
            place = place.get(group) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise UserError(f"There is no setting {name!r}.")
        place[last] = value
    try:
        return type(config).model_validate(settings)
    except ValidationError as error:
        raise explain_validation(error) from None


def _flat(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
