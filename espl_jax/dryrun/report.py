"""A study as one table, and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from espl_jax.dryrun import hlo
from espl_jax.dryrun.chips import GIB
from espl_jax.dryrun.estimate import Remedy, needs_text
from espl_jax.dryrun.study import Program, Study

SHOWN = 12  # collectives of the decode step that are listed


def gib(count: float | None) -> str:
    return "" if count is None else f"{count / GIB:,.2f}"


def needs(study: Study) -> dict[str, float]:
    """{phase: bytes a device} of the phases that were compiled."""
    phases = {"sampling": study.programs[:2], "learning": study.programs[2:]}
    return {name: max(one.needed for one in part) for name, part in phases.items() if all(one.memory for one in part)}


def memory_rows(programs: Sequence[Program]) -> dict[str, list[str]]:
    """Name -> GiB of each program; "layout" is what the compiler pads, the batch and gradients among the arguments."""
    rows = {name: [gib(one.resident.get(name)) for one in programs] for name in programs[0].resident}
    fitted = [one.memory for one in programs]
    rows["batch, gradient, padding"] = [
        gib(m and max(0.0, m["arguments"] - m["known"]) + m["outputs"] - m["shared"]) for m in fitted
    ]
    rows["activations, temporaries"] = [gib(m and m["temporaries"]) for m in fitted]
    return rows


def kind_rows(programs: Sequence[Program]) -> dict[str, list[str]]:
    """Kind of collective -> how many and MB that a device sends, of one call of each program."""
    sent = [hlo.by_kind(list(one.collectives)) for one in programs]
    kinds = [kind for kind in hlo.KINDS if any(kind in found for found in sent)]
    return {
        kind: [f"{found[kind][0]:,.0f} x, {found[kind][1] / 1e6:,.2f} MB" if kind in found else "" for found in sent]
        for kind in kinds
    }


def time_rows(programs: Sequence[Program]) -> dict[str, list[str]]:
    """Milliseconds of one call by what bounds it, and seconds of an iteration."""

    def cells(text):
        return ["" if one.seconds is None else text(one) for one in programs]

    return {
        "ms: compute": cells(lambda one: f"{1e3 * one.seconds.compute:,.2f}"),
        "ms: memory": cells(lambda one: f"{1e3 * one.seconds.memory:,.2f}"),
        "ms: links": cells(lambda one: f"{1e3 * one.seconds.links:,.2f}"),
        "calls an iteration": [f"{one.calls:,.1f}" for one in programs],
        "s an iteration": cells(lambda one: f"{one.calls * one.seconds.bound:,.1f} ({one.seconds.by})"),
    }


def table(study: Study, title: str) -> Table:
    """Everything about a study in one table, a column a program."""
    found = Table(title=title, title_justify="left")
    found.add_column("a device")
    for one in study.programs:
        found.add_column(one.name + (" (a token)" if one.name == "decode" else ""), justify="right")
    limit = study.where.device_memory
    needed = [gib(one.needed) if one.memory else "does not fit" for one in study.programs]
    flops = [f"{one.flops / 1e12:,.2f}" if one.memory else "" for one in study.programs]
    sections = [
        {f"GiB: {name}": cells for name, cells in memory_rows(study.programs).items()},
        {"GiB: all" + (f" (has {gib(limit)})" if limit else ""): needed},
        {"TFLOP, all devices": flops} | kind_rows(study.programs),
        time_rows(study.programs),
        {"compiled in s": [f"{one.compile_seconds:,.0f}" for one in study.programs]},
    ]
    for rows in sections:
        for name, cells in rows.items():
            found.add_row(name, *cells)
        found.add_section()
    return found


def verdicts(study: Study, remedies: Sequence[Remedy]) -> list[str]:
    """Sentences below the table."""
    lines = []
    if study.iteration:
        parts = ", ".join(f"{name} {seconds:,.0f}" for name, seconds in study.iteration.items())
        lines.append(f"one iteration: {sum(study.iteration.values()):,.0f} s at the least, evaluation aside ({parts})")
    decode = study.programs[1]
    if decode.memory:
        lines.append(f"a decode step sends {sum(one.sent for one in decode.collectives) / 1e6:,.2f} MB a device in "
                     f"{sum(one.times for one in decode.collectives):,.0f} collectives:")  # fmt: skip
        lines += [f"  {describe(one)}" for one in decode.collectives[:SHOWN]]
        rest = decode.collectives[SHOWN:]
        if rest:
            small = sum(one.sent for one in rest) / 1e6
            lines.append(f"  and {sum(one.times for one in rest):,.0f} smaller ones, {small:,.3f} MB")
        whole = [describe(one) for one in study.gathered]
        lines.append("GATHERED WHOLE per token: " + "; ".join(whole) if whole else "no weight is gathered whole per token")
    lines += [f"{one.name} does not fit: {one.refusal}" for one in study.programs if one.refusal]
    if study.where.device_memory is None:
        return [*lines, "what a device has is not known here, so nothing was compared"]
    if study.fits:
        return [*lines, "it fits"]
    lines.append("it does not fit; by formula each of these would:" if remedies else "it does not fit, nor with two changes")
    for one in remedies:
        lines.append(f"  {one.text}  ({needs_text(one.needs)})")
    return lines


def describe(one: hlo.Collective) -> str:
    """A collective in words."""
    kind, dims = one.shape
    return f"{one.kind} of {kind}{list(dims)} over {one.group} devices, {one.times:,.0f} x, {one.sent / 1e6:,.3f} MB"


def show(study: Study, title: str, remedies: Sequence[Remedy]) -> None:
    """Prints the table and the sentences."""
    console = Console(highlight=False)
    console = Console(highlight=False, width=max(console.width, 118)) if not console.is_terminal else console
    console.print(Group(table(study, title), *(Text(line) for line in verdicts(study, remedies))))


def as_json(study: Study, title: str, remedies: Sequence[Remedy]) -> dict[str, Any]:
    """Every number of a study."""
    programs = [
        dataclasses.asdict(one) | {"needed": one.needed, "sent": sum(each.sent for each in one.collectives)}
        for one in study.programs
    ]
    return {
        "title": title, "topology": study.where.name, "chips": study.where.chips, "devices": len(study.where.devices),
        "chip": dataclasses.asdict(study.where.chip) if study.where.chip else None, "device_memory": study.where.device_memory,
        "mesh": study.mesh, "layout": dataclasses.asdict(study.layout), "fits": study.fits, "programs": programs,
        "gathered_whole": [describe(one) for one in study.gathered], "iteration_seconds": study.iteration,
        "remedies": [dataclasses.asdict(one) for one in remedies],
    }  # fmt: skip
