"""A1111's `sdapi/v1` to DIFS and back: pure translation, no sockets.

Shapes: A1111's own API as the `webuiapi` client and Open WebUI use it. What DIFS does not have is refused
by name. The lists that clients ask for at start are in `a1111_lists`.
"""

import re
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from difs import samplers
from difs.doors.answers import Refused
from difs.doors.decode import decode, unknown
from difs.doors.openai import INTENTS
from difs.doors.orders import FileForm, Order, Outcome
from difs.errors import InvalidRequest, UnknownName, Unsupported
from difs.messages import MAX_ADAPTERS, MAX_IMAGES, Adapter
from difs.version import __version__

if TYPE_CHECKING:
    from difs.client.requests import Wishes

PREVIEW_EVERY = 5
"""Steps between the previews that `/progress` shows."""
AUTOMATIC = frozenset({"", "automatic"})
FORMS: dict[str, FileForm] = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
MAX_TASK_CHARS = 128
_LORA = re.compile(r"<lora:([^<>:]{1,128}):?([^<>]{0,64})>")
_HASH = re.compile(r"\s*\[[0-9a-fA-F]{6,64}\]\s*\Z")


class Settings(Struct, frozen=True):
    """The options that mean something here; they hold for one caller."""

    sd_model_checkpoint: str = "auto"
    samples_format: str = "png"
    CLIP_stop_at_last_layers: int = 1

    def checked(self) -> "Settings":
        """Return these settings; raises a DifsError for one that cannot be."""
        if self.samples_format not in FORMS:
            raise InvalidRequest(
                f"samples_format: must be one of {', '.join(FORMS)}", field="samples_format"
            )
        if self.CLIP_stop_at_last_layers != 1:
            raise Unsupported(
                "CLIP_stop_at_last_layers: only 1 is supported", field="CLIP_stop_at_last_layers"
            )
        return self


SETTING_NAMES = frozenset(field.name for field in fields(Settings))
Text = str | None
Number = float | None


class Txt2ImgAsk(Struct, frozen=True):
    """The body of `POST /sdapi/v1/txt2img`."""

    prompt: str = ""
    negative_prompt: Text = None
    styles: tuple[str, ...] | None = None
    seed: int | None = None
    subseed_strength: Number = None
    seed_resize_from_h: int | None = None
    seed_resize_from_w: int | None = None
    sampler_name: Text = None
    sampler_index: Text = None
    scheduler: Text = None
    batch_size: Annotated[int, Meta(ge=1)] = 1
    n_iter: Annotated[int, Meta(ge=1)] = 1
    steps: int | None = None
    cfg_scale: Number = None
    width: int | None = None
    height: int | None = None
    restore_faces: bool | None = None
    tiling: bool | None = None
    enable_hr: bool | None = None
    firstphase_width: int | None = None
    firstphase_height: int | None = None
    refiner_checkpoint: Text = None
    script_name: Text = None
    script_args: tuple[Any, ...] | None = None
    alwayson_scripts: dict[str, Any] | None = None
    override_settings: dict[str, Any] | None = None
    send_images: bool = True
    save_images: bool = False
    force_task_id: Annotated[str, Meta(max_length=MAX_TASK_CHARS)] | None = None


UNSUPPORTED = {
    "styles": "styles are not kept here; write them into the prompt",
    "subseed_strength": "variation seeds are not supported",
    "seed_resize_from_h": "resizing seeds is not supported",
    "seed_resize_from_w": "resizing seeds is not supported",
    "restore_faces": "face restoration is not supported",
    "tiling": "tiling pictures are not supported",
    "enable_hr": "hires fix is not supported; ask for the size itself",
    "firstphase_width": "hires fix is not supported; ask for the size itself",
    "firstphase_height": "hires fix is not supported; ask for the size itself",
    "refiner_checkpoint": "refiners are not supported",
    "script_name": "scripts are not supported",
    "save_images": "pictures are not saved on the server",
}
"""Fields that must be empty, zero or false."""
NEUTRAL = frozenset(
    {
        *("denoising_strength", "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x"),
        *("hr_resize_y", "hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt"),
        *("hr_negative_prompt", "subseed", "do_not_save_samples", "do_not_save_grid", "eta", "s_churn"),
        *("s_tmax", "s_tmin", "s_noise", "override_settings_restore_afterwards", "infotext", "comments"),
        *("refiner_switch_at", "disable_extra_networks", "s_min_uncond"),
    }
)
"""Fields that clients send always, and that mean nothing without one that is refused."""


