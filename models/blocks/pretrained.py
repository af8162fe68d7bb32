"""Weights that others trained, put into a network of the same layout."""

from collections.abc import Mapping

from torch import Tensor, nn

from models.errors import ModelError


def load_all_but_last(
    network: nn.Module, state: Mapping[str, Tensor], *, last: str, given_last: str, fits: str
) -> None:
    """Take every tensor of `state` but the last layer's, which stays as initialised.

    Names of the last layer's tensors start with `last` in the network, with `given_last` in `state`. ModelError names
    the first tensor that does not fit, says what `state` `fits`, and leaves the network as it was.
    """
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(last)}
    given = {name: tensor for name, tensor in state.items() if not name.startswith(given_last)}
    for name in sorted(own.keys() | given.keys()):
        found, wanted = (tuple(tensors[name].shape) if name in tensors else None for tensors in (given, own))
        if found != wanted:
            raise ModelError(
                f"pre-trained '{name}' is {found or 'absent'}, the network's {wanted or 'absent'}: the weights fit "
                f"{fits}"
            )
    network.load_state_dict(given, strict=False)
