"""A sweep as files: its table, its contact sheet, its pictures."""

import zipfile
from collections.abc import Callable
from pathlib import Path

from chats.errors import UserError
from chats.sweeps.results import results
from chats.sweeps.sheet import contact_sheet
from chats.sweeps.words import table_csv
from ui.lab.shown import Shown


def save_table(shown: Shown, folder: Path) -> Path:
    """Write the scores of all cells as CSV."""
    path = folder / f"sweep-{shown.folder.path.name}.csv"
    found = results(shown.config, shown.calls)
    path.write_text(table_csv(shown.config, found), encoding="utf-8")
    return path


def save_sheet(shown: Shown, folder: Path) -> Path:
    """Write the grid of the prompt and seed that are looked at as one PNG with labels."""
    place = f"prompt{shown.prompt + 1}-seed{shown.config.seeds[shown.seed]}"
    path = folder / f"sweep-{shown.folder.path.name}-{place}.png"
    path.write_bytes(contact_sheet(shown.folder, prompt=shown.prompt, seed=shown.seed))
    return path


def save_pictures(shown: Shown, folder: Path) -> Path:
    """Write all pictures, with their settings inside, as one zip.

    Raises:
        UserError: there is none yet.
    """
    if not shown.num_done:
        raise UserError("No picture is made yet.")
    path = folder / f"sweep-{shown.folder.path.name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for index in range(shown.num_done):
            picture = shown.folder.picture(index)
            archive.write(picture, picture.name)
    return path


DOWNLOADS: dict[str, tuple[str, Callable[[Shown, Path], Path]]] = {
    "table": ("Scores as CSV", save_table),
    "sheet": ("Contact sheet as PNG", save_sheet),
    "pictures": ("All pictures as zip", save_pictures),
}
