"""What is on a device, as the page and programs show it. No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """One thing on the device."""

    name: str
    kind: str
    """`model` or `pair`."""
    size_gb: float
    in_use: bool
    device_name: str
    placement: str
    """Whether all of it is on the device: see `chats.models.placement`."""


@dataclass(frozen=True, kw_only=True)
class Unloaded:
    """One thing that was dropped."""

    name: str
    kind: str
    size_gb: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class DeviceReport:
    """A device: its memory, what lies in it and what was dropped."""

    title: str
    total_gb: float = 0.0
    """0 while nobody has looked."""
    used_gb: float = 0.0
    """By all programs, this one among them."""
    room_gb: float = 0.0
    """The most that a model may take now, with its pair and its pictures."""
    used_by: str = ""
    """The training that uses it, in words; empty if none does."""
    loaded: tuple[OnDevice, ...] = ()
    unloaded: tuple[Unloaded, ...] = ()
    """The latest last."""

    @property
    def models_gb(self) -> float:
        """What is loaded takes so much."""
        return sum(each.size_gb for each in self.loaded)
