"""Two result files row by row, each time as its ratio to a peer of the same run.

The peer has run on the same machine in the same minutes: what made both slower cancels. A change
counts once it is greater than what the spreads of the four times explain, and, where both files
hold the fastest runs, once these say so too, since a busy machine only adds time.
"""

import math
from dataclasses import dataclass

from benchmarks.cuda_timing import half_type, is_ours
from benchmarks.report import NO_PEERS
from benchmarks.timing import NOISY

LEAST = 0.1  # no change below it counts, however calm the runs were
Rows = dict[tuple[str, str, str], dict]


@dataclass
class Change:
    """One of our times in two files.

    Attributes:
        op, work: those of the measurement.
        name: which of our times: "fastrpn", or a variant such as "fastrpn NCHW".
        peer: what it is divided by; None where the files have no other library in common, so that
            only times can be compared.
        before, after: our milliseconds.
        gain_before, gain_after: the peer's time over ours; without a peer 1 / milliseconds.
        noise: what the spreads explain, as a part of the ratio.
        fastest: the same change by the fastest runs; None where a file does not hold them.
    """

    op: str
    work: str
    name: str
    peer: str | None
    before: float
    after: float
    gain_before: float
    gain_after: float
    noise: float
    fastest: float | None = None

    @property
    def factor(self) -> float:
        """How many times better `after` is; below 1 it is worse."""
        return self.gain_after / self.gain_before

    @property
    def verdict(self) -> str:
        """ "slower", "faster", or "same" where the spreads explain the change."""
        logs = [math.log(factor) for factor in (self.factor, self.fastest) if factor is not None]
        bound = math.log1p(self.noise)
        if all(value < -bound for value in logs):
            return "slower"
        return "faster" if all(value > bound for value in logs) else "same"


def parts_of(results: dict) -> dict[str, dict]:
    """The parts that hold measurements: one of a CPU's file, "ops" and "model" of a GPU's."""
    if "measurements" in results:
        return {"": results}
    return {name: results[name] for name in ("ops", "model") if name in results}


def rows_of(results: dict) -> Rows:
    """Every one of our times by (op, work, name)."""
    return {
        (m["op"], m["work"], name): m
        for part in parts_of(results).values()
        for m in part["measurements"]
        for name in m["milliseconds"]
        if name == "fastrpn" or (is_ours(name) and name not in NO_PEERS)
    }


def machine_of(results: dict) -> tuple[object, ...]:
    """What a time without a peer depends on."""
    part = next(iter(parts_of(results).values()))
    return tuple(part.get(fact) for fact in ("gpu", "cpu", "threads", "simd_level"))


def compare(before: dict, after: dict) -> list[Change]:
    """A change for every time that both files hold, the worst first.

    A time without a peer is left out where the files are of different machines.
    """
    old, new = rows_of(before), rows_of(after)
    changes = [change_of(key, old[key], new[key]) for key in new if key in old]
    if machine_of(before) != machine_of(after):
        changes = [change for change in changes if change.peer]
    return sorted(changes, key=lambda change: change.factor)


def missing(before: dict, after: dict) -> tuple[list[str], list[str]]:
    """What only the first file holds, and what only the second."""
    old, new = rows_of(before), rows_of(after)
    return [", ".join(k) for k in old if k not in new], [", ".join(k) for k in new if k not in old]


def peer_of(name: str, old: dict, new: dict) -> str | None:
    """torchvision in the same half type, else another library that both rows hold."""
    dtype = half_type(name)
    wanted = "torchvision" if dtype is None else f"torchvision {dtype}"
    common = [other for other in new["milliseconds"] if other in old["milliseconds"]]
    if wanted in common:
        return wanted
    others = [other for other in common if other != name and half_type(other) == dtype]
    others.sort(key=NO_PEERS.__contains__)  # a limit, or another way of ours, is the last resort
    return others[0] if name == "fastrpn" and others else None


def change_of(key: tuple[str, str, str], old: dict, new: dict) -> Change:
    name, peer = key[2], peer_of(key[2], old, new)
    times = [m["milliseconds"] for m in (old, new)]
    fastest = [m.get("minima", {}) for m in (old, new)]
    names = [name] if peer is None else [name, peer]
    has_fastest = all(x in of for x in names for of in fastest)
    return Change(
        *key,
        peer,
        *(of[name] for of in times),
        *(gain(of, name, peer) for of in times),
        noise(names, old, new),
        gain(fastest[1], name, peer) / gain(fastest[0], name, peer) if has_fastest else None,
    )


def gain(milliseconds: dict[str, float], name: str, peer: str | None) -> float:
    return (1 if peer is None else milliseconds[peer]) / milliseconds[name]


def noise(names: list[str], old: dict, new: dict) -> float:
    """The spreads of all times of a ratio together; that of a single run is not known."""
    spreads = [m["spread"].get(name) or NOISY for name in names for m in (old, new)]
    return max(LEAST, math.hypot(*spreads))
