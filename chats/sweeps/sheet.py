"""The contact sheet of a sweep: a grid of α and s for each panel, labelled. No torch here."""

import io
import json

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from chats.generation.png import SETTINGS_KEY
from chats.sweeps.folder import SweepFolder
from chats.sweeps.plan import cells, panels, pictures
from chats.sweeps.results import Results, results
from chats.sweeps.words import panel_label, score_text

SWEEP_KEY = f"{SETTINGS_KEY}-sweep"
"""The text chunk of the sheet that holds the sweep's settings."""

_MAX_SHEET_PX = 16_000_000
_MIN_CELL_PX, _MAX_CELL_PX = 96, 256
_GAP_PX = 8
_INK, _SUBDUED, _MARK, _PAPER = (32, 32, 36), (110, 110, 118), (44, 79, 214), (250, 250, 248)


def contact_sheet(folder: SweepFolder, *, prompt: int = 0, seed: int = 0) -> bytes:
    """Draw the pictures of one prompt and seed in a grid with their cells' scores, as a PNG.

    The best cell has a thick frame, those that are not told apart from it a thin one. Pictures that
    are not made yet stay empty. The sweep's settings are inside, without paths.

    Args:
        folder: the sweep.
        prompt: index of the prompt.
        seed: index of the seed.
    """
    config, calls = folder.config, folder.calls()
    num_done = sum(call.count for call in calls)
    images = {}
    for made in pictures(config)[:num_done]:
        if (made.prompt, made.seed) == (prompt, seed):
            with Image.open(folder.picture(made.index)) as image:
                images[made.cell] = image.convert("RGB")
    title = f"{config.prompts[prompt]}   seed {config.seeds[seed]}"
    sheet = _Sheet(folder, images, results(config, calls)).draw(title)
    info = PngImagePlugin.PngInfo()
    public = config.model_dump(mode="json", exclude={"model", "pair"})
    info.add_text(SWEEP_KEY, json.dumps(public))
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", pnginfo=info)
    return stream.getvalue()


class _Sheet:
    """Sizes of a sheet, and its drawing."""

    def __init__(self, folder: SweepFolder, images: dict[int, Image.Image], found: Results) -> None:
        self.config, self.images, self.found = folder.config, images, found
        self.cells, self.num_panels = cells(folder.config), len(panels(folder.config))
        self.columns, self.rows = len(self.config.alphas), len(self.config.scales)
        first = next(iter(images.values()), Image.new("RGB", (64, 64)))
        room = (_MAX_SHEET_PX / len(self.cells)) ** 0.5 - 40
        side = min(_MAX_CELL_PX, max(_MIN_CELL_PX, min(room, max(first.size))))
        scale = side / max(first.size)
        self.width, self.height = (max(1, round(length * scale)) for length in first.size)
        self.font = ImageFont.load_default(size=14)
        self.line = 20
        self.left = 76
        self.above = 2 * self.line if panel_label(self.cells[0], self.config) else self.line

    def draw(self, title: str) -> Image.Image:
        step_x, step_y = self.width + _GAP_PX, self.height + self.line + _GAP_PX
        panel_height = self.above + self.rows * step_y + _GAP_PX
        width = self.left + self.columns * step_x + _GAP_PX
        height = 2 * self.line + self.num_panels * panel_height
        sheet = Image.new("RGB", (width, height), _PAPER)
        pen = ImageDraw.Draw(sheet)
        pen.text((_GAP_PX, _GAP_PX), self._cut(title, width, pen), fill=_INK, font=self.font)
        for index, cell in enumerate(self.cells):
            panel, place = divmod(index, self.columns * self.rows)
            row, column = divmod(place, self.columns)
            top = 2 * self.line + panel * panel_height
            x, y = self.left + column * step_x, top + self.above + row * step_y
            if place == 0:
                name = panel_label(cell, self.config)
                pen.text((_GAP_PX, top), name, fill=_INK, font=self.font)
            if row == 0:
                centre = (x + self.width / 2, top + self.above - 0.6 * self.line)
                pen.text(centre, f"alpha = {cell.alpha:g}", fill=_INK, font=self.font, anchor="mm")
            if column == 0:
                beside = (_GAP_PX, y + self.height / 2)
                pen.text(beside, f"s = {cell.scale:g}", fill=_INK, font=self.font, anchor="lm")
            self._draw_cell(sheet, pen, index, (x, y))
        return sheet

    def _draw_cell(
        self, sheet: Image.Image, pen: ImageDraw.ImageDraw, index: int, place: tuple[int, int]
    ) -> None:
        x, y = place
        box = (x, y, x + self.width - 1, y + self.height - 1)
        if index in self.images:
            method = Image.Resampling.LANCZOS
            sheet.paste(self.images[index].resize((self.width, self.height), method), place)
        else:
            pen.rectangle(box, outline=_SUBDUED)
        thickness = 4 if index == self.found.best else 2 if index in self.found.within else 0
        if thickness:
            around = (x - 3, y - 3, box[2] + 3, box[3] + 3)
            pen.rectangle(around, outline=_MARK, width=thickness)
        below = (x + self.width / 2, y + self.height + self.line / 2 + 1)
        text = score_text(self.found.cells[index])
        pen.text(below, text, fill=_SUBDUED, font=self.font, anchor="mm")

    def _cut(self, text: str, width: int, pen: ImageDraw.ImageDraw) -> str:
        while text and pen.textlength(text, font=self.font) > width - 2 * _GAP_PX:
            text = text[:-2].rstrip() + "…"
        return text
