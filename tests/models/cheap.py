"""Every saliency method with settings that make it cheap, for tests of what holds for all of them."""

from models.saliency import SALIENCY, saliency_method

CHEAP = {
    "smoothgrad": {"samples": 3},
    "integrated_gradients": {"steps": 2},
    "occlusion": {"patch": 32, "stride": 32},
    "rise": {"masks": 3, "cells": 2},
}
METHODS = {name: saliency_method(name, CHEAP.get(name, {})) for name in sorted(SALIENCY)}
