"""The modes of networks that others wrote: they read them in the middle of a forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def training_mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Switch a network to training mode for one pass. Outside such passes it is in evaluation mode and
    nothing switches it, so that any number of threads can predict with it.

    network (nn.Module): In evaluation mode.
    training (bool): If False, nothing is done.
    """
    if not training:
        yield
        return
    network.train()
    try:
        yield
    finally:
        network.eval()
