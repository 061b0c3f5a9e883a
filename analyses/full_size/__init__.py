"""The reference study at its own size: a list of trainings that continues whenever a machine has time (see ``__main__``)."""
