"""Classification: systems that learn the class of an image, which saliency methods then explain.

One file a system.
"""
