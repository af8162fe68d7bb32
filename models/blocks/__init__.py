"""Networks that more than one system can use, from published architectures.

Each module builds one architecture from a typed configuration and knows nothing of its training.
"""

from models.blocks.vgg import VGGConfig, VGGRegressor, load_torchvision_state

__all__ = ["VGGConfig", "VGGRegressor", "load_torchvision_state"]
