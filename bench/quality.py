"""What the shipped members are worth: fidelity and recognition over steps, reprinted from the weights.

    python -m bench.quality [MEMBER ...] [--seeds 3] [--captions 389] [--write] [--grid docs/family.png]

Every variant of the embedded family (and every adapter, on the variant it was made for) is loaded
through the registry and painted with diffusers' pipeline in batches of 32 with fixed seeds; the scorer
(`difs.scorer`) judges each picture at 64 and at 128 pixels. Quality is the fidelity of a picture that is
recognised, else 0. `--write` puts the tables into the manifests of variants, `--grid` draws members x
prompts x steps. On two cores all of it takes about an hour; `--seeds 1 --captions 97` a few minutes.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import family_goals
from bench.members import Compositions, Member, Point, asks, measure, others, recall, styled, unseen
from bench.report import keep
from difs import manifests, repository
from difs.scorer import REFERENCES, Scorer
from difs.variants import Variant
from model_repo.recipes.lora import mono

HOME = "emoji-base"
"""The variant in whose folder captions and references stand."""


class Family:
    """The members, and what they are measured against."""

    def __init__(self, seeds: int, count: int) -> None:
        """Find everything in the model repository."""
        self.repo = repository.scan(repository.locate("model_repo"))
        home = self.repo.variant(HOME)
        entries = json.loads((home.folder / repository.CAPTIONS).read_text("utf-8"))
        self.captions: dict[str, str] = {name: entry["caption"] for name, entry in entries.items()}
        self.also: dict[str, list[str]] = {name: entry.get("also", []) for name, entry in entries.items()}
        self.scorer = Scorer.load(home.folder)
        self.by_seed = [asks(self.captions, count, seed) for seed in range(seeds)]

    def members(self) -> list[tuple[str, str]]:
        """Return (variant, adapter or "") of all that belongs to the family."""
        found = [(v.name, "") for v in self.repo.variants.values() if v.manifest.captions == HOME]
        styles = self.styles()
        found += [
            (a.manifest.variants[0], a.name) for a in self.repo.adapters.values() if a.name in styles
        ]
        return found

    def styles(self) -> dict[str, Scorer]:
        """Return the drawings of every style: the base's, and what the adapters aim at."""
        home = self.repo.variant(HOME).folder
        names = self.scorer.names
        found = {HOME: self.scorer}
        found["style-mono"] = Scorer({n: mono(self.scorer.reference(n, 64)) for n in names})
        if (home.parent / "style-fluent" / REFERENCES).is_file():
            found["style-fluent"] = Scorer.load(home.parent / "style-fluent", home)
        return found

    def figures(self, member: Member) -> dict[str, Any]:
        """Measure a member: its table, and what only some can."""
        if member.name != member.variant.name:
            own = Point(member.manifest.steps.default, member.manifest.guidance_scale)
            return dict(styled(member, self.styles(), self.by_seed[0], own))
        rows: list[dict[str, Any]] = []
        for point in member.points():
            rows += measure(member, self.scorer, point, self.by_seed)
            print(*table(rows[-2:], with_head=len(rows) == 2), sep="\n", flush=True)
        own = Point(member.manifest.steps.default, member.manifest.guidance_scale)
        found: dict[str, Any] = {
            "curve": rows,
            "unseen_wordings": recall(member, self.scorer, unseen(self.captions), own),
            "other_words": recall(member, self.scorer, others(self.also), own),
        }
        if member.manifest.family == "sdxl":
            composed = Compositions(self.scorer, self.captions)
            found["coloured"] = composed.coloured(member, 200, own)
            found["paired"] = composed.paired(member, 200, own)
        return found


def table(rows: Sequence[Mapping[str, Any]], *, with_head: bool = True) -> Iterator[str]:
    """Return the lines of a quality table."""
    if with_head:
        yield "side  steps  guidance  score  spread  recall@1  recall@5  PSNR dB"
    for row in rows:
        yield (
            f"{row['side']:4}  {row['steps']:5}  {row['guidance']:8g}  {row['score']:.3f}"
            f"  {row['spread']:6.3f}  {row['recall_1']:8.3f}  {row['recall_5']:8.3f}"
            f"  {row['psnr_db']:7.2f}"
        )


QUALITY = re.compile(r"\n*^\[quality\]\n.*?(?=^\[|\Z)", flags=re.S | re.M)


def write(variant: Variant, rows: Sequence[Mapping[str, Any]], source: str) -> None:
    """Put a quality table into a variant's manifest, in place of the one that is there."""
    manifest = variant.folder / repository.MANIFEST
    lines = ["[quality]", 'kind = "reference"', f'judge = "{HOME}"', f'source = "{source}"', "curve = ["]
    for row in rows:
        facts = ", ".join(f"{name} = {row[name]:g}" for name in manifests.QualityRow.__struct_fields__)
        lines.append(f"  {{ {facts} }},")
    text = QUALITY.sub("\n", manifest.read_text("utf-8")).rstrip("\n")
    manifest.write_text("\n".join([text, "", *lines, "]", ""]), "utf-8")


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("member", nargs="*", help="variants and adapters; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--captions", type=int, default=389, help="how many of them")
    parser.add_argument("--write", action="store_true", help="put the tables into the manifests")
    parser.add_argument("--grid", type=Path, help="draw members x prompts x steps")
    asked = parser.parse_args()
    family = Family(asked.seeds, asked.captions)
    found: dict[str, Any] = {}
    loaded: list[Member] = []
    source = f"measured: bench.quality, {asked.captions} captions x {asked.seeds} seeds"
    for variant, adapter in family.members():
        if asked.member and (adapter or variant) not in asked.member:
            continue
        started = time.monotonic()
        member = Member(family.repo, variant, adapter)
        print(f"\n{member.name}")
        found[member.name] = family.figures(member)
        loaded.append(member)
        for name, value in found[member.name].items():
            if name != "curve":
                print(f"{name}: {value:.3f}")
        print(f"{time.monotonic() - started:.0f} s", flush=True)
        if asked.write and not adapter:
            write(member.variant, found[member.name]["curve"], source)
    goals = family_goals.verdicts(found)
    command = "python -m bench.quality " + " ".join(asked.member)
    command = f"{command.strip()} --seeds {asked.seeds} --captions {asked.captions}"
    print(keep("quality", command, {**found, "goals": goals}))
    if asked.grid is not None:
        family_goals.draw(asked.grid, loaded, family.captions)
        print(asked.grid)


if __name__ == "__main__":
    main()
