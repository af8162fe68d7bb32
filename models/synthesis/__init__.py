"""Synthesis: systems that make images which were never photographed.

One file a system.
"""
