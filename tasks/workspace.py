"""The workspace: one folder for all that Prefect, MLflow and the steps keep (`--workspace`, default `.lesionflow/`)."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "LESIONFLOW_WORKSPACE"
ID_KEY = "LESIONFLOW_ID_KEY"


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
        return os.environ.get("MLFLOW_TRACKING_URI") or self.own_tracking_uri

    @property
    def own_tracking_uri(self) -> str:
        """MLflow's database in this folder."""
        return f"sqlite:///{self.root / 'mlflow.db'}"


def current_workspace() -> Workspace:
    """The workspace of this process, made where it is absent."""
    root = Path(os.environ.get(VARIABLE, ".lesionflow")).resolve()
    root.mkdir(parents=True, exist_ok=True)
    return Workspace(root)


def identity_key() -> bytes:
    """The secret with which patient ids are hashed: LESIONFLOW_ID_KEY, or `identity.key`, drawn once a workspace.

    Who has it can tell which hash a known patient has, so it is never written into a cohort.
    """
    if given := os.environ.get(ID_KEY):
        return given.encode()
    file = current_workspace().root / "identity.key"
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    return file.read_bytes()


def enter_workspace(root: Path) -> Workspace:
    """Point this process and its children at `root`, and at the servers that `lesionflow ui` runs there.

    Call before Prefect or MLflow is imported: both write to the home folder as they load. What the user has set stays.
    """
    from tasks.services.announcement import announced  # psutil, which a served model has no need of
    from tasks.services.users import COMMANDS, join

    os.environ[VARIABLE] = str(root.resolve())
    workspace = current_workspace()
    services = announced(workspace.root)
    settings = {
        **({"PREFECT_API_URL": f"{services.prefect}/api"} if services else {}),
        "PREFECT_HOME": str(workspace.prefect),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(workspace.prefect / "results"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
        "MLFLOW_TRACKING_URI": services.tracking_uri if services else workspace.tracking_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "OPENCV_LOG_LEVEL": "ERROR",
        "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin made an epoch 5 times as long on a shared machine
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if services and os.environ["PREFECT_API_URL"] == settings["PREFECT_API_URL"]:
        join(workspace.root / COMMANDS)
    return workspace
