"""Retraining unattended: what is new, whether that is reason to train, what to keep, and what was done."""
