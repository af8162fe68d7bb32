"""`promote`: who leads and why, a version made champion by hand, or other test cases to judge by."""

from typing import Any

from prefect import flow

from tasks.errors import PromotionError
from tasks.notifications import notified
from tasks.promotion.frozen import Frozen, frozen_cases
from tasks.promotion.frozen import freeze as freeze_cases
from tasks.promotion.ledger import PREVIOUS, decisions, promote_by_hand, registry_state, settle


@notified
@flow(name="promote", flow_run_name="{name}")
def promote(
    name: str, to: str | None = None, reason: str = "", freeze: str | None = None, target: str = "grade"
) -> dict[str, Any]:
    """Make version `to` ("previous": the one before) the champion, or freeze the test cases of a cohort anew.

    Whichever was asked, the answer is the registry's state, the frozen cases, and all decisions, newest first.
    """
    if to and freeze:
        raise PromotionError("say either which version is to lead, or which cases are to be frozen")
    settled_or_new(name, freeze is not None)
    if freeze:
        freeze_cases(name, freeze, target)
    if to:
        promote_by_hand(name, version_meant(to), reason)
    return {
        "name": name,
        **registry_state(name),
        "frozen": frozen_facts(frozen_cases(name)),
        "decisions": decisions(name),
    }


def settled_or_new(name: str, may_be_new: bool) -> None:
    """Apply what a process that died has left; PromotionError for an unknown model, unless it is to be made."""
    if not may_be_new:
        registry_state(name)
    settle(name)


def version_meant(to: str) -> Any:
    """A version's number, or "previous"."""
    if to == PREVIOUS:
        return PREVIOUS
    if not to.isdigit():
        raise PromotionError(f"{to!r} is no version: say a number such as 3, or {PREVIOUS!r}")
    return int(to)


def frozen_facts(frozen: Frozen | None) -> dict[str, Any] | None:
    """The frozen cases in numbers."""
    if frozen is None:
        return None
    return {
        "run_id": frozen.run_id,
        "cohort": frozen.cohort,
        "snapshot": frozen.snapshot,
        "target": frozen.target,
        "cases": len(frozen.table),
        "patients": int(frozen.table["patient_id"].nunique()),
        "labelled": int(frozen.table["label"].notna().sum()),
        "annotated": int(frozen.table["has_masks"].sum()),
    }
