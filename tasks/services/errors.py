"""What a person is told when the services cannot run."""


class ServicesError(Exception):
    """The services run already, a port is taken, or one of them did not come up."""
