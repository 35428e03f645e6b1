"""The embedded family: what it can paint, and its seconds as `bench/tables` keeps them."""

from pathlib import Path

from difs import repository
from difs.simulation import tables
from difs.simulation.tables import Model

TABLES = Path(__file__).parent / "tables"


def captions(variant: str) -> list[str]:
    """Return the caption of each thing that a variant can paint."""
    known = repository.scan(repository.locate("model_repo")).variant(variant)
    return [first for first, *_ in known.captions]


def models() -> dict[str, Model]:
    """Return the variants of model_repo/ that have tables, by name."""
    known = repository.scan(repository.locate("model_repo")).variants
    return tables.read(TABLES, {name: variant.info() for name, variant in known.items()})
