"""What rounding each layer costs: sensitivities of (layer, scheme), from the bank, lazily.

G = 1/2 sum_j E[g_j^2] (dW H dW^T)_jj is the second-order change of the KL from the base when the
matrix alone changes by dW (by GPTQ). Rounding a layer takes seconds, pricing it from others
nothing: an error falls about four-fold with a bit, so schemes that no plan near the budget takes
are never computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from paredown.blocks.rounding import PlanRounding
from paredown.spec.progress import Progress
from paredown.spec.scheme import Scheme
from paredown.spec.structure import Block

PER_BIT = 4.0
"""By what a squared rounding error falls with a bit: the step halves."""


def estimate(known: Mapping[Scheme, float], scheme: Scheme) -> float:
    """The cost of a scheme: as it is known, else by the known one of the nearest width.

    Args:
        known: costs of at least one scheme.
    """
    if scheme in known:
        return known[scheme]
    bits = scheme.effective_bits
    near = min(known, key=lambda other: (abs(other.effective_bits - bits), -other.effective_bits))
    return float(known[near] * PER_BIT ** (near.effective_bits - bits))


class LayerPrices:
    """Sensitivities of the block linears of a model, in nats per token, unscaled."""

    def __init__(self, rounding: PlanRounding, gradients: Mapping[str, Tensor]) -> None:
        """Know nothing yet.

        Args:
            rounding: through a bank that keeps what it computes.
            gradients: E[g_j^2] (out,) by layer name, of `fisher.output_moments`.
        """
        self.rounding, self.gradients = rounding, gradients
        self._known: dict[str, dict[Scheme, float]] = {name: {} for name in rounding.names}

    def is_known(self, name: str, scheme: Scheme) -> bool:
        """Whether a layer was rounded on this scheme, rather than priced by others."""
        return scheme in self._known[name]

    def cost(self, name: str, scheme: Scheme) -> float:
        """G of a layer on a scheme: computed, or estimated from what was; something must be."""
        return estimate(self._known[name], scheme)

    def fill(
        self, wanted: Mapping[str, Iterable[Scheme]], progress: Progress | None = None
    ) -> None:
        """Compute what is wanted, by layer name, and not known; read from the bank what it has."""
        blocks = self.rounding.source.spec.structure.blocks
        for done, block in enumerate(blocks):
            new = {
                name: [s for s in wanted.get(name, ()) if not self.is_known(name, s)]
                for name in block.linears
                if name in self._known
            }
            self._fill_block(block, {name: schemes for name, schemes in new.items() if schemes})
            if progress is not None:
                progress((done + 1) / len(blocks), f"prices, block {done + 1} of {len(blocks)}")

    def _fill_block(self, block: Block, new: Mapping[str, list[Scheme]]) -> None:
        bank = self.rounding.rounding.bank
        for group in self.rounding.groups(block, new):
            schemes = list(dict.fromkeys(s for name in group for s in new.get(name, ())))
            missing = [s for s in schemes if bank.row_errors(block, group, s) is None]
            if missing:
                self.rounding.fill(block, group, missing)
            for scheme in schemes:
                errors = bank.row_errors(block, group, scheme)
                if errors is None:
                    raise AssertionError("the bank keeps nothing")
                for name in group:
                    weighted = self.gradients[name] * errors[name].cpu()
                    self._known[name][scheme] = 0.5 * float(weighted.sum())
