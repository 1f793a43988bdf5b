"""Plans for a model, best for their bytes: measured layer by layer once, then solved for any size.

Imports torch: methods and jobs import it when they are at work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from paredown.analysis.allocation import Allocation, Priced, curve
from paredown.analysis.forecast import fit_kappa
from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.comparison import Comparison
from paredown.blocks.fisher import output_moments
from paredown.blocks.pricing import LayerPrices, estimate
from paredown.errors import DataError, MethodError
from paredown.methods.base import Context
from paredown.methods.shared.plan_bank import PlanBank
from paredown.methods.shared.units import Choices, UnitOptions
from paredown.spec.plan import Anchor, PlanRecord, UnitPlan, scheme_word
from paredown.spec.scheme import Scheme

FIRST_BITS = (3, 4)
"""Widths that are computed of every layer; others where a plan takes them."""
ROUNDS = 4
"""How often a plan may ask for layers that were only estimated before its estimates are taken."""
ANCHORS = (0.9, 1.0, 1.15)
"""Sizes of the plans that are measured, over the budget."""
KL_ANCHORS = (1.4, 1.0, 0.7)
"""KLs of the plans that are measured for a stated one, over it."""
FIRST_KAPPA = 2.0
"""The factor before anything was measured; what models were seen to have."""
ALONG = (0.25, 0.5, 0.75)
"""Where along the curve its anchors are."""
WORST_KL, BEST_KL = 1.5, 0.005
"""Nats per token between which a curve runs: beyond the one a model is ruined, below the other
nothing is gained any more."""
ANCHOR_TOKENS = 2048
"""On which anchors and embeddings are judged."""


@dataclass(frozen=True)
class Found:
    """A plan that was found: scheme by layer name, and its record."""

    schemes: dict[str, Scheme]
    record: PlanRecord


class Frontier:
    """What is known of a model's layers, and the plans that follow from it."""

    def __init__(
        self, source: Checkpoint, choices: Choices, context: Context, *, tokens: int
    ) -> None:
        """Nothing is computed yet.

        Args:
            tokens: of the calibration text, whose gradients are taken.
        """
        self.source, self.choices, self.context = source, choices, context
        self.wanted_tokens = tokens
        self._judged: dict[tuple[str, Scheme], float] = {}
        self._anchors: dict[tuple[int, ...], Anchor] = {}

    @cached_property
    def _gradient_tokens(self) -> Tensor:
        """(samples, length): the first calibration windows.

        Raises:
            DataError: fewer tokens than units: their prices would be chance.
        """
        windows = self.context.calibration()
        taken = windows[: max(1, self.wanted_tokens // windows.shape[1])]
        if taken.numel() < len(self.choices.units):
            raise DataError(
                f"mixed: {taken.numel()} tokens of calibration text cannot tell "
                f"{len(self.choices.units)} units of the model apart; give more with "
                "--calibration-samples or --calibration-length"
            )
        return taken

    @cached_property
    def bank(self) -> PlanBank:
        """Codes of every unit.

        Raises:
            ConfigError: the cache is too small to keep what plans are compared by.
        """
        bank = PlanBank(self.source, self.choices, self.context, head=True)
        bank.require_kept()
        return bank

    @cached_property
    def _prices(self) -> LayerPrices:
        """Prices of the layers, those of the first widths computed."""
        context, bank = self.context, self.bank
        context.progress(0.2, "gradients")
        gradients = output_moments(
            self.source,
            self._gradient_tokens,
            source_hash=context.source_hash,
            seed=context.seed,
            cache=context.cache,
            device=context.device,
            scratch=context.scratch,
            trust_remote_code=context.trust_remote_code,
            progress=lambda share, message: context.progress(0.2 + 0.2 * share, message),
        )
        prices = LayerPrices(bank.layers, gradients)
        prices.fill(
            {n: _first(u.rounded) for u in self._inner for n in u.unit.layers},
            lambda share, message: context.progress(0.4 + 0.2 * share, message),
        )
        return prices

    @property
    def _inner(self) -> list[UnitOptions]:
        return [unit for unit in self.choices.units if not unit.is_embedding]

    @cached_property
    def _comparison(self) -> Comparison:
        return Comparison(
            self.source,
            self._fresh_tokens,
            device=self.context.device,
            trust_remote_code=self.context.trust_remote_code,
        )

    @cached_property
    def _fresh_tokens(self) -> Tensor:
        """(samples, length): windows of training text that calibrated nothing.

        GPTQ fits what it calibrates on: there, plans look better than they are. A text that has no
        further windows gives its last ones.
        """
        windows = self.context.calibration()
        count = max(1, ANCHOR_TOKENS // windows.shape[1])
        used = {tuple(window.tolist()) for window in windows}
        if self.context.training is None:
            return windows[-count:]
        try:
            more = self.context.training.windows(len(windows) + count, windows.shape[1], None)
        except DataError:  # the text is too short for more
            return windows[-count:]
        fresh = [window for window in more if tuple(window.tolist()) not in used]
        return torch.stack(fresh[-count:]) if fresh else windows[-count:]

    # Prices

    def priced(self, kappa: float) -> list[list[Priced]]:
        """All options of all units in nats per token, as far as they are known by now."""
        self._prices  # noqa: B018 - before the embedding, which is cheaper: a kill loses less
        return [
            [
                Priced(self._cost(unit, scheme, kappa), nbytes)
                for scheme, nbytes in zip(unit.schemes, unit.nbytes, strict=True)
            ]
            for unit in self.choices.units
        ]

    def _cost(self, unit: UnitOptions, scheme: Scheme | None, kappa: float) -> float:
        if scheme is None:
            return 0.0
        if unit.is_embedding:
            return self._embedding_cost(unit, scheme)
        return kappa * sum(self._prices.cost(name, scheme) for name in unit.unit.layers)

    def _embedding_cost(self, unit: UnitOptions, scheme: Scheme) -> float:
        name = unit.unit.name
        known = {s: self._judged[name, s] for s in unit.rounded if (name, s) in self._judged}
        if not known:
            first = _first(unit.rounded)[-1]
            known = {first: self._judge(unit, first)}
        return estimate(known, scheme)

    def _is_judged(self, unit: UnitOptions, scheme: Scheme) -> bool:
        return (unit.unit.name, scheme) in self._judged

    def _judge(self, unit: UnitOptions, scheme: Scheme) -> float:
        """Measure the KL of the model with its embedding or head alone rounded."""
        if not self._is_judged(unit, scheme):
            self.context.progress(0.6, f"{unit.unit.name} in {scheme.bits} bits")
            rounded = {name: self.bank.embeddings(name, scheme) for name in unit.unit.layers}
            self._judged[unit.unit.name, scheme] = self._comparison.kl(embeddings=rounded)
        return self._judged[unit.unit.name, scheme]

    def _settle(self, chosen: Sequence[int]) -> bool:
        """Compute those options of a plan that are only estimated; whether there were any."""
        wanted: dict[str, list[Scheme]] = {}
        fresh = False
        for unit, place in zip(self.choices.units, chosen, strict=True):
            scheme = unit.schemes[place]
            if scheme is None:
                continue
            if unit.is_embedding:
                fresh |= not self._is_judged(unit, scheme)
                self._judge(unit, scheme)
                continue
            for name in unit.unit.layers:
                if not self._prices.is_known(name, scheme):
                    wanted[name] = [scheme]
        if wanted:
            self._prices.fill(wanted)
        return fresh or bool(wanted)

    # Plans

    def solve(self, budget: int, kappa: float) -> Allocation:
        """The best plan of at most `budget` bytes of weights files, all its layers computed.

        Raises:
            ConfigError: no plan is so small.
        """
        found = self.choices.within(self.priced(kappa), budget)
        for _ in range(ROUNDS):
            if not self._settle(found.chosen):
                return found
            found = self.choices.within(self.priced(kappa), budget)
        self._settle(found.chosen)
        return found

    def along(self, count: int) -> list[Found]:
        """`count` plans from the smallest that is worth having to where nothing is lost any more,
        spread evenly in the logarithm of bytes; smallest first, each once."""
        kappa = self.kappa([partial(self._between, share) for share in ALONG])
        budgets = [self._between(i / (count - 1), kappa) for i in range(count)]
        plans = {found.chosen: found for found in (self.solve(b, kappa) for b in budgets)}
        return [self.found(plan, kappa) for plan in plans.values()]

    def _between(self, share: float, kappa: float) -> int:
        """A budget at a share of the way along the curve, from `WORST_KL` to `BEST_KL`."""
        stops = curve(self.priced(kappa))
        worth = [a.nbytes for a in stops if BEST_KL <= a.cost <= WORST_KL] or [
            a.nbytes for a in stops
        ]
        least, most = (self.choices.fixed + size for size in (worth[0], worth[-1]))
        return round(least * math.exp(share * math.log(most / least)))

    def anchor(self, found: Allocation) -> Anchor:
        """Measure a plan in memory, its embedding left as it is."""
        if found.chosen not in self._anchors:
            schemes = self.choices.schemes(found.chosen)
            inner = {n: s for n, s in schemes.items() if n in self.bank.layers.names}
            kl = self._comparison.kl(layers=lambda block: self.bank.layers.rounded(block, inner))
            proxy = sum(self._prices.cost(name, scheme) for name, scheme in inner.items())
            nbytes = found.nbytes + self.choices.fixed
            self._anchors[found.chosen] = Anchor(nbytes=nbytes, proxy=proxy, kl=kl)
        return self._anchors[found.chosen]

    def kappa(self, budgets: Sequence[Callable[[float], int]]) -> float:
        """The factor from prices to nats, from plans that are measured.

        Args:
            budgets: their sizes, given the factor as far as it is known.

        The plans are those that the factor itself would choose, so that forecast and anchors are
        of one kind: plans chosen by their price turn out dearer than others of the same price.
        """
        kappa = FIRST_KAPPA
        anchors: list[Anchor] = []
        for done, budget in enumerate(budgets):
            found = self.solve(budget(kappa), kappa)
            share, said = 0.65 + 0.15 * done / len(budgets), f"plan {done + 1} of {len(budgets)}"
            self.context.progress(share, f"measuring {said}")
            anchors.append(self.anchor(found))
            kappa = fit_kappa([a.proxy for a in anchors], [a.kl for a in anchors])
        return kappa

    def best(self, budget: int) -> Found:
        """The best plan of at most `budget` bytes, with anchors of about its size.

        Raises:
            ConfigError: no plan is so small, or need be so large.
        """
        self.choices.require(budget)
        least, most = self.choices.interval
        near = [min(most, max(least, round(share * budget))) for share in ANCHORS]
        kappa = self.kappa([partial(_fixed, size) for size in dict.fromkeys(near)])
        return self.found(self.solve(budget, kappa), kappa)

    def smallest(self, kl: float) -> Found:
        """The smallest plan whose forecast is at most `kl` nats per token, with anchors about it.

        Raises:
            MethodError: any rounding is forecast to cost more.
        """
        kappa = self.kappa([partial(self._bytes_at, share * kl) for share in KL_ANCHORS])
        plan = self.solve(self._bytes_at(kl, kappa), kappa)
        for _ in range(ROUNDS):
            if plan.cost <= kl:
                break
            # Options that were estimated have been computed for it, and turned out dearer.
            plan = self.solve(self._bytes_at(kl, kappa), kappa)
        if not self.choices.schemes(plan.chosen):
            raise MethodError(
                f"mixed: any rounding is forecast to cost more than a KL of {kl:g} nats per token; "
                "allow more"
            )
        return self.found(plan, kappa)

    def _bytes_at(self, kl: float, kappa: float) -> int:
        """Bytes of the first stop along the curve that is forecast to cost at most `kl`."""
        # The last stop leaves everything as it is, and costs nothing.
        stop = next(a for a in curve(self.priced(kappa)) if a.cost <= kl)
        return self.choices.fixed + stop.nbytes

    def found(self, plan: Allocation, kappa: float) -> Found:
        """An allocation as schemes and record."""
        schemes = self.choices.schemes(plan.chosen)
        units = [
            UnitPlan(
                layers=unit.unit.layers,
                option=scheme_word(unit.schemes[place]),
                nbytes=unit.nbytes[place],
                kl=self._cost(unit, unit.schemes[place], kappa),
            )
            for unit, place in zip(self.choices.units, plan.chosen, strict=True)
        ]
        record = PlanRecord(
            parameters=self.source.spec.parameters,
            nbytes=plan.nbytes + self.choices.fixed,
            kl=sum(unit.kl or 0.0 for unit in units),
            kappa=kappa,
            anchors=tuple(sorted(self._anchors.values(), key=lambda a: a.nbytes)),
            tokens=self._gradient_tokens.numel(),
            units=tuple(units),
        )
        return Found(schemes, record)


def _fixed(size: int, kappa: float) -> int:
    return size


def _first(schemes: Sequence[Scheme]) -> list[Scheme]:
    """The schemes of a unit that are computed first: of the usual widths, else the nearest to 4."""
    usual = [scheme for scheme in schemes if scheme.bits in FIRST_BITS]
    return usual or [min(schemes, key=lambda s: (abs(s.bits - 4), s.bits))]
