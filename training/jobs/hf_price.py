"""What a Hugging Face Job is asked for, and what it may cost."""

from typing import TYPE_CHECKING

from pydantic import Field

from chats.config import FrozenSettings
from chats.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_UNITS_OF_AN_HOUR = {"second": 3600, "minute": 60, "hour": 1}


class HfJobSettings(FrozenSettings):
    """A training as a Hugging Face Job; it costs money."""

    flavor: str = ""
    """Hardware, such as `a10g-small`; a wrong name lists all with their prices."""

    hours: float = Field(3.0, gt=0, le=240)
    """It is ended after so long, finished or not."""

    max_usd: float = Field(0.0, ge=0)
    """What it may cost at most, in US dollars: hours times the price. This is the consent."""

    repo: str = ""
    """Where the pair is pushed to, `owner/name`."""

    public: bool = False
    """Make a new repository public."""

    image: str = "python:3.12"
    """Docker image with Python; the requirements are installed in it."""


def check_price(settings: HfJobSettings, *, api: "HfApi", token: str | None) -> None:
    """Refuse what may cost more than was agreed to.

    Raises:
        UserError: The hardware is not named, or the price not agreed to; says both.
    """
    prices = {
        each.name: each.unit_cost_usd * _units(each.unit_label)
        for each in api.list_jobs_hardware(token=token)
    }
    if settings.flavor not in prices:
        known = ", ".join(f"{name} (${price:.2f}/h)" for name, price in prices.items())
        raise UserError(
            f"There is no hardware {settings.flavor!r}. --hf-jobs.flavor is one of: {known}."
        )
    price = prices[settings.flavor]
    cost = price * settings.hours
    if cost > settings.max_usd + 0.005:
        raise UserError(
            f"{settings.flavor} costs ${price:.2f} an hour, at most ${cost:.2f} in "
            f"{settings.hours:g} hours; agreed are ${settings.max_usd:.2f}. To agree add "
            f"--hf-jobs.max-usd {cost:.2f}, or lower --hf-jobs.hours."
        )


def _units(label: str) -> float:
    """Return how many units of a price an hour has.

    Raises:
        UserError: The unit is unknown, so the price is.
    """
    if label not in _UNITS_OF_AN_HOUR:
        raise UserError(f"The Hub tells prices by the {label!r}, which this program can't read.")
    return _UNITS_OF_AN_HOUR[label]
