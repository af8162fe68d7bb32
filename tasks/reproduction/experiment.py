"""The experiment file as data: what is trained on what, in which arms, and what is expected of them.

A preset's section lies on top of the file, and `--set` on top of both, nested keys one by one: `source.cases`,
`trainer.max_epochs`, `settings.decay`, `arms.cam.settings.network.width`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from models.config import Config, validated
from models.errors import ModelError
from models.metrics.segmentation import SEGMENTATION
from models.outcome import StudyConfig
from models.registry import registered, systems
from models.system import Localization
from storage.splits import Fractions
from tasks.case_figures import OF_SYNTHESIS
from tasks.experiments import ENDINGS, experiment, experiment_names, merged, preset_of
from tasks.reproduction.rules import Quantity, Rule, parsed_rule

SIMULATED, ADDRESS = "simulated", "address"
OF_OTHER_VERBS = ("presets", "search")
METRICS = (
    "ap_pooled",
    "ap_per_image",
    "ap_minmax",
    "froc_mean",
    "sensitivity_at_10fp",
    "energy",
    "pointing",
    "empty_share",
    "dice",
    *SEGMENTATION,
)
CLASSIFIER = "classifier_"  # before a metric of the model's score: classifier_auc_referable
MASKS = "masks"  # what stands in a study for the arm that finds everything
Studied = Literal["auc", "accuracy", "sensitivity", "specificity"]
STUDIED: tuple[Studied, ...] = get_args(Studied)


def of_lesion(metric: str, lesion: str) -> str:
    """What a metric is called where one class of lesions counts alone."""
    return f"{metric}_{lesion}"


def of_group(metric: str, label: str, value: str) -> str:
    """What a metric is called of those cases alone whose label has a value."""
    return f"{metric}_{label}_{value}"


def of_study(study: str, metric: str) -> str:
    """What a metric of an outcome study is called beside those of the maps: `response_auc`."""
    return f"{study}_{metric}"


ArmName = Annotated[str, StringConstraints(pattern=r"^[a-z]\w*$")]


class Maps(Config):
    """How an arm's maps are made, in the words of `localize`.

    `method` None: by `saliency` alone where that is named, else as the system does by itself.
    """

    method: Localization | None = None
    saliency: str | None = None
    settings: dict[str, Any] = Field(default={})


class Choice(Config):
    """Settings of an arm's maps that are chosen before its figures are taken, on a network and cases of their own.

    `among` are settings of `localize` that lie on the arm's, of which those are taken whose `metric` is the largest on
    split `validation`, with the maps of a training that no figure comes from.
    """

    metric: str
    among: tuple[dict[str, Any], ...] = Field(min_length=2)


class Arm(Config):
    """What is trained and how maps come of it; `initial` names the arm whose weights of the same seed it starts from.

    `system` None: the experiment's own, whose settings and trainer the arm's lie on. `synthetic` names the arm whose
    model of the same seed makes an image after each training case, which it is trained on as well. An arm that is not
    `judged` is there for others that need its model.
    """

    system: str | None = None
    settings: dict[str, Any] = Field(default={})
    trainer: dict[str, Any] = Field(default={})
    localize: Maps = Maps()
    initial: str | None = None
    synthetic: str | None = None
    judged: bool = True
    choose: Choice | None = None

    @property
    def after(self) -> dict[str, str]:
        """The arms whose models its training needs, by the field that names them."""
        named = {"initial": self.initial, "synthetic": self.synthetic}
        return {field: name for field, name in named.items() if name is not None}


class Gain(Config):
    """The relative difference (arm − over) / over of a metric; what the paper reports of it, as mean ± spread."""

    arm: str
    over: str
    metric: str
    reported: float | None = None
    spread: float | None = None


class OutcomeStudy(Config):
    """What is asked of a patient (`outcome`, a label of two classes), and the paper's figures by arm or `masks`."""

    outcome: str
    where: dict[str, float] = Field(default={})
    reported: dict[str, dict[Studied, float]] = Field(default={})


class Studies(Config):
    """Radiomics of the lesions that `arms` find in patients they were not trained on, and of the true masks, and what
    both say of `outcomes` by `study`; `radiomics` and `settings` are those of the two verbs.
    """

    arms: tuple[str, ...] = Field(min_length=1)
    outcomes: dict[ArmName, OutcomeStudy] = Field(min_length=1)
    radiomics: dict[str, Any] = Field(default={})
    settings: dict[str, Any] = Field(default={})


