"""`chats.guidance`: the methods on a stock diffusers pipeline, for as long as a context is open.

The pipeline keeps its sampling loop, scheduler, callbacks and image inputs. Inside the context its
own guidance is off, its null prompt is encoded beside every prompt, and its denoiser carries the
hooks of `chats.denoising.denoiser` during each call.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch

from chats.config import DEFAULT_ALPHA, DEFAULT_SCALE, MethodName, Shaping
from chats.denoising.adapter_rows import mixed_rows
from chats.denoising.calls import plain_encoding
from chats.denoising.conditions import Value, all_tokens, same_length
from chats.denoising.denoiser import Cost, GuidedDenoiser, Models
from chats.denoising.families import denoiser_of, family_of
from chats.denoising.family import Family
from chats.denoising.masked_rows import RowMask, in_compiled_blocks, masked_rows
from chats.denoising.merged_rows import merged_rows, worth_merging
from chats.denoising.pictures import Picture, PictureSettings
from chats.errors import UserError
from chats.pairs.pair import Pair
from chats.pairs.roles import models_of

_WITHOUT_EFFECT = {
    "guidance_rescale": "Pass shaping=chats.Shaping(rescale=...) to chats.guidance instead.",
    "guess_mode": "It leaves the pipeline's own guidance without control, which is off.",
    "skip_guidance_layers": "It belongs to the pipeline's own guidance, which is off.",
    "cfg_normalization": "It belongs to the pipeline's own guidance, which is off.",
    "cfg_trunc_ratio": "It belongs to the pipeline's own guidance, which is off.",
    "cfg_truncation": "It belongs to the pipeline's own guidance, which is off.",
    "ip_adapter_image": "Image prompts have no null condition here.",
    "ip_adapter_image_embeds": "Image prompts have no null condition here.",
}


@contextlib.contextmanager
def guidance(
    pipe: Any,
    pair: Pair | None = None,
    *,
    method: MethodName | Sequence[MethodName] = "chats",
    scale: float | Sequence[float] = DEFAULT_SCALE,
    alpha: float | Sequence[float] = DEFAULT_ALPHA,
    negative_prompt: str | Sequence[str] = "",
    interval: tuple[float, float] | Sequence[tuple[float, float]] = (0.0, 1.0),
    shaping: Shaping | Sequence[Shaping] = Shaping(),  # noqa: B008 (it is frozen)
    null_prompt: Literal["empty", "zeros"] | None = None,
) -> Iterator[Cost]:
    """Sample with one of the methods while the context is open: `pipe(prompt, ...)` as usual.

    Every setting is one value, or a list with one entry per picture (prompts ×
    num_images_per_prompt): one call can hold Standard, CFG and CHATS side by side. On exit the
    pipeline behaves as before, bit for bit.

    Args:
        pipe: a text-to-image, image-to-image or inpainting pipeline of a known family.
        pair: the preference pair; `standard` and `cfg` need none. None uses the adapters that the
            denoiser already carries, if any. The models of a full pair are moved to the pipeline's
            device and dtype, and stay there.
        method: how predictions are combined, see `chats.denoising.methods.terms`.
        scale: the paper's guidance scale s; diffusers' guidance_scale is 1 + s.
        alpha: the proxy strength α.
        negative_prompt: the prompt whose encoding is the null condition ∅; it is encoded with
            every setting that the prompt is encoded with.
        interval: fractions of the scheduler's timesteps between which guidance is on; outside,
            each picture costs one prediction. Image-to-image starts inside that list.
        shaping: what is done to the guidance that is added: reuse between steps, rescale, adaptive
            projection; see `chats.Shaping`.
        null_prompt: what an empty negative prompt is: the encoding of "" or zeros. None takes what
            the pair's metadata says, or "empty".

    Yields:
        What the calls have cost so far.

    Raises:
        UserError: the pipeline, the pair or a setting does not fit; says what to do.
    """
    family = family_of(pipe)
    settings = PictureSettings(
        method=method,
        scale=scale,
        alpha=alpha,
        negative_prompt=negative_prompt,
        interval=interval,
        shaping=shaping,
    )
    if pipe.config.get("requires_aesthetics_score"):
        raise UserError(
            f"This {type(pipe).__name__} is a refiner: it conditions the null prompt on a score of "
            "its own, which guidance does not reproduce. Use the base pipeline."
        )
    cost = Cost()
    owned = [
        half for half in (pair.halves().values() if pair else ()) if not isinstance(half, Mapping)
    ]
    for denoiser in (denoiser_of(pipe), *owned):
        _refuse_compiled(denoiser)
    with _claimed(pipe, denoiser_of(pipe), *owned):
        session = _Session(
            family=family,
            settings=settings,
            models=models_of(pipe, pair, roles=settings.roles()),
            null_prompt=null_prompt or (pair.metadata.null_prompt if pair else "empty"),
            cost=cost,
        )
        stock = type(pipe)
        pipe.__class__ = _guided_class(stock, session)
        try:
            yield cost
        finally:
            pipe.__class__ = stock


@contextlib.contextmanager
def _claimed(*owners: Any) -> Iterator[None]:
    """Refuse a second guidance on the same pipeline or model, from any thread."""
    mark = object()
    with contextlib.ExitStack() as claims:
        for owner in owners:
            # setdefault is one atomic step: of two threads only one finds its own mark.
            if vars(owner).setdefault("_chats_guidance", mark) is not mark:
                raise UserError(
                    f"This {type(owner).__name__} is already under chats.guidance. Leave that "
                    "context first, or give each thread a pipeline and a pair of its own."
                )
            claims.callback(vars(owner).pop, "_chats_guidance", None)
        yield


def _refuse_compiled(denoiser: torch.nn.Module) -> None:
    if denoiser._compiled_call_impl or any(
        hasattr(module, "_orig_mod") for module in denoiser.modules()
    ):
        raise UserError(
            "The denoiser is compiled by torch.compile as a whole, which skips hooks that come "
            "later without a word. Compile its repeated blocks instead, with "
            "denoiser.compile_repeated_blocks(): guidance works with those."
        )


class _Session:
    """What one guidance context knows; makes the hooks of each call."""

    def __init__(
        self,
        *,
        family: Family,
        settings: PictureSettings,
        models: Models,
        null_prompt: Literal["empty", "zeros"],
        cost: Cost,
    ) -> None:
        self._family = family
        self._settings = settings
        self._models = models
        self._null_prompt = null_prompt
        self._cost = cost
        self._copies = 1
        self._busy = threading.Lock()
        self._denoiser: GuidedDenoiser | None = None

    @contextlib.contextmanager
    def call(self, pipe: Any) -> Iterator[None]:
        """Hook the denoiser for one call of the pipeline."""
        if not self._busy.acquire(blocking=False):
            raise UserError(
                "The pipeline is already making pictures in another thread; pipelines cannot be "
                "shared. Wait for it, or give each thread a pipeline of its own."
            )
        entry = self._models.modules[self._settings.first_role()]
        own = getattr(pipe, self._family.denoiser)
        self._denoiser = GuidedDenoiser(
            family=self._family,
            models=self._models,
            timesteps=lambda: pipe.scheduler.timesteps,
            cost=self._cost,
        )
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            self._models.mask = stack.enter_context(self._adapters(own))
            control = getattr(pipe, "controlnet", None)
            stack.enter_context(self._denoiser.attached(entry, control))
            if entry is not own:
                # Past the pipeline's own __setattr__, which would write to its configuration.
                vars(pipe)[self._family.denoiser] = entry
                stack.callback(vars(pipe).__setitem__, self._family.denoiser, own)
            yield

    @contextlib.contextmanager
    def _adapters(self, denoiser: torch.nn.Module) -> Iterator[RowMask | None]:
        """Give rows their adapters: by a mask, by merged weights, or else by hooks."""
        compiled, names = in_compiled_blocks(denoiser), self._models.names
        ways: dict[str, dict] = {"masked": {}, "merged": {}, "hooked": {}}
        for layer, adapters in self._models.layers.items():
            is_large = layer not in compiled and worth_merging(layer, adapters)
            way = "masked" if layer in compiled else "merged" if is_large else "hooked"
            ways[way][layer] = adapters
        with (
            mixed_rows(ways["hooked"], names),
            merged_rows(ways["merged"], names),
            masked_rows(ways["masked"]) as mask,
        ):
            yield mask

    def arguments(
        self, stock: type, pipe: Any, args: tuple, kwargs: dict
    ) -> inspect.BoundArguments:
        """Check the arguments of a call, and switch the pipeline's own guidance off."""
        signature = inspect.signature(stock.__call__)
        bound = signature.bind(pipe, *args, **kwargs)
        for name, value in bound.arguments.items():
            self._check_argument(name, value, default=signature.parameters[name].default)
        bound.arguments.update(self._family.cfg_off)
        bound.arguments = {**self._family.embedded_guidance, **bound.arguments}
        if isinstance(bound.arguments.get("prompt"), list):
            # Some pipelines (Z-Image) write their template into the caller's own list.
            bound.arguments["prompt"] = list(bound.arguments["prompt"])
        # Of some, encode_prompt does not know how many pictures a prompt becomes.
        knows = "num_images_per_prompt" in inspect.signature(stock.encode_prompt).parameters
        self._copies = 1 if knows else bound.arguments.get("num_images_per_prompt") or 1
        return bound

    def encoded(self, encode: Callable, args: tuple, kwargs: dict, prompt: tuple) -> None:
        """Encode the null prompt with the settings that the prompt was just encoded with."""
        if self._denoiser is None:
            return
        pictures = self._settings.pictures(len(prompt[0]) * self._copies)
        null: dict[str, Value] = {}
        if any(term.condition != "prompt" for picture in pictures for term in picture.terms):
            null = self._null(encode, args, kwargs, prompt=prompt, pictures=pictures)
        self._denoiser.set_pictures(pictures, null)

    def _null(
        self,
        encode: Callable,
        args: tuple,
        kwargs: dict,
        *,
        prompt: tuple,
        pictures: Sequence[Picture],
    ) -> dict[str, Value]:
        family = self._family
        texts = list(dict.fromkeys(picture.negative_prompt for picture in pictures))
        encoded = encode(
            **_null_arguments(encode, args, kwargs, texts=texts, negative=family.null_offset > 0)
        )
        which = [texts.index(picture.negative_prompt) for picture in pictures]
        zeros = [
            i
            for i, picture in enumerate(pictures)
            if self._null_prompt == "zeros" and not picture.negative_prompt
        ]
        null: dict[str, Value] = {}
        for path, place in family.conditions.items():
            value = encoded[place + family.null_offset]
            if isinstance(value, list):
                null[path] = [value[i] for i in which]
                for i in zeros:
                    null[path][i] = torch.zeros_like(prompt[place][i // self._copies])
            else:
                null[path] = value[which]
                null[path][zeros] = 0
        for path, place in family.masks.items():
            value, own = encoded[place + family.null_offset], prompt[place]
            if family.varying_length:
                value = all_tokens(encoded[0]) if value is None else value
                own = all_tokens(prompt[0]) if own is None else own
                value, own = same_length(value, own)
            null[path] = value[which]
            # A dropped prompt as in training: zeros under the prompt's own mask.
            null[path][zeros] = own[zeros]
        return null

    def _check_argument(self, name: str, value: Any, *, default: Any) -> None:
        if name in self._family.cfg_off:
            raise UserError(
                f"{name}={value!r} was passed inside chats.guidance, whose own scale is in force. "
                "Pass scale= to chats.guidance instead; diffusers' guidance_scale is 1 + scale."
            )
        is_default = value is None or (type(value) is type(default) and value == default)
        if name.startswith("negative_") and not is_default:
            raise UserError(
                f"{name}= was passed inside chats.guidance, where the pipeline's own guidance is "
                "off. Pass negative_prompt= to chats.guidance instead."
            )
        if name in _WITHOUT_EFFECT and not is_default:
            raise UserError(f"{name}= has no effect inside chats.guidance. {_WITHOUT_EFFECT[name]}")
        has_scale = name.endswith("attention_kwargs") and isinstance(value, Mapping)
        if has_scale and "scale" in value and self._models.adapters is not None:
            raise UserError(
                f"{name}={{'scale': ...}} has no effect on the adapters of a pair. Leave it out."
            )

    def _end(self) -> None:
        self._denoiser = None
        self._models.names.clear()
        self._busy.release()


def _guided_class(stock: type, session: _Session) -> type:
    """Make the class that the pipeline has inside the context: the stock one, guided."""

    class Guided(stock):
        @functools.wraps(stock.__call__)
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            bound = session.arguments(stock, self, args, kwargs)
            with session.call(self):
                return stock.__call__(*bound.args, **bound.kwargs)

        @functools.wraps(stock.encode_prompt)
        def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
            prompt = super().encode_prompt(*args, **kwargs)
            session.encoded(super().encode_prompt, args, kwargs, prompt)
            return prompt

    Guided.__name__, Guided.__qualname__ = stock.__name__, stock.__qualname__
    Guided.__module__ = stock.__module__
    return Guided


def _null_arguments(
    encode: Callable, args: tuple, kwargs: dict, *, texts: Sequence[str], negative: bool
) -> dict[str, Any]:
    """Return the arguments of the prompt's encoding, with `texts` in the prompt's place.

    With `negative` they stand in the negative prompt's place too, and both are encoded.
    """
    signature = inspect.signature(encode)
    arguments = dict(signature.bind(*args, **kwargs).arguments)
    for name in arguments:
        if "prompt" in name and name not in ("num_images_per_prompt", "system_prompt"):
            default = signature.parameters[name].default
            arguments[name] = None if default is inspect.Parameter.empty else default
    ours = plain_encoding(encode) | {"prompt": list(texts)}
    if negative:
        ours |= {"negative_prompt": list(texts), "do_classifier_free_guidance": True}
    return {**arguments, **ours}
