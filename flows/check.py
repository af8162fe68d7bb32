"""`check`: is all of a cohort as it was written? And mending what is not."""

from typing import Any

from prefect import flow

from tasks.check import check_cohort
from tasks.notifications import notified


@notified
@flow(name="check", flow_run_name="{cohort}")
def check(cohort: str, repair: bool = False, expire_days: int | None = None) -> dict[str, Any]:
    """Every pixel of `cohort` against its digest; `repair` mends, `expire_days` forgets snapshots older than that."""
    return check_cohort(cohort, repair, expire_days)