def read(body: bytes) -> Txt2ImgAsk:
    """Return what a body asks for; raises a DifsError that names the field."""
    asked = decode(body, Txt2ImgAsk)
    for name, why in UNSUPPORTED.items():
        if getattr(asked, name):
            raise Unsupported(f"{name}: {why}", field=name)
    for name, script in (asked.alwayson_scripts or {}).items():
        if _is_on(script):
            raise Unsupported(
                f"alwayson_scripts: {name[:64]!r} is not supported", field="alwayson_scripts"
            )
    if asked.batch_size * asked.n_iter > MAX_IMAGES:
        words = (
            f"batch_size: batch_size x n_iter is {asked.batch_size * asked.n_iter}, at most {MAX_IMAGES}"
        )
        raise InvalidRequest(words, field="batch_size", limit=f"<= {MAX_IMAGES}")
    return asked


def _is_on(script: Any) -> bool:
    """Whether an always-on script would do something: `{"args": []}` and `[false]` say no."""
    arguments = script.get("args") if isinstance(script, dict) else script
    return any(arguments) if isinstance(arguments, list) else bool(arguments)


def settings_after(settings: Settings, changes: dict[str, Any]) -> Settings:
    """Return settings with changes made; raises a DifsError that names what is not supported."""
    known = {name: value for name, value in changes.items() if name in SETTING_NAMES}
    for name, value in changes.items():
        if name not in known and value != options(settings).get(name):
            raise Unsupported(f"{name[:64]}: this option is not supported", field=name[:64])
    merged = msgspec.structs.asdict(settings) | {k: v for k, v in known.items() if v is not None}
    return decode(msgspec.json.encode(merged), Settings).checked()


def options(settings: Settings) -> dict[str, Any]:
    """Return the whole dictionary of options, as `GET /options` does; only `Settings` can be changed."""
    return {
        **msgspec.structs.asdict(settings),
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "samples_save": False,
        "grid_save": False,
        "show_progress_every_n_steps": PREVIEW_EVERY,
        "live_previews_enable": True,
    }


def order(asked: Txt2ImgAsk, body: bytes, settings: Settings, variants: frozenset[str]) -> Order:
    """Return the order; `variants` are the names of those registered. Raises a DifsError."""
    settings = settings_after(settings, asked.override_settings or {})
    prompt, adapters = split_loras(asked.prompt)
    wishes: dict[str, Any] = {
        "n": asked.batch_size * asked.n_iter,
        "negative_prompt": asked.negative_prompt or "",
        "seed": None if asked.seed is None or asked.seed < 0 else asked.seed,
        "steps": asked.steps,
        "guidance_scale": asked.cfg_scale,
        "width": asked.width,
        "height": asked.height,
        "sampler": sampler(asked),
        "adapters": adapters,
        "preview_every": PREVIEW_EVERY,
        **_model(settings.sd_model_checkpoint, variants),
    }
    names = unknown(body, Txt2ImgAsk, NEUTRAL)
    return Order(
        prompt,
        cast("Wishes", {name: value for name, value in wishes.items() if value is not None}),
        FORMS[settings.samples_format],
        notes=(f"without a meaning here: {', '.join(names)}",) if names else (),
    )


def check_model(settings: Settings, variants: frozenset[str]) -> None:
    """Refuse a checkpoint that is neither a goal nor a variant; raises UnknownName."""
    _model(settings.sd_model_checkpoint, variants)


def _model(checkpoint: str, variants: frozenset[str]) -> dict[str, Any]:
    """Return what a checkpoint's name asks for: a variant, or a goal; a hash behind it is left out."""
    name = _HASH.sub("", checkpoint).strip()
    if name in INTENTS:
        return {"quality": INTENTS[name]}
    if name not in variants:
        known = ", ".join([*INTENTS, *sorted(variants)])
        raise UnknownName(
            f"sd_model_checkpoint: {name[:64]!r} is not known; there are {known}",
            field="sd_model_checkpoint",
        )
    return {"variant": name}


