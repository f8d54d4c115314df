"""Prompt sets: one's own files, Hub data sets, and the published ones in their published formats.

GenEval: a jsonl with `tag`, `include`, `prompt`. DPG-Bench: a csv with `item_id` and `text`, or a
folder of texts named by item. HPS v2: json lists of prompts, one file or a folder of them, named by
style. This module imports no torch.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chats.errors import UserError
from chats.pairs.hub import is_hub_id
from chats.scoring.registry import parse_terms
from chats.shapes.grammar import parse_caption
from chats.shapes.prompts import evaluation_specs, tuning_specs
from chats.shapes.world import caption
from training.evaluation_config import EvaluateConfig

SHAPES_SETS = {"shapes": evaluation_specs, "shapes-tuning": tuning_specs}
_CATEGORY_COLUMNS = ("category", "tag", "style")


@dataclass(frozen=True)
class Prompt:
    """One prompt of a set.

    Attributes:
        text: what the picture should show.
        category: its part of the set; empty where there are none.
        key: how the published evaluator calls it: the item of DPG-Bench, the number in its style
            of HPS v2.
        metadata: the whole row, for GenEval's evaluator.
    """

    text: str
    category: str = ""
    key: str = ""
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PromptSet:
    """Prompts in their order, and the format that they were in."""

    prompts: tuple[Prompt, ...]
    format: str

    @property
    def categories(self) -> list[str]:
        """Categories in the order in which they first come."""
        return list(dict.fromkeys(each.category for each in self.prompts if each.category))


def read_prompts(config: EvaluateConfig) -> PromptSet:
    """Read the prompt set that the settings name.

    Raises:
        UserError: there is no such set, or it is not in its format; names the file and the row.
    """
    kind, prompts = _open(config)
    chosen = tuple(prompts[: config.max_prompts])
    if not chosen:
        raise UserError(f"{config.prompts} holds no prompts.")
    for number, prompt in enumerate(chosen, start=1):
        if not prompt.text.strip():
            raise UserError(f"Prompt {number} of {config.prompts} is empty. Take it out.")
    return PromptSet(chosen, kind)


def check_captions(prompts: PromptSet, config: EvaluateConfig) -> None:
    """Refuse prompts that the Shapes checker can't read before any picture is made.

    Raises:
        UserError: it is to judge a prompt that is no caption of the Shapes world.
    """
    if not any(name == "shapes" for each in config.scorers for _, name in parse_terms(each)):
        return
    for number, prompt in enumerate(prompts.prompts, start=1):
        try:
            parse_caption(prompt.text)
        except UserError as error:
            raise UserError(
                f"Prompt {number}: {error} Set scorers to others, such as pickscore."
            ) from None


def _open(config: EvaluateConfig) -> tuple[str, list[Prompt]]:
    name = config.prompts
    if name in SHAPES_SETS:
        specs = SHAPES_SETS[name]()
        return "shapes", [Prompt(caption(spec), spec.category) for spec in specs]
    path = Path(name).expanduser()
    if path.exists():
        kind = _kind_of(path) if config.prompt_format == "auto" else config.prompt_format
        return kind, list(_READERS[kind](path, config))
    if is_hub_id(name):
        return "table", list(_from_hub(config))
    raise UserError(
        f"There are no prompts {name!r}: it is no file or folder here, and not written like a Hub "
        f"data set, owner/name. Embedded are: {', '.join(SHAPES_SETS)}."
    )


def _kind_of(path: Path) -> str:
    if path.is_dir():
        if any(path.glob("*.json")):
            return "hps"
        if any(path.glob("*.txt")):
            return "dpg"
        raise UserError(
            f"The folder {path.name} holds neither json lists (HPS v2) nor texts (DPG-Bench)."
        )
    if path.suffix == ".txt":
        return "lines"
    if path.suffix == ".jsonl":
        first = next(iter(_json_lines(path)), {})
        return "geneval" if {"tag", "include", "prompt"} <= set(first) else "table"
    if path.suffix == ".csv":
        header = next(iter(_csv_rows(path)), {})
        return "dpg" if {"item_id", "text"} <= set(header) else "table"
    if path.suffix == ".json":
        content = _json(path)
        is_list = isinstance(content, list) and all(isinstance(each, str) for each in content)
        return "hps" if is_list else "table"
    if path.suffix == ".tsv":
        return "table"
    raise UserError(
        f"{path.name} is of no kind that is known: .txt, .jsonl, .json, .csv, .tsv. Set "
        "prompt_format if it is one of these under another name."
    )


def _lines(path: Path, _: EvaluateConfig) -> Iterator[Prompt]:
    for line in _text(path).splitlines():
        if line.strip():
            yield Prompt(line.strip())


def _table(path: Path, config: EvaluateConfig) -> Iterator[Prompt]:
    if path.suffix == ".jsonl":
        rows = _json_lines(path)
    elif path.suffix == ".json":
        rows = _json(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path.name} must be a list of objects, or of prompts.")
    else:
        rows = _csv_rows(path)
    return _from_rows(rows, config, source=path.name)


def _geneval(path: Path, _: EvaluateConfig) -> Iterator[Prompt]:
    for number, row in enumerate(_json_lines(path), start=1):
        if not isinstance(row.get("prompt"), str) or not isinstance(row.get("tag"), str):
            raise UserError(f"Line {number} of {path.name} has no text `prompt` or no `tag`.")
        yield Prompt(row["prompt"], row["tag"], f"{number - 1:05}", row)


def _dpg(path: Path, _: EvaluateConfig) -> Iterator[Prompt]:
    if path.is_dir():
        for file in sorted(path.glob("*.txt"), key=lambda each: (len(each.stem), each.stem)):
            yield Prompt(" ".join(_text(file).split()), "", file.stem)
        return
    found: dict[str, str] = {}
    for number, row in enumerate(_csv_rows(path), start=2):
        item, text = row.get("item_id"), row.get("text")
        if item is None or text is None:
            raise UserError(f"Line {number} of {path.name} has no item_id or no text.")
        if not str(row.get("proposition_id", "1")).strip().isdigit():
            continue  # a line that explains the columns
        found.setdefault(item.strip(), text.strip())
    for item, text in found.items():
        if not item or "/" in item or "\\" in item or item.startswith("."):
            raise UserError(f"{path.name} has the item_id {item!r}, which is no file name.")
        yield Prompt(text, "", item)


def _hps(path: Path, _: EvaluateConfig) -> Iterator[Prompt]:
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        prompts = _json(file)
        if not isinstance(prompts, list) or not all(isinstance(each, str) for each in prompts):
            raise UserError(f"{file.name} must be a list of prompts, as HPS v2 has them.")
        for number, text in enumerate(prompts):
            yield Prompt(text, file.stem, f"{number:05}")


_READERS: Mapping[str, Callable[[Path, EvaluateConfig], Iterator[Prompt]]] = {
    "lines": _lines,
    "table": _table,
    "geneval": _geneval,
    "dpg": _dpg,
    "hps": _hps,
}


def _from_hub(config: EvaluateConfig) -> Iterator[Prompt]:
    from datasets import load_dataset

    try:
        rows = load_dataset(config.prompts, split=config.split)
    except Exception as error:  # the library raises what its readers raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The data set {config.prompts} (split {config.split}) could not be read: {first}"
        ) from error
    wanted = [config.prompt_column, config.category_column, *_CATEGORY_COLUMNS]
    kept = [name for name in dict.fromkeys(wanted) if name in rows.column_names]
    if config.prompt_column not in kept:
        raise UserError(_no_column(config, rows.column_names, source=config.prompts))
    return _from_rows(rows.select_columns(kept), config, source=config.prompts)


def _from_rows(rows: Any, config: EvaluateConfig, *, source: str) -> Iterator[Prompt]:
    for number, row in enumerate(rows, start=1):
        if config.prompt_column not in row:
            raise UserError(f"Row {number}: {_no_column(config, row, source=source)}")
        text = row[config.prompt_column]
        if not isinstance(text, str):
            raise UserError(f"Row {number} of {source} has the prompt {text!r}, which is no text.")
        named = config.category_column
        if named is not None and named not in row:
            raise UserError(f"Row {number} of {source} has no column {named!r}.")
        columns = (named,) if named else _CATEGORY_COLUMNS
        category = next((row[each] for each in columns if row.get(each)), "")
        yield Prompt(text, str(category))


def _no_column(config: EvaluateConfig, columns: Any, *, source: str) -> str:
    return (
        f"{source} has no column {config.prompt_column!r}; it has {', '.join(map(str, columns))}. "
        "Set prompt_column."
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}.") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is not JSON: {error}") from None


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"Line {number} of {path.name} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"Line {number} of {path.name} is no JSON object.")
        yield row


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    delimiter = "\t" if path.suffix == ".tsv" else ","
    try:
        yield from csv.DictReader(_text(path).splitlines(keepends=True), delimiter=delimiter)
    except csv.Error as error:
        raise UserError(f"{path.name} is no table: {error}") from None
