"""`retrain`: take in what is new, train a challenger where there is reason to, and keep the better model's maps.

Each step answers at once where its work is done already, and what was decided lies in the registry alone. So a run
that dies anywhere is completed by the next one.
"""

from typing import Any

from prefect import flow, get_run_logger

from flows.ingest import ingest
from tasks.ingestion import known_options, look_for_news
from tasks.notifications import notified
from tasks.promotion.gate import Gate
from tasks.promotion.ledger import champion_version, settle
from tasks.retraining.ending import all_done, conclude, ending_key
from tasks.retraining.news import CONTENT_TAG, NAME_TAG, News, examine
from tasks.retraining.reasons import reason_to_train
from tasks.retraining.retention import features_file, retire
from tasks.retraining.settings import Localisation, Retention, Training, Trigger, checked_name
from tasks.retraining.turns import IfRunning, turn


@notified
@flow(name="retrain", flow_run_name="{cohort}")
def retrain(
    cohort: str,
    source: str,
    system: str = "iterative-refinement",
    target: str = "grade",
    name: str | None = None,
    ingestion: dict[str, Any] | None = None,
    training: Training = Training(),
    trigger: Trigger = Trigger(),
    gate: Gate = Gate(),
    localisation: Localisation = Localisation(),
    retention: Retention = Retention(),
    force: bool = False,
    if_running: IfRunning = "wait",
) -> dict[str, Any]:
    """Bring `cohort` up to date with `source`, and the champion of the registered model `name` with the cohort.

    `name` is by default that of the `system`; `ingestion` are options of `ingest`, by default those with which the
    cohort was last filled from this source; `force` trains even where little is new.
    """
    name = checked_name(name or system)
    with turn(name, if_running) as has_turn:
        if not has_turn:
            return {"status": "left to another", "why": f"another retraining of {name} is running"}
        settle(name)
        options = known_options(source, cohort) | (ingestion or {})
        is_news = look_for_news(source, cohort, options)
        taken = ingest(source, cohort, **options) if is_news else {}
        champion = champion_version(name)
        news = examine(cohort, name, target, champion, trigger.drift)
        reason = reason_to_train(news, trigger, champion, force)
        settings = localisation.model_dump(mode="json")
        get_run_logger().info("%s: %s", "training" if reason.trains else "not training", reason.why)
        if not reason.trains and (done := all_done(cohort, ending_key(cohort, name, champion, settings))):
            get_run_logger().info("nothing to do")
            return {**done, "status": "nothing to do", "why": reason.why, "reused": True}
        decided = challenge(cohort, name, system, target, training, gate, localisation, news) if reason.trains else None
        champion = champion_version(name)
        steps = apply(cohort, f"{name}@champion", name, localisation)
        retire(cohort, name, retention)
        key = ending_key(cohort, name, champion, settings)
        return conclude(name, key, cohort, news, reason, taken, decided, champion, steps)


def challenge(
    cohort: str,
    name: str,
    system: str,
    target: str,
    training: Training,
    gate: Gate,
    localisation: Localisation,
    news: News,
) -> dict[str, Any]:
    """Train a challenger, and let it replace the champion if it is better on the frozen test cases."""
    from flows.train import train  # torch: seconds that a run with nothing to do saves
    from tasks.promotion.comparison import compare_with_champion
    from tasks.retraining.challenger import check_frozen, registered

    check_frozen(cohort, name)
    trained = train(
        system, cohort, target, training.preset, training.settings, training.trainer, training.seed, training.devices
    )
    version = registered(name, trained["run_id"])
    return compare_with_champion(
        name,
        cohort,
        version,
        gate,
        settings=localisation.settings,
        batch_size=localisation.batch_size,
        workers=localisation.workers,
        tags={NAME_TAG: name, CONTENT_TAG: news.content},
        files=[news.known_file],
    )


def apply(cohort: str, model: str, name: str, localisation: Localisation) -> dict[str, dict[str, Any]]:
    """Write the champion's maps where there are none, and measure what they find."""
    from flows.localize import localize  # torch, as above
    from flows.radiomics import radiomics

    chosen = localisation.settings
    located = localize(cohort, model, settings=chosen, batch_size=localisation.batch_size, workers=localisation.workers)
    out = localisation.features or str(features_file(cohort, name))
    measured = radiomics(
        cohort, out, maps=located["maps"][0], settings=localisation.radiomics, workers=localisation.workers
    )
    return {"localize": located, "radiomics": measured}
