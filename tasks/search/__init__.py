"""A search over the settings of a system: the space, the study, its trials, the report."""
