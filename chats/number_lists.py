"""Lists of numbers as people write them: `0, 0.5, 1`, or a range such as `-0.5 to 1 by 0.25`."""

import math
import re
from typing import Any

MAX_RANGE = 1000

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\s+to\s+({_NUMBER})(?:\s+by\s+({_NUMBER}))?", re.IGNORECASE)


def read_numbers(given: Any) -> Any:
    """Return the list that a text means: `0, 0.5, 1` or `-0.5 to 1 by 0.25`; the rest as it is."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return [given]
    if not isinstance(given, str):
        return given
    text = given.strip().removeprefix("[").removesuffix("]").replace("−", "-")
    if match := _RANGE.fullmatch(text.strip()):
        return _range(*(float(part or 1) for part in match.groups()))
    return [part for part in re.split(r"[\s,;]+", text) if part]


def _range(start: float, end: float, step: float) -> list[float]:
    if step <= 0 or end < start:
        raise ValueError(f"a range goes up: {start:g} to {end:g} by {step:g} does not")
    num_steps = (end - start) / step
    if not math.isfinite(num_steps):
        raise ValueError(f"{start:g} to {end:g} by {step:g} has no end")
    count = int(num_steps + 1e-9) + 1
    if count > MAX_RANGE:
        raise ValueError(f"a range has at most {MAX_RANGE} values, this one has {count:,}")
    # Rounded, so that 0.1 to 0.3 by 0.1 ends at 0.3 and not at 0.30000000000000004.
    return [round(start + k * step, 10) for k in range(count)]
