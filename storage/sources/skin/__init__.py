"""Patches of skin without a lesion, real or simulated, and the artificial biomarkers that are pasted onto them."""
