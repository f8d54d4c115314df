"""One labelled picture out of several: the side-by-side sheet of a comparison. No torch here."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_MIN_CELL_PX = 256
_GAP_PX = 12
_INK = (32, 32, 36)
_PAPER = (250, 250, 248)


def side_by_side(images: Sequence[Image.Image], *, labels: Sequence[str]) -> Image.Image:
    """Place pictures in one row with a label under each; small ones are enlarged, crisp.

    Raises:
        ValueError: there are no pictures, or not one label for each.
    """
    if not images or len(images) != len(labels):
        raise ValueError(f"{len(images)} pictures need as many labels, got {len(labels)}.")
    zoom = max(1, -(-_MIN_CELL_PX // max(image.width for image in images)))
    cells = [image.resize((image.width * zoom, image.height * zoom), 0) for image in images]
    font = ImageFont.load_default(size=max(14, cells[0].width // 18))
    label_height = 2 * font.size
    width = sum(cell.width + _GAP_PX for cell in cells) + _GAP_PX
    height = max(cell.height for cell in cells) + 2 * _GAP_PX + label_height
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    left = _GAP_PX
    for cell, label in zip(cells, labels, strict=True):
        sheet.paste(cell, (left, _GAP_PX))
        centre = (left + cell.width / 2, height - label_height / 2 - _GAP_PX / 2)
        draw.text(centre, label, fill=_INK, font=font, anchor="mm")
        left += cell.width + _GAP_PX
    return sheet
