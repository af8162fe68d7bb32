"""What a step raises for a person to read."""

from models.errors import ModelError
from storage.errors import CohortError, SourceError
from storage.loading import LoadingError


class TrainingError(Exception):
    """A training process failed; the message is the first failing rank's own."""


class TrainingStoppedError(TrainingError):
    """A training was told to stop, and did so after a checkpoint."""


class PromotionError(Exception):
    """A promotion that cannot be: no such version, or the frozen cases are not as they were."""


MEANT_FOR_A_PERSON = (TrainingError, ModelError, CohortError, SourceError, LoadingError)
"""The line of these says all; of any other error its kind must be told, too."""
