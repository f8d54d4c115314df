"""A data set of the Hub as a stream that nothing is kept of, from its start or from any row on."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from chats.errors import UserError
from chats.pairs.hub import is_hub_id
from training.config import DataSettings
from training.preferences.bad_rows import BadRows, RowFault
from training.preferences.hub import columns_of_stream, load_hub, streamed
from training.preferences.pairs import PictureBytes, PreferencePair
from training.preferences.rows import cell, pair_of_row
from training.preferences.tables import picture_bytes

Place = Mapping[str, Any]
"""Where a stream stands, as JSON: how many rows were read, and what the library datasets says."""

logger = logging.getLogger(__name__)


class PairStream:
    """One process's part of the rows: whole files where they can be shared out, else every P-th."""

    def __init__(self, settings: DataSettings, *, num_processes: int, process_index: int):
        """Open the stream; rows are fetched when they are asked for.

        Raises:
            UserError: `settings.path` is no Hub id, there is no such data set, it can't be
                reached, or a column is missing.
        """
        self.name = settings.path.as_posix()
        if settings.path.exists() or not is_hub_id(self.name):
            raise UserError(
                f"{self.name} is not on the Hub; only what is can be streamed. Set data.streaming "
                "to false: with data.encode online nothing of it is copied."
            )
        self.num_processes = num_processes
        self.process_index = process_index
        self._settings = settings
        self._whole = load_hub(self.name, settings)
        self._columns = columns_of_stream(self._whole, self.name, settings)

    def pairs(self, place: Place | None = None) -> Iterator[tuple[PreferencePair, Place]]:
        """Return the pairs of one epoch, each with the place after it.

        Rows count from 1 in this process's part. Ties are left out.

        Args:
            place: Go on from there; none starts the epoch.

        Raises:
            UserError: The stream breaks off, or a row can't be used and bad rows are not skipped.
        """
        from datasets.distributed import split_dataset_by_node

        part = split_dataset_by_node(
            self._whole, rank=self.process_index, world_size=self.num_processes
        )
        number = 0
        if place is not None:
            number = place["row"]
            part.load_state_dict(place["stream"])
        bad_rows = BadRows()
        for row in streamed(part, self.name, self._settings):
            number += 1
            try:
                pair, _ = pair_of_row(number, row, columns=self._columns, picture=_picture)
            except RowFault as fault:
                bad_rows.add(number, fault)
                if self._settings.on_bad_rows == "stop":
                    break
                continue
            if pair is not None:
                yield pair, {"row": number, "stream": part.state_dict()}
        bad_rows.settle(self._settings.on_bad_rows, source=self.name)


def _picture(_: int, row: Mapping[str, Any], column: str) -> PictureBytes:
    return PictureBytes(column, picture_bytes(cell(row, column), name=column))
