"""Keep a setting as the one that a pair's pair.json recommends. No torch here."""

import json
from pathlib import Path

from chats.disk import write_atomically
from chats.errors import UserError
from chats.pairs import hub
from chats.pairs.weight_files import local_folder, read_json
from chats.shapes import PAIR

_REMEDY = "then keep the setting again; the pair is as it was."
_OWN_ONLY = "Only pairs in a folder of your own are changed"


def changeable_pair(name: str | None) -> Path:
    """Return the folder of a pair whose recommended setting may be changed.

    Args:
        name: a folder or a Hub id; none is the embedded pair.

    Raises:
        UserError: it is embedded, on the Hub, or no pair in our layout.
    """
    folder = None if name is None else local_folder(name)
    if name is None or folder == PAIR.resolve():
        raise UserError(f"The embedded pair is part of this program. {_OWN_ONLY}.")
    if folder is None and hub.is_hub_id(name):
        raise UserError(
            f"{name} is a pair of the Hub, and what is here is a copy of it. {_OWN_ONLY}: download "
            "it into a folder and use that, or change it on the Hub."
        )
    if folder is None or not (folder / "pair.json").is_file():
        raise UserError(f"{Path(name).name} is no folder with a pair.json. {_OWN_ONLY}.")
    return folder


def recommended_setting(folder: Path) -> dict[str, float]:
    """Return `scale` and `alpha` as pair.json recommends them; empty where it names none."""
    found = read_json(folder / "pair.json").get("recommended")
    known = found if isinstance(found, dict) else {}
    return {
        name: float(known[name])
        for name in ("scale", "alpha")
        if isinstance(known.get(name), int | float)
    }


def keep_recommended(folder: Path, *, scale: float, alpha: float) -> None:
    """Write a setting into pair.json, so that it is always the old one or the new one, whole.

    Raises:
        UserError: pair.json is damaged, or the disk refuses; the pair is as it was.
    """
    document = read_json(folder / "pair.json")
    document["recommended"] = {"scale": scale, "alpha": alpha}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / "pair.json", text, remedy=_REMEDY)
