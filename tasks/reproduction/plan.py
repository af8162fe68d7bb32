"""What a reproduction is made of: the experiment, its cohort, the arms and seeds that are wanted, in their order."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from prefect import task
from prefect.cache_policies import NO_CACHE

from models.config import Config, validated
from models.errors import ModelError
from models.registry import registered
from models.system import Localization, System
from storage.cohort import Cohort
from tasks.engine.job import TrainerSettings
from tasks.evaluation import checked_label
from tasks.experiments import merged
from tasks.ingestion import ingest_source
from tasks.localization import checked, refinement_config
from tasks.radiomics import chosen_settings
from tasks.reproduction.experiment import ADDRESS, SIMULATED, Arm, Experiment, Maps, Studies
from tasks.reuse import fingerprint, finished, remember
from tasks.tracking.runs import flattened
from tasks.training.train import network_of
from tasks.workspace import current_workspace

FOLDER, INGEST = "reproductions", "reproduce-ingest"


class Trial(Config):
    """One arm with one seed."""

    arm: str
    seed: int


class Plan(Config):
    """An experiment on a cohort. Trials of a seed follow one another, so that a table is whole as early as can be.

    Where `split` is all, a trial's maps cover those cases alone that it is judged on. In `development` it is evaluated
    on split `validation`, for a choice.
    """

    name: str
    preset: str
    experiment: Experiment
    cohort: str
    content: str
    chosen: tuple[str, ...]
    development: bool = False

    @property
    def arms(self) -> dict[str, Arm]:
        """The arms that were asked for."""
        return {name: self.experiment.arms[name] for name in self.chosen}

    @property
    def trials(self) -> list[Trial]:
        """Every chosen arm with every seed."""
        return [Trial(arm=arm, seed=seed) for seed in range(self.experiment.seeds) for arm in self.chosen]

    @property
    def split(self) -> str:
        """The split that is evaluated."""
        if self.experiment.protocol != "held_out":
            return "all"
        return "validation" if self.development else "test"

    @cached_property
    def key(self) -> str:
        """The fingerprint of all of it."""
        described = self.model_dump(mode="json", exclude={"cohort"})
        return fingerprint("reproduce", trials=[self.trial_key(trial) for trial in self.trials], **described)

    @property
    def folder(self) -> Path:
        """Where this reproduction keeps its books."""
        return current_workspace().root / FOLDER / self.key[:12]

    def trial_key(self, trial: Trial) -> str:
        """The fingerprint of a trial: its cohort, seed, arm and what that starts from; not what is made of its figures.

        Experiments may share trials, and further arms or seeds leave those alone that are done.
        """
        experiment = self.experiment
        same = experiment.model_dump(mode="json", include={"target", "protocol", "evaluated", "lesions", "apart", "by"})
        same |= {"folds": experiment.folds} if experiment.protocol == "folds" else {}
        arms = [arm.model_dump(mode="json", exclude={"choose", "judged"}) for arm in self.ancestry(trial.arm)]
        return fingerprint(
            "reproduce-trial",
            name=trial.arm,
            seed=trial.seed,
            arms=arms,
            cohort=self.cohort,
            content=self.content,
            split=self.split,
            **same,
        )

    def system_of(self, arm: str) -> str:
        """What an arm trains."""
        return self.experiment.arms[arm].system or self.experiment.system

    def training_of(self, arm: str) -> str:
        """What tells whether two arms share the training of a seed."""
        trained = [
            before.model_dump(mode="json", exclude={"localize", "initial", "synthetic", "judged", "choose"})
            | {"synthetic": before.synthetic is not None}
            for before in self.ancestry(arm)
        ]
        return json.dumps(trained, sort_keys=True)

    def ancestry(self, name: str) -> list[Arm]:
        """An arm, those whose models its training needs, and so on."""
        arm = self.experiment.arms[name]
        return [arm, *(one for before in arm.after.values() for one in self.ancestry(before))]


def chosen_arms(experiment: Experiment, wanted: Sequence[str]) -> tuple[str, ...]:
    """The arms `wanted` in the experiment's order; all that are judged where none is named.

    Raises:
        ModelError: an unknown one, or one that is not judged.
    """
    judged = [name for name, arm in experiment.arms.items() if arm.judged]
    if unknown := [name for name in wanted if name not in judged]:
        raise ModelError(f"no arm {unknown[0]!r}; there are: {', '.join(judged)}")
    return tuple(name for name in judged if not wanted or name in wanted)


def planned(name: str, preset: str, experiment: Experiment, cohort: str, wanted: Sequence[str]) -> Plan:
    """The reproduction of `experiment` on the cohort at `cohort`, its settings checked.

    Raises:
        ModelError: a setting of an arm or of the studies is none; the line names it.
        CohortError: the cohort has no label `by`.
    """
    opened = Cohort.open(cohort)
    if experiment.by is not None:
        checked_label(opened, experiment.by)
    if experiment.studies is not None:
        check_studies(experiment.studies, opened)
    return Plan(
        name=name,
        preset=preset,
        experiment=experiment.model_copy(update={"arms": fitted_arms(experiment, opened)}),
        cohort=str(opened.path),
        content=opened.content_digest(),
        chosen=chosen_arms(experiment, wanted),
    )


def check_studies(studies: Studies, cohort: Cohort) -> None:
    """ModelError where the cohort lacks a label that a study asks for, or radiomics a setting."""
    chosen_settings(cohort, studies.radiomics, with_stability=False)
    for name, study in studies.outcomes.items():
        if unknown := [label for label in (study.outcome, *study.where) if label not in cohort.labels]:
            known = ", ".join(cohort.labels) or "none"
            raise ModelError(f"studies.outcomes.{name}: {cohort.path} has no label {unknown[0]!r}; labels: {known}")


def fitted_arms(experiment: Experiment, cohort: Cohort) -> dict[str, Arm]:
    """The arms with the trainer's stages that their systems have, all settings checked.

    An ablation may lack a stage that the preset speaks of; one that no arm has is a mistake.

    Raises:
        ModelError: a setting is none, or no arm has such a stage.
    """
    stages = {name: stages_of(experiment, name, cohort) for name in experiment.arms}
    known = set().union(*stages.values())
    fitted = {}
    for name, arm in experiment.arms.items():
        named: dict[str, Any] = arm.trainer.get("stages", {})
        if unknown := sorted(set(named) - known):
            raise ModelError(
                f"arms.{name}.trainer: no arm has a stage {unknown[0]!r}; there are: {', '.join(sorted(known))}"
            )
        own = {stage: settings for stage, settings in named.items() if stage in stages[name]}
        trainer = {**arm.trainer, **({"stages": own} if named else {})}
        fitted[name] = arm.model_copy(update={"trainer": trainer})
    return fitted


def stages_of(experiment: Experiment, name: str, cohort: Cohort) -> list[str]:
    """The stages in which an arm is trained; ModelError where its system, trainer or maps cannot be set so."""
    arm, where = experiment.arms[name], f"arms.{name}"
    entry = registered(arm.system or experiment.system)
    settings = merged({"network": network_of(cohort)}, arm.settings)
    config = validated(entry.config, settings, where=f"{where}.settings")
    validated(TrainerSettings, arm.trainer, where=f"{where}.trainer")
    system = entry.system(config)
    checked(name)
    try:
        if method_of(arm.localize, entry.system) == "own":
            system.with_map_settings(map_settings(arm.localize))
        else:
            refinement_config(system, map_settings(arm.localize))
    except ModelError as error:
        raise ModelError(f"{where}.localize: {error}") from error
    return list(system.stages())


def method_of(maps: Maps, system: type[System]) -> Localization:
    """How an arm's maps are made."""
    return maps.method or (system.localization if maps.saliency is None else "saliency")


