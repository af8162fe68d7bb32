"""What a step raises for a person to read."""


class TrainingError(Exception):
    """A training process failed; the message is the first failing rank's own."""


class TrainingStoppedError(TrainingError):
    """A training was told to stop, and did so after a checkpoint."""


class PromotionError(Exception):
    """A promotion that cannot be: no such version, or the frozen cases are not as they were."""
