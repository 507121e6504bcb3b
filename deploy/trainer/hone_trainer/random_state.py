"""The random states that a checkpoint holds, kept aside between two updates."""

import random

import numpy
import torch


def take() -> tuple:
    """All of them, as they are now."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), gpu


def put_back(states: tuple) -> None:
    """As if nothing had been drawn since `take`."""
    own, of_numpy, of_torch, gpu = states
    random.setstate(own)
    numpy.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    if gpu is not None:
        torch.cuda.set_rng_state(gpu)
