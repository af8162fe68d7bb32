"""Weakly-supervised lesion localisation: systems that learn from image-level labels and answer with saliency maps.

One file a paper; `refinement` is the loop that any of their saliency methods can drive.
"""
