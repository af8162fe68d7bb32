"""Is there reason to train?"""

from dataclasses import dataclass

from tasks.retraining.news import News
from tasks.retraining.settings import Trigger


@dataclass(frozen=True)
class Reason:
    """`trains`, and why or why not in a sentence."""

    trains: bool
    why: str


def reason_to_train(news: News, trigger: Trigger, champion: int | None, force: bool) -> Reason:
    """A first model, force, enough new cases, or drift, in this order."""
    useful = news.fresh + news.corrected
    counted = f"{news.fresh} new and {news.corrected} corrected labelled cases"
    if champion is None:
        return Reason(True, "there is no champion yet")
    if force:
        return Reason(True, f"forced, with {counted}")
    if useful >= trigger.new_cases:
        return Reason(True, f"{counted}, at least {trigger.new_cases} are asked for")
    if news.drift is not None and news.drift.drifted and useful:
        return Reason(True, f"{counted}, and they differ from the known ones: {news.drift.reason}")
    drifted = ", which differ from the known ones but have no label" if news.drift and news.drift.drifted else ""
    return Reason(False, f"{counted}{drifted}; {trigger.new_cases} are asked for")
