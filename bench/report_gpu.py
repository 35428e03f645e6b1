"""The GPU's part of docs/BENCHMARKS.md: figures -> text. Pure."""

from typing import Any

from bench.report_tables import number, table, times


def engine(figures: dict[str, Any]) -> str:
    """Return DIFS beside bare diffusers by batch size, the memory modes and the moves of each family."""
    parts = [f"Device: {figures['device']['name']}."]
    for name, family in figures["families"].items():
        parts.append(f"### {name}: {family['label']}")
        parts += [_by_batch(family), _at_the_end(family), _modes(family), _moves(family)]
    return "\n\n".join(part for part in parts if part)


def _by_batch(family: dict[str, Any]) -> str:
    bare = family["bare"]["eager"]
    kinds = {f"DIFS, {kind}": cells for kind, cells in family["engine"].items()}
    kinds |= {f"diffusers, {kind}": cells for kind, cells in family["bare"].items() if kind != "eager"}

    def share(cells: dict[str, Any], n: str) -> str:
        return times(cells.get(n, {}).get("images_per_s"), bare[n].get("images_per_s"))

    rows = [(n, *(share(cells, n) for cells in kinds.values())) for n in bare]
    head = ("pictures together", *kinds)
    return "Throughput, over that of diffusers, eager:\n\n" + table(head, rows)


def _at_the_end(family: dict[str, Any]) -> str:
    """Tell what was timed once more when all was measured, if not all was at first."""
    bare, again = family["bare"]["eager"], family["modes"].get("full, again", {})
    most = max(map(int, family["load"]["step_ms_by_rows"]))
    if most >= 2 * max(map(int, bare)):
        return ""
    shares = [
        f"{n} together {times(bare[n]['seconds'], again[f'{n}_together']['seconds'])}"
        for n in bare
        if f"{n}_together" in again
    ]
    return (
        f"This engine had measured calls of {most} rows at most when it was timed, and measured others "
        "between: the figures of several pictures, and of the first memory modes, are worse for it. Once "
        f"more at the end of all, in memory mode full: {', '.join(shares)}."
    )


def _modes(family: dict[str, Any]) -> str:
    first = next(iter(family["modes"].values()))["1_together"]
    rows = [
        (
            mode,
            times(found["1_together"].get("seconds"), first.get("seconds")),
            times(found["1_together"].get("peak_gib"), first.get("peak_gib")),
            f"{found['switch_s']:.2f} s",
        )
        for mode, found in family["modes"].items()
    ]
    return table(("memory mode", "time / full", "peak memory / full", "switched in"), rows)


def _moves(family: dict[str, Any]) -> str:
    hand_over = family["hand_over"]
    rows = [
        (f"hand-over of pixels: {way.removesuffix('_ms')} / through PIL", times(ms, hand_over["pil_ms"]))
        for way, ms in hand_over.items()
    ]
    load_s, parking = family["load"]["from_disk_s"], family["parking"]
    rows += [
        (f"{words} / load from disk", times(max(parking[name]), load_s))
        for name, words in (("park_s", "parking in host memory"), ("unpark_s", "return from there"))
    ]
    return table(("what", "time"), rows)


def promises(figures: dict[str, Any]) -> str:
    """Return the errors of the predictions at each load, by what was asked for."""
    rows = [
        (
            name,
            load,
            number(cell["error_p50"]),
            number(cell["error_p90"]),
            f"{cell['kept']:.0%} of {cell['promised']}",
        )
        for name, cells in figures["runs"].items()
        for load, cell in cells.items()
    ]
    return table(("variants", "load", "error p50", "p90", "kept"), rows)
