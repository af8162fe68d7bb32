"""The errors of the science layer that a user can cause."""


class ModelError(Exception):
    """A model, its configuration or its input does not fit; one line says what, where, and what would be right."""
