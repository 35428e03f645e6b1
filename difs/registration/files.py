"""Registers one file: a checkpoint becomes a variant, a LoRA an adapter."""

from pathlib import Path

from difs.errors import RepositoryError
from difs.manifests import AdapterManifest, Manifest, Seen
from difs.registration import digests, headers, keys, lora_keys, shelf
from difs.registration.headers import Header
from difs.registration.orders import (
    UNKNOWN_LICENCE,
    Order,
    Outcome,
    name_for,
    refuse_pickle,
    registered,
)
from difs.registration.presets import preset

WEIGHTS = "model.safetensors"
UNSHARED = "unet"
"""Nearly every checkpoint has its own: it gets no digest besides the file's."""


def register(path: Path, order: Order) -> Outcome:
    """Register a .safetensors file; raises RepositoryError, OSError."""
    refuse_pickle(path)
    if path.suffix != ".safetensors" or not path.is_file():
        raise RepositoryError(f"{path.name}: a .safetensors file is needed")
    before = registered(path, order)
    if before is not None:
        return before
    header = headers.read(path)
    wishes = keys.Wishes(order.kind, order.prediction)
    if lora_keys.is_lora(header.tensors):
        return _adapter(path, header, lora_keys.recognise(header, path.stem, wishes), order)
    spread = headers.numbers(path, header, keys.SPREAD) if keys.SPREAD in header.tensors else ()
    return _variant(path, header, keys.recognise(header, path.stem, wishes, spread), order)


def _variant(path: Path, header: Header, found: keys.Checkpoint, order: Order) -> Outcome:
    name = name_for(order, path.stem)
    numbers = preset(found.family, found.kind, found.prediction)
    notes = list(found.notes)
    if found.precision == "fp32":
        notes.append(f"its fp32 is computed in fp16 on a GPU; `difs derive {name}` offers fp32")
    with shelf.building(order.root, name) as folder:
        linked = shelf.bring(path, folder / WEIGHTS, copy=order.copy)
        shared = {part: starts for part, starts in found.parts.items() if part != UNSHARED}
        read = digests.of_parts(
            folder / WEIGHTS, header, shared, order.watch(path.name, header.file_bytes)
        )
        manifest = Manifest(
            name=name,
            task="text-to-image",
            family=found.family,
            kind=found.kind,
            path=".",
            precision="bf16" if found.precision == "bf16" else "fp16",
            sampler=numbers.sampler,
            steps=numbers.steps,
            guidance_scale=numbers.guidance_scale,
            native_sizes=numbers.native_sizes,
            licence=order.licence or header.metadata.get("modelspec.license") or UNKNOWN_LICENCE,
            description=_title(header, path),
            digests={WEIGHTS: read.digest},
            pipeline=found.family,
            single_file=WEIGHTS,
            prediction=None if found.prediction == "epsilon" else found.prediction,
            zero_snr=found.zero_snr,
            contents=dict(read.contents),
            linked={WEIGHTS: linked} if linked is not None else {},
            seen={WEIGHTS: _seen(folder / WEIGHTS, read.seen)},
        )
        shelf.write(folder, manifest)
    return Outcome(str(path), name, f"variant of {found.family}", tuple(notes))


def _adapter(path: Path, header: Header, found: lora_keys.LoraFacts, order: Order) -> Outcome:
    name = name_for(order, path.stem)
    with shelf.building(order.root, name) as folder:
        linked = shelf.bring(path, folder / WEIGHTS, copy=order.copy)
        read = digests.of_file(folder / WEIGHTS, order.watch(path.name, header.file_bytes))
        manifest = AdapterManifest(
            name=name,
            family=found.family,
            file=WEIGHTS,
            digest=read.digest,
            licence=order.licence or header.metadata.get("modelspec.license") or UNKNOWN_LICENCE,
            description=_title(header, path),
            kind=found.kind,
            text_width=found.text_width,
            linked={WEIGHTS: linked} if linked is not None else {},
            seen={WEIGHTS: _seen(folder / WEIGHTS, read.seen)},
        )
        shelf.write(folder, manifest)
    return Outcome(str(path), name, f"adapter for {found.family}", found.notes)


def _seen(target: Path, read: Seen) -> Seen:
    """Return how the file looks where it stands now."""
    if digests.has_changed(target, read):
        raise RepositoryError(f"{target.name} changed while it was registered")
    return read


def _title(header: Header, path: Path) -> str:
    title = header.metadata.get("modelspec.title", "").strip()
    return " ".join((title or path.stem).split())[:200]
