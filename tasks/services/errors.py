"""What a person is told when the services cannot run."""


class ServicesError(Exception):
    """The services run already, a port is taken, or one of them did not come up."""


class BusyError(ServicesError):
    """A server could not do what it was asked for just now, and has not."""
