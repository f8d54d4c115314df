"""The model card of a pair: what the Hub shows of it, and what a person needs to use it.

This module imports no torch.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import yaml

from chats.pairs.hub import is_hub_id
from chats.shapes import SHAPES_MODEL
from training.run import Metrics

if TYPE_CHECKING:
    from chats.denoising.methods import Role
    from chats.pairs.pair import PairMetadata

Layout = Literal["ours", "released", "lora"]
"""Layouts that a pair can be exported in; `training.publishing.export` writes them."""

_COLUMNS = {
    "loss": "loss",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "validation/loss": "held-out loss",
    "validation/accuracy": "held-out accuracy",
}
_MAX_ROWS = 10
_PROMPT = "a photo of three red stars on a black background"


def model_card(
    metadata: "PairMetadata",
    *,
    layout: Layout,
    name: str,
    roles: "Collection[Role]",
    metrics: Sequence[Metrics] = (),
    scores: Mapping[str, str] | None = None,
    license: str | None = None,
) -> str:
    """Return the README.md of an exported pair, with its YAML header.

    Args:
        metadata: What is known of the pair, without paths of this machine: `public_metadata`.
        layout: The layout that it is exported in.
        name: The folder or the Hub id under which it will be found.
        roles: The halves that are there.
        metrics: The lines of the run's metrics.jsonl, if there was a run.
        scores: How good its pictures were found, by what was measured; none leaves it out.
        license: Licence of the weights; none leaves it out.
    """
    is_lora = metadata.kind == "lora" and layout != "released"
    parts = [
        f"---\n{_header(metadata, is_lora=is_lora, license=license)}---",
        f"# {name.rpartition('/')[2]}",
        _introduction(metadata, roles, is_lora=is_lora),
        "## Use",
        _usage(metadata, layout=layout, name=name, roles=roles),
        "## How it was made",
        _table(("what", "value"), _origin(metadata, is_lora=is_lora)),
    ]
    if scores:
        parts += ["## Scores", _table(("score", "value"), scores.items())]
    if any("loss" in line for line in metrics):
        parts += ["## Training curve", _curve(metrics)]
    return "\n\n".join(parts) + "\n"


def _header(metadata: "PairMetadata", *, is_lora: bool, license: str | None) -> str:
    tags = ["chats", "preference-optimization", *(["lora"] if is_lora else [])]
    header = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": tags}
    if is_hub_id(metadata.base):  # the Hub refuses a card whose base is none of its models
        header["base_model"] = metadata.base
    if license:
        header["license"] = license
    return yaml.safe_dump(header, sort_keys=False)


def _introduction(metadata: "PairMetadata", roles: "Collection[Role]", *, is_lora: bool) -> str:
    what = "LoRA adapter" if is_lora else "denoiser"
    made = f"fine-tuned from {_text(metadata.base)} on preferences"
    if len(roles) == 1:
        return f"The {next(iter(roles))} half of a pair: one {what}, {made}."
    return (
        f"A pair of two {what}s {made}: one for what people prefer, one for what they do not. Both "
        "steer sampling, as in [CHATS](https://arxiv.org/abs/2502.12579)."
    )


def _usage(
    metadata: "PairMetadata", *, layout: Layout, name: str, roles: "Collection[Role]"
) -> str:
    imports, pipeline = _base_pipeline(metadata.base)
    ours = ["import chats", *imports, "", pipeline, f"pair = chats.load_pair({_quoted(name)})"]
    if layout == "released":
        ours = [
            "import chats",
            "from chats.pairs.pair import locate_pair",
            "from chats.pairs.released import load_released_pipeline",
            "",
            f"pair = chats.load_pair({_quoted(name)})",
            f"pipe = load_released_pipeline(locate_pair({_quoted(name)}), pair.preferred)",
        ]
    ours += [
        f"with chats.guidance(pipe, pair, {_setting(metadata, roles)}):",
        f'    image = pipe("{_PROMPT}").images[0]',
    ]
    text = _code(ours)
    if "preferred" in roles and "dispreferred" in roles:
        best = metadata.recommended
        text += f"\n\nRecommended: s = {best.scale:g}, α = {best.alpha:g}"
        text += f"; diffusers' `guidance_scale` would be 1 + s = {1 + best.scale:g}."
    return f"{text}\n\n{_stock_usage(metadata, name, roles)}" if layout == "lora" else text


def _stock_usage(metadata: "PairMetadata", name: str, roles: "Collection[Role]") -> str:
    imports, pipeline = _base_pipeline(metadata.base)
    role = "preferred" if "preferred" in roles else "dispreferred"
    place = f'subfolder="{role}", weight_name="pytorch_lora_weights.safetensors"'
    lines = [*imports, "", pipeline, f"pipe.load_lora_weights({_quoted(name)}, {place})"]
    lines += [f'image = pipe("{_PROMPT}").images[0]']
    return f"Stock diffusers takes one half, here the {role} one, with plain CFG:\n\n{_code(lines)}"


def _base_pipeline(base: str) -> tuple[list[str], str]:
    """Return the imports and the line that load the base model."""
    imports = ["from diffusers import DiffusionPipeline"]
    if base == SHAPES_MODEL:
        imports.insert(0, "from chats.shapes import BASE")
        return imports, "pipe = DiffusionPipeline.from_pretrained(BASE)"
    return imports, f"pipe = DiffusionPipeline.from_pretrained({_quoted(base)})"


def _setting(metadata: "PairMetadata", roles: "Collection[Role]") -> str:
    """Return the arguments of `chats.guidance` that the halves which are there allow."""
    best = metadata.recommended
    if "dispreferred" not in roles:
        return f'method="preferred-cfg", scale={best.scale:g}'
    if "preferred" not in roles:
        return f'method="npo", scale={best.scale:g}'
    return f'method="chats", scale={best.scale:g}, alpha={best.alpha:g}'


def _origin(metadata: "PairMetadata", *, is_lora: bool) -> list[tuple[str, object]]:
    kind = "two whole denoisers"
    if metadata.kind == "lora":
        kind = f"LoRA, rank {metadata.rank}, alpha {metadata.lora_alpha:g}, on "
        kind += ", ".join(metadata.target_modules)
        kind += "" if is_lora else ", merged into the base"
    known = {
        "base": metadata.base,
        "kind": kind,
        "objective": metadata.objective,
        "null prompt": {"empty": 'the encoding of ""', "zeros": "zeros"}[metadata.null_prompt],
        **metadata.provenance,
    }
    return [(name.replace("_", " "), value) for name, value in known.items()]


def _curve(metrics: Sequence[Metrics]) -> str:
    """Return about ten lines, evenly spaced, with the first and the last that have a loss."""
    metrics = [line for line in metrics if "loss" in line]
    last = len(metrics) - 1
    num_rows = min(len(metrics), _MAX_ROWS)
    picked = [metrics[round(i * last / max(num_rows - 1, 1))] for i in range(num_rows)]
    columns = [key for key in _COLUMNS if any(key in line for line in metrics)]
    rows = [(str(line["step"]), *(_number(line.get(key)) for key in columns)) for line in picked]
    return _table(("step", *(_COLUMNS[key] for key in columns)), rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Collection[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_text(value) for value in line)} |" for line in lines)


def _text(value: object) -> str:
    """Return a value as one line that breaks no table."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return f"({', '.join(_text(each) for each in value)})"
    if isinstance(value, float):
        return f"{value:g}"
    text = "none" if value is None else " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _code(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```"])
