"""Tiny systems for tests of what trains systems.

They register themselves when imported. Tests name them in LESIONFLOW_SYSTEMS and don't import them while pytest
collects, since a test of every system would then be of the toys, too.
"""

MODULES = "tests.toys.gan,tests.toys.classifier,tests.toys.segmenter"
