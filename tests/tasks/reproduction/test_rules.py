"""Expectations: their grammar, and how seeds judge them."""

import pytest

from models.errors import ModelError
from tasks.reproduction.rules import Quantity, judged, parsed_rule

VALUES = {
    "a": {"ap": {0: 0.4, 1: 0.5, 2: 0.6}, "froc": {0: 0.1}},
    "b": {"ap": {0: 0.1, 1: 0.2, 2: 0.3}},
    "lone": {"ap": {7: 1.0}},
    "empty": {},
}


def judge(text: str) -> dict:
    return judged(parsed_rule(text, "ap"), VALUES)


def test_sums_and_products_are_read_as_written():
    rule = parsed_rule("2 * a - b.froc + 1 >= -0.5 + b * .25", "ap")
    assert rule.left.constant == 1
    assert rule.left.terms == ((2, Quantity("a", "ap")), (-1, Quantity("b", "froc")))
    assert rule.right.constant == -0.5
    assert rule.right.terms == ((0.25, Quantity("b", "ap")),)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("a > b", True),
        ("b > a", False),
        ("a >= 2.5 * b", True),  # 0.5 and 2.5 · 0.2: the boundary itself
        ("a > 2.5 * b", False),
        ("a >= b + 0.30", True),
        ("a < b + 0.2", False),
        ("b <= 0.2", True),
        ("a.froc > b", False),  # seed 0 alone has both: 0.1 > 0.1
        ("1e-1 < a - b", True),
    ],
)
def test_rule_holds_by_the_means(text, holds):
    assert judge(text)["holds"] is holds


def test_margin_is_paired_by_seed_so_that_what_seeds_have_in_common_cancels():
    """The spread of a and of b is 0.1 each, that of a − b is nothing."""
    found = judge("a > b + 0.2")
    assert found["margin"] == pytest.approx(0.1)
    assert found["interval"] == pytest.approx((0.1, 0.1))
    assert (found["by"], found["seeds"]) == ("interval", 3)


def test_interval_over_the_boundary_decides_by_mean_only():
    found = judge("a > 0.45")  # margins −0.05, 0.05, 0.15: t = 4.3027 · 0.1 / √3 = 0.248
    assert found["interval"] == pytest.approx((0.05 - 0.2484, 0.05 + 0.2484), abs=1e-4)
    assert (found["holds"], found["by"]) == (True, "mean")


def test_one_seed_has_no_interval():
    assert judge("a.froc < 1")["interval"] is None


@pytest.mark.parametrize(
    ("text", "words"), [("a > empty", "no figures of empty"), ("a > lone", "no seed has all"), ("a > zz", "of zz")]
)
def test_rule_without_figures_is_left_open_with_the_reason(text, words):
    found = judge(text)
    assert found["holds"] is None
    assert words in found["reason"]


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a > b > c",
        "a >",
        "> b",
        "a == b",
        "a > b +",
        "a > 3 b",
        "a > * b",
        "a * b > 1",
        "2 * 3 > a",
        "1 > 0",
        "a > (b)",
        "a > b / 2",
        "a > __import__('os')",
        "",
    ],
)
def test_anything_else_is_refused_in_one_line(text):
    with pytest.raises(ModelError) as refused:
        parsed_rule(text, "ap")
    assert repr(text) in str(refused.value)
    assert "\n" not in str(refused.value)
