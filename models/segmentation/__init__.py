"""Segmentation: systems that learn from masks which pixels belong to a structure.

One file a system.
"""
