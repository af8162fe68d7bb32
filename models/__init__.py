"""The science, pure: networks, losses, saliency, inpainting, metrics and radiomics, one file a paper.

Everything here works on tensors and arrays alone and knows no file, no cohort and no tracking; `models.registry`
finds the systems.
"""
