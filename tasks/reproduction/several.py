"""`reproduce all`: one experiment after another; one that fails is booked with its reason."""

from collections.abc import Callable
from typing import Any

from tasks.errors import TrainingStoppedError
from tasks.experiments import experiment_names
from tasks.reproduction.loop import reason_of
from tasks.reproduction.plan import told


def each_experiment(reproduce: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `reproduce` answers of each experiment that has arms, and {"experiment", "reason"} of those that failed."""
    answers: dict[str, Any] = {}
    failed: list[dict[str, str]] = []
    known = experiment_names("arms")
    for number, name in enumerate(known, 1):
        told(f"experiment {number} of {len(known)}: {name}")
        try:
            answers[name] = reproduce(name, *arguments)
        except TrainingStoppedError:
            raise
        except Exception as error:
            failed.append({"experiment": name, "reason": reason_of(error)})
    return {"experiments": answers, "failed": failed}