class Experiment(Config):
    """A paper's experiment with a preset on top.

    `source` is {simulated: NAME, …} or {address: PATH, …} with options of `ingest`. `protocol`: transductive trains and
    evaluates on all cases; held_out splits patients by `fractions` and evaluates on `test`; folds divides all patients
    into `folds` parts, and the trial with seed s trains without part s and evaluates on it. `evaluated`: cases with
    lesions alone, or all annotated ones, of the classes `lesions` (none named: all). Each class of `apart` is judged by
    itself as well, on the cases that show it: `energy` of class `rim` is the metric `energy_rim`. So is each value of
    the label `by`, on its cases: `dice_oesophagus_1`. `studies` follow when all folds are done. The table begins with
    `metric` and has those `shown`, and where none is named the family's usual ones. `reported` are the
    paper's figures by arm, of `metric` or by the name of the metric; `reported_on` says what they were measured on.
    """

    system: str
    source: dict[str, Any] = Field(default={})
    target: str = "grade"
    protocol: Literal["transductive", "held_out", "folds"] = "held_out"
    folds: int = Field(default=5, ge=2)
    fractions: Fractions | None = None
    evaluated: Literal["lesions", "all"] = "all"
    lesions: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    by: str | None = None
    settings: dict[str, Any] = Field(default={})
    trainer: dict[str, Any] = Field(default={})
    seeds: PositiveInt = 3
    arms: dict[ArmName, Arm] = Field(min_length=1)
    metric: str = "ap_pooled"
    shown: tuple[str, ...] = ()
    reported: dict[str, float | dict[str, float]] = Field(default={})
    reported_on: str = ""
    expect: tuple[str, ...] = ()
    gains: tuple[Gain, ...] = ()
    studies: Studies | None = None

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What is expected, parsed."""
        return tuple(parsed_rule(text, self.metric) for text in self.expect)

    @model_validator(mode="after")
    def _names_its_metrics(self) -> Self:
        metrics = [*METRICS, *self._own_figures()]
        known = {*metrics, *(of_lesion(metric, lesion) for metric in metrics for lesion in self.apart)}
        groups = [of_group(metric, self.by, "") for metric in metrics] if self.by else []
        for where, name in self._measured():
            if name not in known and not name.startswith((CLASSIFIER, *groups)):
                apart = f", each of them with _{' or _'.join(self.apart)}" if self.apart else ""
                there = f"{', '.join(metrics)}{apart}, and {CLASSIFIER}… of the scores"
                raise ValueError(f"{where}: no metric '{name}'; there are: {there}")
        return self

    @model_validator(mode="after")
    def _has_the_splits_that_arms_need(self) -> Self:
        for name, arm in self.arms.items():
            for field, split in (("choose", "validation"), ("synthetic", "train")):
                if getattr(arm, field) is not None and self.protocol != "held_out":
                    raise ValueError(f"arms.{name}.{field} takes split {split}, which protocol {self.protocol} has not")
        return self

    @model_validator(mode="after")
    def _can_be_studied(self) -> Self:
        if self.studies is None:
            return self
        if self.protocol != "folds":
            raise ValueError(f"studies take lesions found in each patient once, which protocol {self.protocol} has not")
        validated(StudyConfig, self.studies.settings, where="studies.settings")
        if MASKS in self.arms:
            raise ValueError(f"arms.{MASKS}: in studies that is what the true masks are called; name the arm otherwise")
        return self

    @model_validator(mode="after")
    def _names_its_arms(self) -> Self:
        for where, name in self._named():
            if name not in self.arms:
                raise ValueError(f"{where}: no arm '{name}'; there are: {', '.join(self.arms)}")
        for name in self.arms:
            self._refuse_a_circle([name])
        return self

    def _refuse_a_circle(self, path: list[str], first: str = "") -> None:
        """`path` leads from an arm, by its field `first`, to what it needs, and on to what that needs."""
        for field, before in self.arms[path[-1]].after.items():
            if before in path:
                raise ValueError(f"arms.{path[0]}.{first or field}: {' → '.join([*path, before])} goes in a circle")
            self._refuse_a_circle([*path, before], first or field)

    def _own_figures(self) -> list[str]:
        """The figures that the arms' systems have of their own."""
        known = systems()
        used = {arm.system or self.system for arm in self.arms.values()} & known.keys()
        own = [figure for name in sorted(used) for figure in known[name].system.measures]
        return [*own, *(OF_SYNTHESIS if any(known[name].family == "synthesis" for name in used) else ())]

    def _study_figures(self) -> set[Quantity]:
        """The quantities that the studies answer."""
        if self.studies is None:
            return set()
        return {
            Quantity(arm, of_study(study, metric))
            for arm in (*self.studies.arms, MASKS)
            for study in self.studies.outcomes
            for metric in STUDIED
        }

    def _named(self) -> Iterable[tuple[str, str]]:
        """Every mention of an arm, and where."""
        for name, arm in self.arms.items():
            yield from ((f"arms.{name}.{field}", before) for field, before in arm.after.items())
        yield from (("reported", name) for name in self.reported)
        yield from (("gains", name) for gain in self.gains for name in (gain.arm, gain.over))
        yield from ((f"expect: {text}", quantity.arm) for text, quantity in self._expected_of_maps())
        if self.studies is not None:
            yield from (("studies.arms", name) for name in self.studies.arms)
            for study, told in self.studies.outcomes.items():
                yield from ((f"studies.outcomes.{study}.reported", name) for name in told.reported if name != MASKS)

    def _measured(self) -> Iterable[tuple[str, str]]:
        """Every mention of a metric, and where."""
        yield "metric", self.metric
        yield from (("shown", name) for name in self.shown)
        for figures in self.reported.values():
            yield from (("reported", name) for name in (figures if isinstance(figures, dict) else ()))
        yield from (("gains", gain.metric) for gain in self.gains)
        yield from ((f"arms.{name}.choose", arm.choose.metric) for name, arm in self.arms.items() if arm.choose)
        yield from ((f"expect: {text}", quantity.metric) for text, quantity in self._expected_of_maps())

    def _expected_of_maps(self) -> list[tuple[str, Quantity]]:
        studied = self._study_figures()
        return [(text, quantity) for text, quantity in self._expected() if quantity not in studied]

    def _expected(self) -> list[tuple[str, Quantity]]:
        try:
            return [(rule.text, one) for rule in self.rules for one in rule.quantities]
        except ModelError as error:
            raise ValueError(f"expect: {error}") from error


