"""Photographs: decoded, cut to their field of view, brought to a square grid, with the masks that belong to them."""

from storage.sources.photographs.folder import Photographs, open_photographs

__all__ = ["Photographs", "open_photographs"]
