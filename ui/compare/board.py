"""What the columns show: frozen values, one cell for each picture, no drawing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from chats.config import GenerationConfig, MethodName
from chats.denoising.methods import needs_pair
from chats.generation.events import ImagesEvent
from chats.generation.png import config_of_row
from ui.pictures import display_uri, png_uri
from ui.services import ModelChoice

CellState = Literal["waiting", "preview", "final", "missing"]
"""`missing`: there is no preference pair, and the method needs one."""
BoardState = Literal["empty", "running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class Cell:
    """One picture: the settings that make it alone, and what there is of it so far."""

    config: GenerationConfig
    state: CellState = "waiting"
    shown: str = ""
    """The picture for the eye, as a data URI; a small one is enlarged."""
    file: str = ""
    """The finished picture as a data URI of its PNG, in its own size, settings inside."""

    @property
    def method(self) -> MethodName:
        """The method of the cell's column."""
        return self.config.rows[0].method

    @property
    def seed(self) -> int:
        """The seed of the picture's noise."""
        return self.config.rows[0].seed


@dataclass(frozen=True)
class Board:
    """All cells in the order of the rows, and the shape of the boxes they stand in."""

    cells: tuple[Cell, ...]
    width: int | None = None
    height: int | None = None
    state: BoardState = "empty"

    def methods(self) -> tuple[MethodName, ...]:
        """The columns from left to right."""
        return tuple(dict.fromkeys(cell.method for cell in self.cells))

    def of_method(self, method: MethodName) -> tuple[Cell, ...]:
        """The cells of one column."""
        return tuple(cell for cell in self.cells if cell.method == method)

    def pending(self) -> tuple[int, ...]:
        """Indices of the cells whose pictures can be made and are not finished."""
        return tuple(
            k for k, cell in enumerate(self.cells) if cell.state not in ("final", "missing")
        )


def lay_out(config: GenerationConfig, *, model: ModelChoice, reuse: Board | None = None) -> Board:
    """Place a cell for each row; take over from `reuse` the pictures that would come out the same.

    Other cells keep the picture they show until the first preview replaces it: nothing blinks.
    """
    before = reuse.cells if reuse else ()
    finished = {cell.config: cell for cell in before if cell.state == "final"}
    shown = {(cell.method, cell.seed): cell.shown for cell in before}

    def place(single: GenerationConfig) -> Cell:
        row = single.rows[0]
        if needs_pair(row.method) and not model.has_pair:
            return Cell(single, "missing")
        return finished.get(single) or Cell(single, shown=shown.get((row.method, row.seed), ""))

    return Board(
        cells=tuple(place(config_of_row(config, k)) for k in range(len(config.rows))),
        width=config.width or model.width,
        height=config.height or model.height,
    )


def with_previews(board: Board, indices: Sequence[int], previews: Sequence[Image.Image]) -> Board:
    """Show the previews; there may be fewer than cells while not all rows have begun."""
    shown = {
        k: replace(board.cells[k], state="preview", shown=png_uri(image))
        for k, image in zip(indices, previews, strict=False)
    }
    return _with_cells(board, shown)


def with_images(board: Board, indices: Sequence[int], event: ImagesEvent) -> Board:
    """Put the finished pictures into the given cells, inside each the settings that made it."""
    done = {
        k: replace(
            board.cells[k],
            state="final",
            shown=display_uri(image),
            file=png_uri(image, config_of_row(event.config, row)),
        )
        for row, (k, image) in enumerate(zip(indices, event.images, strict=True))
    }
    width, height = event.images[0].size
    return replace(_with_cells(board, done), width=width, height=height, state="done")


def _with_cells(board: Board, changed: Mapping[int, Cell]) -> Board:
    cells = tuple(changed.get(k, cell) for k, cell in enumerate(board.cells))
    return replace(board, cells=cells)