def loaded_experiment(name: str, preset: str, changes: dict[str, Any]) -> Experiment:
    """The experiment of a system, or of a file, with its `preset` and then `changes` on top, checked.

    A file without presets is the same with each.

    Raises:
        ModelError: no such experiment or preset, or a field is wrong; the line names it.
    """
    content = experiment(name)
    where = name if name.endswith(ENDINGS) else f"experiments/{name}.yaml"
    if "arms" not in content:
        able = ", ".join(experiment_names("arms")) or "none yet"
        raise ModelError(f"{where} has no arms to reproduce; experiments that have: {able}")
    common = {key: value for key, value in content.items() if key not in OF_OTHER_VERBS}
    on_top = preset_of(content, preset, where) if "presets" in content else {}
    whole = merged(merged(common, on_top), changes)
    found = validated(Experiment, whole, where=where)
    arms = {one: whole_arm(found, one, preset) for one in found.arms}
    return found.model_copy(update={"arms": arms})


def whole_arm(experiment: Experiment, name: str, preset: str) -> Arm:
    """An arm with its system, and all settings that it lies on.

    An arm of another system lies on the preset of that name in that system's own experiment, where there is one.
    """
    arm = experiment.arms[name]
    system = arm.system or experiment.system
    registered(system)
    own = system == experiment.system
    below = {"settings": experiment.settings, "trainer": experiment.trainer} if own else _preset_below(system, preset)
    changes = {part: merged(below.get(part) or {}, getattr(arm, part)) for part in ("settings", "trainer")}
    return arm.model_copy(update={"system": system, **changes})


def title(name: str) -> str:
    """What an experiment is called: `gdc`, of `gdc` and of `path/gdc.yaml`."""
    return Path(name).stem if name.endswith(ENDINGS) else name


def _preset_below(system: str, name: str) -> dict[str, Any]:
    if system not in experiment_names("presets"):
        return {}
    presets: dict[str, Any] = experiment(system)["presets"]
    return presets.get(name) or {}
