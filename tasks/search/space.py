"""What a search may vary: a range or a list of values for each setting, by its dotted key."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import yaml
from optuna.trial import FrozenTrial, Trial
from pydantic import BeforeValidator, Field, JsonValue, PositiveInt, model_validator

from models.config import Config, validated
from models.errors import ModelError
from models.registry import registered
from tasks.engine.job import TrainerSettings, TrainingJob
from tasks.experiments import merged

TRAINER = "trainer"


def number(value: Any) -> int | float:
    """A finite number, or a text that says one (YAML reads `1e-5` as text)."""
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            value = _float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return value


Number = Annotated[int | float, BeforeValidator(number)]


class Range(Config):
    """`low` to `high`, both included: whole numbers if both are (every `step`), on a logarithmic scale with `log`."""

    low: Number
    high: Number
    log: bool = False
    step: PositiveInt | None = None

    @model_validator(mode="after")
    def _has_values(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, not at {self.low}")
        if self.step and (self.log or not self.is_whole):
            raise ValueError("step is for ranges of whole numbers that are not logarithmic")
        if self.step and (self.high - self.low) % self.step:
            raise ValueError(f"steps of {self.step} from {self.low} do not meet {self.high}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, trial: Trial, key: str) -> int | float:
        """The trial's value."""
        if self.is_whole:
            return trial.suggest_int(key, int(self.low), int(self.high), log=self.log, step=self.step or 1)
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def extremes(self) -> tuple[JsonValue, ...]:
        """Values that stand for all of it: its ends."""
        return self.low, self.high


class Choice(Config):
    """One of a list of values, of any kind that YAML has."""

    choices: tuple[JsonValue, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _differ(self) -> "Choice":
        if len(set(self.texts())) < len(self.choices):
            raise ValueError(f"choices {list(self.choices)} name a value twice")
        return self

    def draw(self, trial: Trial, key: str) -> JsonValue:
        """The trial's value; Optuna is given JSON texts, since it keeps no lists."""
        value: JsonValue = json.loads(trial.suggest_categorical(key, self.texts()))
        return value

    def texts(self) -> list[str]:
        """The choices as Optuna knows them."""
        return [json.dumps(choice) for choice in self.choices]

    def extremes(self) -> tuple[JsonValue, ...]:
        """All values."""
        return self.choices


class Space(Config):
    """The varied settings by dotted key; those of the trainer begin with `trainer.`."""

    parameters: dict[str, Range | Choice]

    @model_validator(mode="after")
    def _none_within_another(self) -> "Space":
        for key in self.parameters:
            if below := [other for other in self.parameters if other.startswith(f"{key}.")]:
                raise ValueError(f"{key} and {below[0]} cannot both vary: one is part of the other")
        return self

    def draw(self, trial: Trial) -> dict[str, JsonValue]:
        """The trial's point of the space, by dotted key; what has been drawn already stays."""
        return {key: parameter.draw(trial, key) for key, parameter in self.parameters.items()}

    def values(self, trial: FrozenTrial) -> dict[str, JsonValue]:
        """What a trial has drawn."""
        of_choice = {key for key, parameter in self.parameters.items() if isinstance(parameter, Choice)}
        return {key: json.loads(drawn) if key in of_choice else drawn for key, drawn in trial.params.items()}

    def sample(self) -> dict[str, JsonValue]:
        """Some point of the space."""
        return {key: parameter.extremes()[0] for key, parameter in self.parameters.items()}

    def extremes(self) -> Iterator[tuple[str, JsonValue]]:
        """Every value at an end of a range and every choice, with its key."""
        return ((key, value) for key, parameter in self.parameters.items() for value in parameter.extremes())


def space_of(entries: Mapping[str, Any]) -> Space:
    """The space of an experiment's `search` section.

    Raises:
        ModelError: an entry is neither a range nor a list of choices.
    """
    parameters = {key: _parameter(key, entry) for key, entry in entries.items()}
    return validated(Space, {"parameters": parameters}, where="search")


def parsed_space(texts: list[str]) -> dict[str, Any]:
    """`["optimiser.learning_rate=1e-5:1e-2:log", "network.width=0.25,0.5"]` as entries of a `search` section.

    Raises:
        ModelError: a text is of neither form.
    """
    return dict(map(_parsed, texts))


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    key, _, value = text.partition("=")
    match value.split(":"):
        case [low, high] if key and low and high:
            return key, {"low": low, "high": high}
        case [low, high, "log"] if key and low and high:
            return key, {"low": low, "high": high, "log": True}
        case [choices] if key and choices.strip(" ,"):
            return key, {"choices": _choices(text, choices)}
    raise ModelError(f"--space {text!r} is not of the form KEY=LOW:HIGH, KEY=LOW:HIGH:log or KEY=A,B,C")


def _choices(text: str, choices: str) -> list[Any]:
    try:
        return list(yaml.safe_load(f"[{choices}]"))
    except yaml.YAMLError as error:
        raise ModelError(f"--space {text!r}: {choices!r} is no list of values: {error.problem}") from error  # type: ignore[attr-defined]


def settings_at(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`{"network.width": 0.5, "trainer.batch_size": 16}` as nested settings of the system and of the trainer."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merged(nested, value)
    return {key: value for key, value in nested.items() if key != TRAINER}, nested.get(TRAINER, {})


def check_space(space: Space, job: TrainingJob) -> None:
    """Try every end and every choice against the settings of `job`, a job at some point of the space.

    Raises:
        ModelError: a key is no setting, or a value of the space is none that it takes.
    """
    config, trainer = registered(job.system).config, job.trainer.model_dump(mode="json")
    for key, value in space.extremes():
        where = f"search {key}={value}"
        of_system, of_trainer = settings_at({key: value})
        validated(config, merged(job.config, of_system), where=where)
        validated(TrainerSettings, merged(trainer, of_trainer), where=where)


def _parameter(key: str, entry: Any) -> Range | Choice:
    if not isinstance(entry, Mapping):
        raise ModelError(f"search {key}: {entry!r} is neither {{low, high}} nor {{choices}}")
    kind: type[Range | Choice] = Choice if "choices" in entry else Range
    return validated(kind, dict(entry), where=f"search {key}")


def _float(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
