"""What an experiment expects, as rules such as `gdc >= 3 * cam` or `loop.froc_mean > plain.froc_mean + 0.01`.

    rule        = sum ( ">" | ">=" | "<" | "<=" ) sum
    sum         = [ "-" ] term { ( "+" | "-" ) term }
    term        = number [ "*" quantity ] | quantity [ "*" number ]
    quantity    = arm [ "." metric ]            the headline metric unless another is named

A rule is judged by m = left − right, taken seed by seed: it holds by the mean of m, and "by interval" where the 95 %
interval of that mean leaves out 0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from models.errors import ModelError
from tasks.reproduction.statistics import BySeed, common_seeds, estimate

Values = Mapping[str, Mapping[str, BySeed]]

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)|([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)|(>=|<=|[-+*<>]))")
_COMPARISONS = (">", ">=", "<", "<=")


class Quantity(NamedTuple):
    """A metric of an arm."""

    arm: str
    metric: str


@dataclass(frozen=True)
class Sum:
    """constant + Σ factor · quantity."""

    constant: float
    terms: tuple[tuple[float, Quantity], ...]

    def at(self, values: Values, seed: int) -> float:
        """Its value with the metrics of one seed."""
        return self.constant + sum(factor * values[arm][metric][seed] for factor, (arm, metric) in self.terms)


@dataclass(frozen=True)
class Rule:
    """A comparison of two sums, and how it was written."""

    text: str
    left: Sum
    comparison: str
    right: Sum

    @property
    def quantities(self) -> list[Quantity]:
        """All that it speaks of."""
        return [quantity for _, quantity in (*self.left.terms, *self.right.terms)]

    def holds(self, left: float, right: float) -> bool:
        """Whether two numbers compare so."""
        match self.comparison:
            case ">":
                return left > right
            case ">=":
                return left >= right
            case "<":
                return left < right
            case _:
                return left <= right


def parsed_rule(text: str, metric: str) -> Rule:
    """The rule that `text` writes; `metric` is meant where none is named.

    Raises:
        ModelError: it is not of the grammar above, or names no arm.
    """
    tokens = _tokens(text)
    at = [position for position, token in enumerate(tokens) if token in _COMPARISONS]
    if len(at) != 1:
        raise ModelError(f"{text!r} is no rule: it takes one of {', '.join(_COMPARISONS)}, as in `a >= 3 * b`")
    left, right = (_Reader(text, part, metric).sum() for part in (tokens[: at[0]], tokens[at[0] + 1 :]))
    rule = Rule(text, left, tokens[at[0]], right)
    if not rule.quantities:
        raise ModelError(f"{text!r} is no rule: it names no arm")
    return rule


def judged(rule: Rule, values: Values) -> dict[str, Any]:
    """Whether the rule `holds` (None: an arm has no figures), with both sides, the margin, its interval, the seeds.

    `by` is "interval" where the interval of the margin leaves out 0, else "mean".
    """
    known = [values.get(arm, {}).get(metric, {}) for arm, metric in rule.quantities]
    seeds = common_seeds(*known)
    if not seeds:
        missing = sorted({q.arm for q, by_seed in zip(rule.quantities, known, strict=True) if not by_seed})
        reason = f"no figures of {', '.join(missing)}" if missing else "no seed has all its figures"
        return {"rule": rule.text, "holds": None, "reason": reason}
    left = [rule.left.at(values, seed) for seed in seeds]
    right = [rule.right.at(values, seed) for seed in seeds]
    margin = estimate([a - b for a, b in zip(left, right, strict=True)])
    sides = estimate(left).mean, estimate(right).mean
    excluded = margin.interval is not None and not margin.interval[0] <= 0 <= margin.interval[1]
    return {
        "rule": rule.text,
        "holds": rule.holds(*sides),
        "by": "interval" if excluded else "mean",
        "left": sides[0],
        "right": sides[1],
        "margin": margin.mean,
        "interval": margin.interval,
        "seeds": len(seeds),
    }


def _tokens(text: str) -> list[str]:
    tokens, place = [], 0
    while text[place:].strip():
        found = _TOKEN.match(text, place)
        if not found:
            raise ModelError(f"{text!r} is no rule: {text[place:].strip()[0]!r} has no meaning in it")
        tokens.append(found[0].strip())
        place = found.end()
    return tokens


class _Reader:
    """Reads a sum from its tokens, one after another."""

    def __init__(self, text: str, tokens: list[str], metric: str) -> None:
        self.text, self.left, self.metric = text, list(tokens), metric

    def sum(self) -> Sum:
        """The whole side."""
        constant, terms = 0.0, []
        sign = -1.0 if self._skips("-") else 1.0
        while True:
            factor, quantity = self._term()
            if quantity is None:
                constant += sign * factor
            else:
                terms.append((sign * factor, quantity))
            if not self.left:
                return Sum(constant, tuple(terms))
            if self.left[0] not in ("+", "-"):
                raise self._error()
            sign = -1.0 if self.left.pop(0) == "-" else 1.0

    def _term(self) -> tuple[float, Quantity | None]:
        first = self._factor()
        if not self._skips("*"):
            return first if isinstance(first, tuple) else (first, None)
        second = self._factor()
        match first, second:
            case float(), (_, Quantity() as quantity):
                return first, quantity
            case (_, Quantity() as quantity), float():
                return second, quantity
        raise ModelError(f"{self.text!r} is no rule: a product is of a number and an arm, as in `3 * b`")

    def _factor(self) -> float | tuple[float, Quantity]:
        if not self.left:
            raise self._error()
        token = self.left.pop(0)
        if token[0].isdigit() or token[0] == ".":
            return float(token)
        if token[0].isalpha() or token[0] == "_":
            arm, _, metric = token.partition(".")
            return 1.0, Quantity(arm, metric or self.metric)
        self.left.insert(0, token)
        raise self._error()

    def _skips(self, token: str) -> bool:
        if not self.left or self.left[0] != token:
            return False
        self.left.pop(0)
        return True

    def _error(self) -> ModelError:
        found = f"before {self.left[0]!r}" if self.left else "at the end of a side"
        return ModelError(f"{self.text!r} is no rule: something is missing {found}")
