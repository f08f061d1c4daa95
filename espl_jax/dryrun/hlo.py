"""What a compiled program sends between devices, read off its optimised HLO text.

XLA's own cost analysis counts the body of a loop once and says nothing of collectives. Here every instruction is counted as
often as it runs: a loop's body as often as its trip count says (noted by the compiler, or the constant that its condition
compares with), or, where there is none, as often as the caller says; of a conditional the branch that the caller says, or the
one that sends most.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator

ITEM_BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64, "bf16": 16,
    "f16": 16, "f32": 32, "f64": 64, "f8e4m3fn": 8, "f8e5m2": 8, "c64": 64, "c128": 128, "token": 0, "opaque": 0,
}  # fmt: skip
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
HEADER = re.compile(r"^\s*(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation|called_computations)=\{?%?([\w.\-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CONSTANT = re.compile(r"%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
BELOW = re.compile(r"ROOT .* compare\([^,]*, (?:\S+ )?%?([\w.\-]+)\), direction=LT")
GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]*)\}|\[(\d+),(\d+)\])")
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation. operation: without the -start of an asynchronous one. shapes: (type, dimensions) of what it
    gives; rest: what stands behind the operation's name."""

    operation: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    rest: str

    @property
    def bytes(self) -> int:
        return sum(array_bytes(*shape) for shape in self.shapes)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Something that devices send each other. kind: one of KINDS. shape: (type, dimensions) of the largest array that a device
    has of it afterwards. bytes: of all such arrays. group: devices that take part. times: how often it runs."""

    kind: str
    shape: tuple[str, tuple[int, ...]]
    bytes: int
    group: int
    times: float

    @property
    def sent(self) -> float:
        """Bytes that a device sends in all, by the usual ring (or pairwise) algorithms."""
        share = (self.group - 1) / self.group
        each = {"all-reduce": 2 * share, "reduce-scatter": self.group - 1.0, "collective-permute": 1.0}
        return self.times * self.bytes * each.get(self.kind, share)


def array_bytes(kind: str, dims: tuple[int, ...]) -> int:
    """Of one array; types unknown here count four bytes a number."""
    return math.prod(dims) * ITEM_BITS.get(kind, 32) // 8


@dataclasses.dataclass
class Computation:
    """instructions: those that matter here. limit: of a loop's condition, below which it goes on (loops count from 0 by 1)."""

    instructions: list[Instruction] = dataclasses.field(default_factory=list)
    constants: dict[str, int] = dataclasses.field(default_factory=dict)
    limit: int | None = None

    def read(self, line: str) -> None:
        if match := CONSTANT.search(line):
            self.constants[match[1]] = int(match[2])
        elif match := BELOW.search(line):
            self.limit = self.constants.get(match[1])
        elif made := instruction(line):
            self.instructions.append(made)


def computations(text: str) -> tuple[str, dict[str, Computation]]:
    """(name of the entry, computations by name)"""
    entry, found, current = "", {}, None
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = found.setdefault(header[2], Computation())
            entry = header[2] if header[1] else entry
        elif " = " in line and current is not None:
            current.read(line)
    if not entry:
        raise ValueError("this is no HLO text: it has no ENTRY computation")
    return entry, found


def instruction(line: str) -> Instruction | None:
    """An instruction that sends something or calls something, else None."""
    if not ("=%" in line or "={" in line or any(kind in line for kind in KINDS)):
        return None
    kind, rest = split_type(line.split(" = ", 1)[1])
    operation, _, rest = rest.partition("(")
    operation = operation.strip()
    if operation.endswith("-done") or operation.endswith("-update"):
        return None
    started = operation.endswith("-start")
    operation = operation.removesuffix("-start")
    sizes = [(name, dims.replace("<=", "").split(",")) for name, dims in ARRAY.findall(kind)]
    shapes = tuple((name, tuple(int(size) for size in dims if size)) for name, dims in sizes)
    if started and operation in KINDS and len(shapes) > 1:
        shapes = result_of_start(operation, shapes)
    return Instruction(operation, shapes, rest)


