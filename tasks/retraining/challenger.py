"""A trained model as a version of the registered model that it may come to lead."""

from tasks.promotion.ledger import propose
from tasks.tracking.registry import register_model
from tasks.tracking.runs import tracking_client


def registered(name: str, run_id: str) -> int:
    """Register the model of `run_id` under `name`, as its challenger; the version, the same when asked again."""
    version = register_model(tracking_client(), name, run_id)
    propose(name, version)
    return version
