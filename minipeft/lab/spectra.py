"""What the changes of weights look like inside: their largest directions, and how alike those of two runs are."""

from statistics import mean

import torch

from minipeft.deltas import updates
from minipeft.views import merge

TOP, ALIKE = 10, 0.5  # of how many singular vectors intruders are sought, and below which cosine they are new


def similarity(X, Y, i, j):
    """φ of Hu et al. 2022, §7.2: how much of the i largest input directions of X lies in the j largest ones of Y.

    ‖V_X V_Yᵀ‖² / min(i, j), where the rows of V_X and V_Y are right singular vectors; 0: nothing, 1: as much as can be.
    """
    V_X, V_Y = torch.linalg.svd(X)[2][:i], torch.linalg.svd(Y)[2][:j]
    return ((V_X @ V_Y.T).square().sum() / min(i, j)).item()


def matrices(view):
    """[(name, W, ΔW)] of the matrices inside the blocks that a view changes."""
    found = [(name, W, change) for name, (W, change) in updates(view).items()]
    return [(name, W, change) for name, W, change in found if W.ndim == 2 and name.startswith("blocks.")]


def energy_share(view, k):
    """The share of ‖ΔW‖² that lies in its k largest singular values, as the mean over the matrices of a view."""
    energies = [torch.linalg.svdvals(change).square() for _, _, change in matrices(view)]
    return mean((energy[:k].sum() / energy.sum()).item() for energy in energies)


def relative_size(view):
    """‖ΔW‖/‖W‖, as the mean over the matrices of a view."""
    return mean((change.norm() / W.norm()).item() for _, W, change in matrices(view))


@torch.no_grad()
def truncated(view, k, without=False):
    """A plain model: the base with only the k largest directions of each matrix's change. without: all but these."""
    model, some = merge(view), slice(k, None) if without else slice(k)
    for name, W, change in matrices(view):
        U, S, V = torch.linalg.svd(change, full_matrices=False)
        model.get_parameter(name).copy_(W + (U[:, some] * S[some]) @ V[some])
    return model


def intruders(view):
    """How many of the ten largest left singular vectors of each W + ΔW are like none of W's: every cosine is below .5.

    Summed over the matrices of a view.
    """
    return sum(new_directions(W, change) for _, W, change in matrices(view))


def new_directions(W, change):
    U = torch.linalg.svd(W + change, full_matrices=False)[0][:, :TOP]
    cosines = torch.linalg.svd(W, full_matrices=False)[0].T @ U
    return int((cosines.abs().amax(0) < ALIKE).sum())
