"""From the settings to what the loop reads its batches from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.config import DataSettings
from training.data.batches import BatchSource, PairSource, ShuffledPairs
from training.data.encoded_pairs import encode_preferences
from training.data.encoding import picture_sizes
from training.data.online_pairs import OnlineEncoder, open_online
from training.data.streamed_pairs import StreamedPairs
from training.preferences import PreferencePair, read_preferences
from training.preferences.stream import PairStream


def read_rows(
    settings: DataSettings, *, num_processes: int = 1, process_index: int = 0
) -> Sequence[PreferencePair] | PairStream:
    """Read the pairs, or open the stream, that the settings ask for.

    Raises:
        UserError: See `read_preferences` and `PairStream`.
    """
    if settings.is_stream:
        return PairStream(settings, num_processes=num_processes, process_index=process_index)
    return read_preferences(settings)


def open_batches(
    rows: Sequence[PreferencePair] | PairStream, pipeline: Any, settings: DataSettings, *, run: Path
) -> BatchSource:
    """Encode the pairs, or make ready to encode them in the loop.

    Args:
        rows: What `read_rows` returned.
        pipeline: A diffusers pipeline, on the device that encodes.
        settings: How to encode.
        run: The run's folder; of a stream it holds notes that make a resume quick.

    Raises:
        UserError: See `encode_preferences` and `open_online`.
    """
    if isinstance(rows, PairStream):
        (size,) = picture_sizes(settings, pipeline)
        return StreamedPairs(
            rows,
            OnlineEncoder(pipeline, settings),
            size=size,
            block_size=settings.shuffle_buffer,
            notes=run / "stream",
        )
    encode = open_online if settings.encode == "online" else encode_preferences
    return ShuffledPairs(encode(rows, pipeline, settings))


def open_held_out(
    pairs: Sequence[PreferencePair], pipeline: Any, settings: DataSettings
) -> PairSource | None:
    """Encode pairs for validation, or make ready to; they are squares also where there are buckets.

    Args:
        pairs: The pairs; there may be none.
        pipeline: A diffusers pipeline, on the device that encodes.
        settings: How to encode.

    Returns:
        The pairs; none if there are none.

    Raises:
        UserError: See `encode_preferences` and `open_online`.
    """
    if not pairs:
        return None
    encode = open_online if settings.encode == "online" else encode_preferences
    (found,) = encode(pairs, pipeline, settings.model_copy(update={"buckets": False}))
    return found
