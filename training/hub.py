"""What the Hub refuses, in one clear message each. No torch."""

import contextlib
from collections.abc import Iterator

from chats.errors import UserError
from chats.pairs.hub import is_hub_id


def check_name(repo_id: str) -> None:
    """Refuse what the Hub does not take as the name of a repository.

    Raises:
        UserError: It is not like owner/name.
    """
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except errors.HFValidationError as error:
        raise UserError(f"{repo_id!r} is no name of a repository. {error}") from None
    if not is_hub_id(repo_id):
        raise UserError(f"{repo_id!r} is no name of a repository. Write it like owner/name.")


@contextlib.contextmanager
def hub_errors_explained(
    name: str,
    *,
    doing: str = "push to",
    offline: str = "`python -m training export` works without a network.",
) -> Iterator[None]:
    """Turn what the Hub refuses within into a UserError.

    Args:
        name: What it is done to, such as a repository.
        doing: What is done.
        offline: What works without the Hub.
    """
    from huggingface_hub import errors

    try:
        yield
    except UserError:  # a ValueError too, but clear already
        raise
    except errors.LocalTokenNotFoundError:
        raise UserError(
            f"Can't {doing} {name}: nobody is logged in to the Hub on this machine. Run "
            "`hf auth login` with a token that may write, or set HF_TOKEN to one."
        ) from None
    except errors.HfHubHTTPError as error:
        advice = ""
        if getattr(error.response, "status_code", None) in (401, 403):
            advice = " Log in with a token that may write there: `hf auth login`."
        raise UserError(f"Can't {doing} {name}: {_first_line(error)}{advice}") from None
    except (ConnectionError, errors.HTTPError):
        raise UserError(f"Can't {doing} {name}: the Hub cannot be reached. {offline}") from None
    except ValueError as error:  # the Hub's own check of the card
        raise UserError(f"Can't {doing} {name}: {error}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
