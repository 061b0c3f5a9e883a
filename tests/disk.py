"""A disk that is full, for real and for one process."""

import resource
from contextlib import contextmanager


@contextmanager
def full_disk(free):
    """No file may grow beyond ``free`` bytes: writing more is an OSError of the system, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
