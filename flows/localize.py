"""`localize`: a lesion map for every case of a cohort, by a trained model."""

from pathlib import Path
from typing import Any

from prefect import flow

from models.errors import ModelError
from models.registry import registered
from models.system import Localization
from tasks.localization import localize_own, localize_refined, localize_saliency
from tasks.model_files import describe_model
from tasks.notifications import notified
from tasks.tracking.registry import locate_model


@notified
@flow(name="localize", flow_run_name="{cohort}")
def localize(
    cohort: str,
    model: str,
    method: Localization | None = None,
    saliency: str | None = None,
    splits: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    batch_size: int = 32,
    cases: list[str] | None = None,
    workers: int | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Write the maps that are missing; `saliency` names the method itself, or what drives the refinement loop.

    `method` None is the system's own way. `cases` are the ids of the only cases to do; `workers` processes do them, by
    default as many as are worth it. `name` is the last part of the map set's name.
    """
    folder, chosen, among = str(locate_model(model)), dict(settings or {}), splits or []
    match chosen_method(folder, method, saliency, chosen):
        case "own":
            return localize_own(cohort, folder, among, batch_size, cases, workers, name, chosen)
        case "saliency":
            return localize_saliency(cohort, folder, among, saliency, chosen, batch_size, cases, workers, name)
        case _:
            chosen |= {"saliency": saliency} if saliency else {}
            return localize_refined(cohort, folder, among, chosen, batch_size, cases, workers, name)


def chosen_method(model: str, method: Localization | None, saliency: str | None, settings: dict[str, Any]) -> str:
    """`method`, or the system's own way, or that of saliency where a method of it is named and the way is not.

    Raises:
        ModelError: own maps are to be made with settings, which those of this system do not take.
    """
    system = registered(describe_model(Path(model))["system"]).system
    usual = system.localization
    if method is None and usual == "own" and saliency:
        return "saliency"
    if (method or usual) == "own" and (saliency or (settings and system.map_settings is None)):
        given = "--saliency" if saliency else f"--set {next(iter(settings))}"
        raise ModelError(f"a system's own maps take no {given}; name --method saliency or iterative-refinement with it")
    return method or usual
