"""A retraining through Prefect's API: its parameters, and what it leaves."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from storage.cohort import Cohort
from tests.services.processes import Services
from tests.toys.spots import INGESTION, TABLE

NAME = "iterative-refinement"


@dataclass
class Retraining:
    """Photographs that grow, the cohort they fill, and the registered model `name` that is trained on it."""

    services: Services
    root: Path
    name: str
    epochs: int = 6
    workers: int = 1

    @property
    def photos(self) -> Path:
        return self.root / "photos"

    @property
    def cohort(self) -> Path:
        return self.root / "cohort"

    @property
    def mlflow(self) -> MlflowClient:
        return MlflowClient(self.services.addresses["mlflow"])

    def parameters(self, **more: Any) -> dict[str, Any]:
        network = {"width": 0.1, "head": [8], "dropout": 0.0}
        return {
            "cohort": str(self.cohort),
            "source": str(self.photos),
            "name": self.name,
            "ingestion": {**INGESTION, "labels": str(self.photos / TABLE)},
            "training": {
                "settings": {"network": network},
                "trainer": {"max_epochs": self.epochs, "batch_size": 16},
            },
            "trigger": {"new_cases": 20},
            "gate": {"metric": "mse"},
            "localisation": {
                "settings": {"max_iterations": 1, "stop_score": -1.0},
                "radiomics": {"min_pixels": 200},
                "workers": self.workers,
            },
            **more,
        }

    def run(self, timeout: float = 280, **more: Any) -> str:
        """The final state of one run."""
        return self.services.run_deployment("retrain", self.parameters(**more), timeout)[0]

    def champion(self) -> int | None:
        try:
            return int(self.mlflow.get_model_version_by_alias(self.name, "champion").version)
        except MlflowException:
            return None

    def decisions(self) -> list[str]:
        """Newest first."""
        return [run.data.tags["decision"] for run in self.runs("promotion")]

    def runs(self, step: str | None = None) -> list[Any]:
        """MLflow's runs, of one step or all, newest first."""
        ids = [experiment.experiment_id for experiment in self.mlflow.search_experiments()]
        wanted = f"tags.step = '{step}'" if step else ""
        return list(self.mlflow.search_runs(ids, wanted, order_by=["attributes.start_time DESC"], max_results=5000))

    def ending(self) -> dict[str, object]:
        """What a retraining is for, by content."""
        champion = self.mlflow.get_model_version_by_alias(self.name, "champion")
        cohort = Cohort.open(self.cohort)
        version = self.mlflow.get_run(champion.run_id).data.tags["model_version"]
        maps = cohort.maps(f"{NAME}/{version}/S")
        stacked = np.stack([maps.saliency(case) for case in range(len(cohort))])
        return {
            "weights": version,
            "cases": len(cohort),
            "saliency": hashlib.sha256(stacked.tobytes()).hexdigest(),
            "decisions": self.decisions(),
        }
