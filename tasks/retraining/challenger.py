"""A trained model as a version of the registered model that it may come to lead."""

from storage.cohort import Cohort
from tasks.promotion.frozen import frozen_cases, indices_of
from tasks.promotion.ledger import propose
from tasks.tracking.registry import register_model
from tasks.tracking.runs import tracking_client


def check_frozen(cohort: str, name: str) -> None:
    """PromotionError before any training where the cases that a challenger would be judged on have changed."""
    frozen = frozen_cases(name)
    if frozen is not None:
        indices_of(Cohort.open(cohort), frozen)


def registered(name: str, run_id: str) -> int:
    """Register the model of `run_id` under `name`, as its challenger; the version, the same when asked again."""
    version = register_model(tracking_client(), name, run_id)
    propose(name, version)
    return version
