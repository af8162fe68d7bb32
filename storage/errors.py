"""What can go wrong at the door: each message is one line that says what, where, and what would be right."""


class SourceError(Exception):
    """A source of cases cannot be used as it was given."""


class CohortError(Exception):
    """A cohort cannot be opened, created or written as it was asked."""


class DamagedError(CohortError):
    """The store of a cohort is not as it was written."""
