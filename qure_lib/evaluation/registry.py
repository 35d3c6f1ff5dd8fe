"""Every data set by name; training, planning, stand-ins and evaluation iterate over it."""

from pathlib import Path

from .circo import CIRCO
from .cirr import CIRR
from .fashioniq import FASHIONIQ
from .hp_fashioniq import HP_FASHIONIQ
from .protocol import Protocol, Training

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (FASHIONIQ, CIRR, CIRCO, HP_FASHIONIQ)}


def find_protocol(root: str | Path) -> Protocol:
    """The last data set to train on that recognises a folder; the first, FashionIQ, takes any."""
    trained = [(p, p.training) for p in PROTOCOLS.values() if p.training is not None]
    return next(p for p, training in reversed(trained) if training.is_at(Path(root)))


def training_of(name: str) -> Training:
    """How to train on a data set; ValueError if it is only evaluated on."""
    if (training := PROTOCOLS[name].training) is None:
        raise ValueError(f"{name} is only evaluated on; train on another data set")
    return training
