"""Plans as tables: bits by block and kind of layer, and what differs between two. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import fmean

from paredown.language import listed, say
from paredown.spec.plan import PlanRecord, read_word
from paredown.spec.units import human_bytes

_BLOCK = re.compile(r"\.(?:layers|h|blocks|block)\.(?P<index>\d+)\.(?P<rest>.+)$")
_NAMES = {
    "q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "gate_proj": "gate",
    "up_proj": "up", "down_proj": "down",
}  # fmt: skip
_ORDER = (
    "q",
    "k",
    "v",
    "qkv_proj",
    "c_attn",
    "o",
    "out_proj",
    "gate",
    "up",
    "gate_up_proj",
    "down",
)


@dataclass(frozen=True)
class HeatMap:
    """Bits of the layers of each block by their kind.

    Attributes:
        kinds: of layers, those of attention first; a column each.
        rows: by number of the block, bits by kind: the mean where a block has several of a kind.
        outside: bits of embedding and head, by name.
    """

    kinds: tuple[str, ...]
    rows: dict[int, dict[str, float]]
    outside: dict[str, float]


def heat_map(record: PlanRecord) -> HeatMap:
    """The bits of a plan by block and kind."""
    found: dict[int, dict[str, list[int]]] = {}
    outside: dict[str, float] = {}
    for name, word in record.by_layer.items():
        bits = bits_of(word)
        match = _BLOCK.search(f".{name}")
        if match is None:
            outside[name.rpartition(".")[2]] = bits
            continue
        kind = kind_of(name)
        found.setdefault(int(match["index"]), {}).setdefault(kind, []).append(bits)
    kinds = {kind for row in found.values() for kind in row}
    rows = {
        index: {kind: fmean(values) for kind, values in row.items()}
        for index, row in sorted(found.items())
    }
    return HeatMap(tuple(sorted(kinds, key=_place)), rows, outside)


def bits_of(word: str) -> int:
    """Of one code; 16 for a layer that is kept."""
    scheme = read_word(word)
    return 16 if scheme is None else scheme.bits


def kind_of(name: str) -> str:
    """`model.layers.3.self_attn.q_proj` -> `q`: the last part of a name, shortened where known."""
    last = name.rpartition(".")[2]
    return _NAMES.get(last, last)


def _place(kind: str) -> tuple[int, str]:
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), kind)


@dataclass(frozen=True)
class KindRow:
    """What a plan spends on one kind of layer.

    Attributes:
        kind: as `v`, or the name of embedding or head.
        layers: how many there are.
        bits: by width, how many layers have it.
        kl: forecast of all of them, nats per token; None without a forecast.
    """

    kind: str
    layers: int
    bits: dict[int, int]
    kl: float | None


def by_kind(record: PlanRecord) -> list[KindRow]:
    """A row for each kind of layer. A joined unit counts under the kind of its first layer."""
    rows: dict[str, list[tuple[int, int, float | None]]] = {}
    for unit in record.units:
        entry = (len(unit.layers), unit.bits, unit.kl)
        rows.setdefault(kind_of(unit.layers[0]), []).append(entry)
    made = []
    for kind in sorted(rows, key=_place):
        bits: dict[int, int] = {}
        for count, width, _ in rows[kind]:
            bits[width] = bits.get(width, 0) + count
        known = [kl for _, _, kl in rows[kind] if kl is not None]
        layers = sum(count for count, _, _ in rows[kind])
        made.append(KindRow(kind, layers, dict(sorted(bits.items())), sum(known) or None))
    return made


@dataclass(frozen=True)
class Difference:
    """A layer that two plans treat differently; None where a plan does not name it."""

    layer: str
    first: str | None
    second: str | None


def differences(first: PlanRecord, second: PlanRecord) -> list[Difference]:
    """The layers that differ, in the order of the first plan, then of the second."""
    one, two = first.by_layer, second.by_layer
    return [
        Difference(layer, one.get(layer), two.get(layer))
        for layer in dict.fromkeys((*one, *two))
        if one.get(layer) != two.get(layer)
    ]


def summary(record: PlanRecord) -> str:
    """`70.5 MB, 4.19 bits per weight, 211 units in 2 to 8 bits, forecast KL 0.18`."""
    widths = sorted({unit.bits for unit in record.units})
    count, low, high = len(record.units), widths[0], widths[-1]
    words = [
        human_bytes(record.nbytes),
        say("{bits} bits per weight", bits=f"{record.bpw:.2f}"),
        say("{count} units in {low} to {high} bits", count=count, low=low, high=high)
        if len(widths) > 1
        else say("{count} units in {bits} bits", count=count, bits=low),
    ]
    if record.kl is not None:
        words.append(say("forecast KL {kl}", kl=f"{record.kl:.3g}"))
    return listed(words)


def why_high(record: PlanRecord, *, most: int = 3) -> list[str]:
    """In words, which layers got more bits than the usual one, and what they would cost with it.

    The usual width is the one that most layers have. Where nothing was forecast, nothing is said.
    """
    inner = [unit for unit in record.units if _BLOCK.search(f".{unit.layers[0]}")]
    if not inner or any(unit.kl is None for unit in inner):
        return []
    widths = [unit.bits for unit in inner]
    usual = max(sorted(set(widths)), key=widths.count)
    # An error grows about four-fold for each bit that is taken away.
    spared = [
        ((unit.kl or 0.0) * (4.0 ** (unit.bits - usual) - 1.0), unit)
        for unit in inner
        if usual < unit.bits < 16
    ]
    spared.sort(key=lambda pair: (-pair[0], pair[1].layers))
    return [
        say(
            "{layer} has {bits} bits: with {usual}, as most layers have, it would cost about "
            "{saved} nats per token more",
            layer=unit.layers[0],
            bits=unit.bits,
            usual=usual,
            saved=f"{saved:.2g}",
        )
        for saved, unit in spared[:most]
    ]
