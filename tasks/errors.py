"""Errors of steps that are told to the user in one line."""


class TrainingError(Exception):
    """A training process failed; the message is its own exception."""
