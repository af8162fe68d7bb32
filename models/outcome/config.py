"""What an outcome study can be told."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from models.config import Config

Model = Literal["logistic", "forest", "cox", "survival_forest"]
Share = Annotated[float, Field(ge=0, le=1)]


class StudyConfig(Config):
    """Who is studied, which lesion speaks for a patient, what is filtered, selected and fitted, and how it is judged.

    `where` takes those alone whose labels have these values: {"oesophagus": 1}.
    `model` None: logistic for an outcome, cox for a survival time. `penalties` is the grid of the logistic's λ = 1/C
    and of Cox's ridge penalty, `leaf_sizes` that of the forests, `numbers` that of how many features are taken.
    `differing` is what becomes of labels in which a patient's cases differ, such as two eyes of other grades;
    `positive_from` is the outcome from which on a patient counts as positive, by default the greater of two values.
    """

    where: dict[str, float] = Field(default={})
    lesions: Literal["largest", "mean", "whole"] = "largest"
    differing: Literal["refuse", "highest"] = "refuse"
    positive_from: float | None = None
    most_gaps: Share = 0.2
    most_correlated: Share = 0.9
    least_icc: Share = 0.75
    icc_bound: Literal["icc", "icc_low"] = "icc"
    preserve: tuple[str, ...] = ()
    scaling: Literal["standard", "robust", "normal"] = "standard"
    selection: Literal["mrmr", "lasso", "none"] = "mrmr"
    relevance: Literal["f", "mutual_information"] = "f"
    criterion: Literal["difference", "quotient"] = "difference"
    numbers: tuple[PositiveInt, ...] = Field((2, 5, 10, 20), min_length=1)
    model: Model | None = None
    penalties: tuple[PositiveFloat, ...] = Field((10.0, 1.0, 0.1, 0.01), min_length=1)
    leaf_sizes: tuple[PositiveInt, ...] = Field((10, 3), min_length=1)
    trees: PositiveInt = 200
    balance: bool = False
    threshold: Literal["youden", "half"] = "youden"
    folds: Annotated[int, Field(ge=2)] = 5
    inner_folds: Annotated[int, Field(ge=2)] = 3
    repeats: PositiveInt = 3
    permutations: Annotated[int, Field(ge=0)] = 50
    resamples: Annotated[int, Field(ge=100)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> "StudyConfig":
        if self.is_survival and self.relevance == "mutual_information":
            raise ValueError("relevance: mutual_information is for an outcome of two classes; a survival time takes f")
        return self

    @property
    def is_survival(self) -> bool:
        """Whether the model is one of survival times."""
        return self.model in ("cox", "survival_forest")