def map_settings(maps: Maps) -> dict[str, Any]:
    """An arm's settings of `localize`, the method of saliency among them."""
    return maps.settings | ({"saliency": maps.saliency} if maps.saliency else {})


@task(name="reproduce-ingest", cache_policy=NO_CACHE)
def source_cohort(experiment: Experiment) -> str:
    """The cohort of the experiment's source, in the workspace; one that is there already is looked at again only where
    it may be incomplete.

    Raises:
        ModelError: the experiment names no source.
        SourceError: there is no such source.
    """
    address, options = source_address(experiment.source)
    key = fingerprint(INGEST, address=address, options=options, fractions=experiment.fractions)
    cohort = str(current_workspace().root / FOLDER / "cohorts" / cohort_name(experiment))
    if finished(INGEST, key) and Cohort.exists(cohort):
        return cohort
    answer = ingest_source(address, cohort, experiment.fractions, None, None, options)
    if answer["broken"]:
        told(f"{answer['broken']} files of {address} are left out; see {answer['report']}")
    remember(INGEST, key, answer)
    return cohort


def source_address(source: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What `ingest` is given: an address, and options."""
    given = dict(source)
    if (simulator := given.pop(SIMULATED, None)) is not None:
        return f"sim:{simulator}?{urlencode(given, safe='/:')}", {}
    if (address := given.pop(ADDRESS, None)) is not None:
        kind = {"source": given.pop("kind")} if "kind" in given else {}
        return str(address), {**given, **kind}
    raise ModelError(f"the experiment's source names neither {SIMULATED} nor {ADDRESS}; give one, or --cohort PATH")


def cohort_name(experiment: Experiment) -> str:
    """A folder's name that is the same for the same source and splits, whatever the code."""
    described = json.dumps([experiment.source, experiment.fractions], sort_keys=True, default=str)
    readable = str(experiment.source.get(SIMULATED) or Path(str(experiment.source.get(ADDRESS, ""))).name)
    return f"{readable}-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def command_line(
    system: str,
    preset: str,
    seeds: int,
    arms: Sequence[str] | None,
    cohort: str | None,
    settings: Mapping[str, Any] | None,
) -> str:
    """What a person types for it."""
    parts = ["lesionflow reproduce", system, "--preset", preset, "--seeds", str(seeds)]
    parts += [f"--arm {arm}" for arm in arms or []] + ([f"--cohort {cohort}"] if cohort else [])
    parts += [f"--set {key}={json.dumps(value)}" for key, value in flattened(settings or {}).items()]
    return " ".join(parts)


def told(line: str) -> None:
    """A line for whoever waits."""
    print(f"reproduce: {line}", file=sys.stderr, flush=True)
