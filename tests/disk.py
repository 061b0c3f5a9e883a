"""A disk that is full, for real and for one process."""

import resource
from contextlib import contextmanager


def small_disk(free):
    """From here on no file of this process may grow beyond ``free`` bytes: writing more is an OSError of the system, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def full_disk(free):
    """The same inside the block only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    small_disk(free)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