def split_type(text: str) -> tuple[str, str]:
    """(type, what follows) of the right side of an instruction; a tuple's type is in brackets."""
    if not text.startswith("("):
        kind, _, rest = text.partition(" ")
        return kind, rest
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :].lstrip()
    return text, ""


def result_of_start(operation: str, shapes: tuple) -> tuple:
    """Of the tuple that an asynchronous start gives (operands, results, perhaps context): the results."""
    if operation == "all-reduce":
        return shapes
    arrays = [shape for shape in shapes if shape[1]]
    return tuple(arrays[len(arrays) // 2 :]) if len(arrays) > 1 else shapes


def group_size(rest: str, devices: int) -> int:
    """Devices in the first replica group; all of them where none is given."""
    if match := GROUPS.search(rest):
        return int(match[3]) if match[3] else len([x for x in match[1].split(",") if x]) or devices
    return devices


@dataclasses.dataclass(frozen=True)
class Running:
    """What a program's text does not say of how it runs.

    loop: times that a loop of unknown trip count goes round, given how many such loops lie around it. branch: which of so many
    branches a conditional takes; None: the heaviest.
    """

    loop: Callable[[int], float] = lambda depth: 1.0
    branch: Callable[[int], int | None] = lambda count: None


def collectives(text: str, devices: int, running: Running) -> list[Collective]:
    """What a program sends: each kind, shape and group once, most bytes first."""
    entry, found = computations(text)

    @functools.cache
    def inside(name: str, depth: int) -> collections.Counter:
        total: collections.Counter = collections.Counter()
        for one in found[name].instructions if name in found else ():
            if one.operation in KINDS and one.shapes:
                largest = max(one.shapes, key=lambda shape: array_bytes(*shape))
                total[one.operation, largest, one.bytes, group_size(one.rest, devices)] += 1
            for part, times in called(one, depth):
                for key, count in part.items():
                    total[key] += times * count
        return total

    def called(one: Instruction, depth: int) -> Iterator[tuple[collections.Counter, float]]:
        names = [name for _, name in CALLED.findall(one.rest)]
        if one.operation == "while":
            known = trips(one, found)
            times = running.loop(depth) if known is None else known
            yield from ((inside(name, depth + (known is None)), times) for name in names)
        elif one.operation == "conditional":
            listed = BRANCHES.search(one.rest)
            names = [name.strip().lstrip("%") for name in listed[1].split(",")] if listed else names
            branches, chosen = [inside(name, depth) for name in names], running.branch(len(names))
            yield (max(branches, key=weight) if chosen is None else branches[chosen]), 1.0
        elif one.operation in ("fusion", "call", "async", "custom-call"):
            yield from ((inside(name, depth), 1.0) for name in names)

    def weight(counter: collections.Counter) -> float:
        return sum(Collective(*key, times).sent for key, times in counter.items())

    counted = [Collective(*key, times) for key, times in inside(entry, 0).items() if times]
    return sorted(counted, key=lambda one: -one.sent)


def trips(loop: Instruction, found: dict[str, Computation]) -> int | None:
    """How often a loop goes round; None: the text does not say."""
    if known := TRIPS.search(loop.rest):
        return int(known[1])
    condition = next((name for kind, name in CALLED.findall(loop.rest) if kind == "condition"), "")
    return found[condition].limit if condition in found else None


def by_kind(found: list[Collective]) -> dict[str, tuple[float, float]]:
    """{kind: (how many run, bytes that a device sends)}"""
    kinds = {}
    for one in found:
        times, sent = kinds.get(one.kind, (0.0, 0.0))
        kinds[one.kind] = times + one.times, sent + one.sent
    return kinds


def whole_weights(found: list[Collective], weights: set[tuple[int, ...]]) -> list[Collective]:
    """The all-gathers whose result has as many numbers as a weight is large (its shape may be turned or flattened).

    weights: shapes of whole weights, as a device would hold them if they were gathered.
    """
    sizes = {math.prod(shape) for shape in weights}
    return [one for one in found if one.kind == "all-gather" and math.prod(one.shape[1]) in sizes]