def sampler(asked: Txt2ImgAsk) -> str | None:
    """Return our name of the sampler that is meant; None leaves it to DIFS. Raises UnknownName."""
    label = (asked.sampler_name or asked.sampler_index or "").strip()
    schedule = (asked.scheduler or "").strip()
    if label.lower() in AUTOMATIC:
        return None
    is_said = schedule.lower() in AUTOMATIC or label.lower().endswith(f" {schedule.lower()}")
    wanted = label if is_said else f"{label} {schedule}"
    found = samplers.canonical(wanted)
    if found is None:
        words = (
            f"sampler_name: {wanted[:64]!r} is not known; see /sdapi/v1/samplers and /sdapi/v1/schedulers"
        )
        raise UnknownName(words, field="sampler_name")
    return found


def split_loras(prompt: str) -> tuple[str, tuple[Adapter, ...]]:
    """Return the prompt without its `<lora:name:weight>` tags, and these as adapters."""
    found = []
    for name, weight in _LORA.findall(prompt):
        try:
            found.append(msgspec.convert({"name": name, "weight": float(weight or 1.0)}, Adapter))
        except (ValueError, msgspec.ValidationError):
            words = (
                f"prompt: <lora:{name[:64]}:{weight}> must be a name and a weight, such as <lora:ink:0.8>"
            )
            raise InvalidRequest(words, field="prompt") from None
    if len(found) > MAX_ADAPTERS:
        raise InvalidRequest(f"prompt: {len(found)} loras, at most {MAX_ADAPTERS}", field="prompt")
    return " ".join(_LORA.sub(" ", prompt).split()) if found else prompt, tuple(found)


# ---- replies --------------------------------------------------------------------------------------


def reply(asked: Txt2ImgAsk, body: bytes, order: Order, outcome: Outcome, stamp: str) -> dict[str, Any]:
    """Return the body of a reply; `stamp` is the time in A1111's form, 20261126013000."""
    images = [picture.base64 for picture in outcome.pictures] if asked.send_images else []
    return {
        "images": images,
        "parameters": msgspec.Raw(body or b"{}"),
        "info": msgspec.json.encode(_info(asked, order, outcome, stamp)).decode(),
    }


def interrupted(body: bytes, preview: str | None) -> dict[str, Any]:
    """Return the reply to a request that was interrupted: the last preview, where there is one."""
    return {
        "images": [preview] if preview is not None else [],
        "parameters": msgspec.Raw(body or b"{}"),
        "info": msgspec.json.encode({"interrupted": True, "is_preview": preview is not None}).decode(),
    }


def _info(asked: Txt2ImgAsk, order: Order, outcome: Outcome, stamp: str) -> dict[str, Any]:
    plan, pictures = outcome.plan, outcome.pictures
    seeds = [picture.seed for picture in pictures]
    negative = asked.negative_prompt or ""
    used = samplers.SAMPLERS[plan.sampler]
    return {
        "prompt": asked.prompt,
        "all_prompts": [asked.prompt] * len(seeds),
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * len(seeds),
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * len(seeds),
        "subseed_strength": 0,
        "width": plan.width,
        "height": plan.height,
        "sampler_name": used.label,
        "scheduler": used.schedule or "Automatic",
        "cfg_scale": plan.guidance_scale,
        "steps": plan.steps,
        "batch_size": len(seeds),
        "restore_faces": False,
        "sd_model_name": plan.variant,
        "sd_model_hash": "",
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [picture.parameters for picture in pictures],
        "styles": [],
        "job_timestamp": stamp,
        "clip_skip": 1,
        "version": f"difs {__version__}",
        "difs": outcome.facts(),
    }


def error(told: Refused, body: str = "") -> dict[str, Any]:
    """Return an error's body, in A1111's shape; `detail` says it in words."""
    return {"error": told.code, "detail": told.message, "body": body, "errors": told.message}
