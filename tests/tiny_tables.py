"""Tables of preferences whose pictures are a few bytes that say which they are."""

import pyarrow
from pyarrow import parquet

ROWS = 5


def picture(half: str, row: int) -> bytes:
    return f"{half} {row}".encode()


def binarized(*, rows: int = ROWS) -> dict[str, list]:
    """Return columns as open-image-preferences-v1-binarized has them, pictures in structs."""
    return {
        "prompt": [f"prompt {row}" for row in range(rows)],
        "chosen": [{"bytes": picture("chosen", row), "path": None} for row in range(rows)],
        "rejected": [{"bytes": picture("rejected", row), "path": "x.jpg"} for row in range(rows)],
        "chosen_model": ["a"] * rows,
    }


def pickapic(labels) -> dict[str, list]:
    """Return columns as pickapic_v2 has them: plain bytes, a label for each of the two."""
    return {
        "caption": [f"caption {row}" for row in range(len(labels))],
        "jpg_0": [picture("jpg_0", row) for row in range(len(labels))],
        "jpg_1": [picture("jpg_1", row) for row in range(len(labels))],
        "label_0": [label[0] for label in labels],
        "label_1": [label[1] for label in labels],
    }


def write(path, columns: dict[str, list], **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def halves(pairs) -> list[tuple[bytes, bytes]]:
    return [(pair.preferred.read(), pair.dispreferred.read()) for pair in pairs]
