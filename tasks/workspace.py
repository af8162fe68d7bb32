"""The workspace: one folder for all that Prefect, MLflow and the steps keep (`--workspace`, default `.lesionflow/`)."""

import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "LESIONFLOW_WORKSPACE"


@dataclass(frozen=True)
class Workspace:
    """Where things lie under `root`."""

    root: Path

    @property
    def prefect(self) -> Path:
        """Prefect's database, results and profiles."""
        return self.root / "prefect"

    @property
    def runs(self) -> Path:
        """One folder a training: job, checkpoints, epochs, model."""
        return self.root / "runs"

    @property
    def reports(self) -> Path:
        """HTML reports, one folder a step."""
        return self.root / "reports"

    @property
    def steps(self) -> Path:
        """Records of finished steps, by fingerprint."""
        return self.root / "steps"

    @property
    def tracking_uri(self) -> str:
        """MLflow's database, unless MLFLOW_TRACKING_URI names a server."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"


def current_workspace() -> Workspace:
    """The workspace of this process, made where it is absent."""
    root = Path(os.environ.get(VARIABLE, ".lesionflow")).resolve()
    root.mkdir(parents=True, exist_ok=True)
    return Workspace(root)


def enter_workspace(root: Path) -> Workspace:
    """Point this process and its children at `root`.

    Call before Prefect or MLflow is imported: both write to the home folder as they load. What the user has set stays.
    """
    os.environ[VARIABLE] = str(root.resolve())
    workspace = current_workspace()
    settings = {
        "PREFECT_HOME": str(workspace.prefect),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(workspace.prefect / "results"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
        "MLFLOW_TRACKING_URI": workspace.tracking_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "OPENCV_LOG_LEVEL": "ERROR",
        "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin made an epoch 5 times as long on a shared machine
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    return workspace
