"""GEM's projection: of all gradients that harm no memory, the closest to the batch's."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

_ENUMERATED = 6  # up to this many memories, all sets of active constraints are tried


def project(
    gradients: Tensor, memories: Tensor, margin: float = 0.0, changed: Tensor | None = None
) -> Tensor:
    r"""Per run, the vector closest to its gradient whose product with none of its memories is negative.

    .. math:: \tilde g = g + G^\top v^*, \quad
        v^* = \arg\min_{v \ge \gamma} \tfrac12 v^\top G G^\top v + (G g)^\top v

    (Lopez-Paz and Ranzato 2017, eq. 11). The dual is non-negative least squares in K unknowns,
    :math:`\min_{u \ge 0} |R u + Q^\top g|` for :math:`G^\top = Q R`. Rows are brought to unit length and the
    algebra is done in float64, so the answer is exact at any scale of the gradients. There is no ridge.
    On a GPU, up to 6 memories are handled without waiting for the CPU.

    Args:
        gradients: (R, P) gradient of each run's batch.
        memories: (R, K, P) gradients of each run's K constraints.
        margin: :math:`\gamma` of the original, at least 0. Above 0 it pushes further than needed.
        changed: (R,) int64 counts on the device of the gradients, to which 1 is added for each run that does not get
            its own gradient back.

    Returns:
        (R, P). A run without a violated constraint gets its gradient back, and so does a run whose gradient is
        not finite. If only a memory's gradient is not finite, a conflict has no solution and the run gets NaN:
        it then counts as diverged. In no case are other runs affected.
    """
    if gradients.device.type == "mps":  # has no float64
        counts = None if changed is None else changed.cpu()
        projected = project(gradients.cpu(), memories.cpu(), margin, counts).to(gradients.device)
        if changed is not None and counts is not None:
            changed.copy_(counts)
        return projected
    violated = (torch.einsum("rkp,rp->rk", memories, gradients) < 0).any(dim=1)
    if violated.device.type == "cpu" and not violated.any():
        return gradients
    unit = memories.to(torch.float64, copy=True)
    norms = unit.norm(dim=2)
    norms = torch.where(norms > 0, norms, 1.0)  # a memory without gradient asks for nothing
    unit /= norms[..., None]
    target = gradients.double()
    finite = target.sum(
        dim=1
    ).isfinite()  # quicker than asking every element, and float64 has room for the sum
    if changed is not None:
        changed += violated & finite
    if margin:  # v >= margin, in units of the scaled problem
        target = target + torch.einsum("rk,rkp->rp", margin * norms, unit)
    q, r = torch.linalg.qr(unit.mT)
    dual = _non_negative_least_squares(r, -torch.einsum("rpk,rp->rk", q, target))
    projected = torch.einsum("rk,rkp->rp", dual, unit).add_(target)
    return torch.where((violated & finite)[:, None], projected.to(gradients.dtype), gradients)


def _non_negative_least_squares(a: Tensor, b: Tensor) -> Tensor:
    """(R, K) u >= 0 with the smallest |a u - b|, for (R, J, K) a and (R, J) b; NaN for a run with non-finite input."""
    runs, _, unknowns = a.shape
    # SciPy refuses NaN, and one diverged run must not end the others of its stack.
    solvable = a.isfinite().all(dim=2).all(dim=1) & b.isfinite().all(dim=1)
    a, b = torch.where(solvable[:, None, None], a, 0.0), torch.where(solvable[:, None], b, 0.0)
    if unknowns > _ENUMERATED:
        solutions = [nnls(a[run].cpu().numpy(), b[run].cpu().numpy())[0] for run in range(runs)]
        u = torch.from_numpy(np.stack(solutions)).to(a)
    else:
        u = _enumerated(a, b)
    return torch.where(solvable[:, None], u, torch.nan)


def _enumerated(a: Tensor, b: Tensor) -> Tensor:
    """Non-negative least squares for few unknowns, on any device and without waiting for it.

    The minimum is the ordinary least-squares solution on some set of unknowns, with the others 0. This tries all
    sets and takes the best solution that is nowhere negative. A set of dependent columns can give anything, but
    then its residual is large or not finite, and another set wins.
    """
    runs, _, unknowns = a.shape
    sets = list(itertools.product((0.0, 1.0), repeat=unknowns))
    used = torch.tensor(sets, dtype=a.dtype, device=a.device)  # (S, K)
    on_set = a[:, None] * used[:, None]  # (R, S, J, K)
    # An equation u = 0 for every unknown left out makes all systems of one shape.
    augmented = torch.cat([on_set, torch.diag_embed(1 - used).expand(runs, -1, -1, -1)], dim=2)
    q, r = torch.linalg.qr(augmented)
    right = torch.cat([b, b.new_zeros(runs, unknowns)], dim=1)
    rotated = torch.einsum("rsjk,rj->rsk", q, right)
    u = torch.linalg.solve_triangular(r, rotated[..., None], upper=True)[..., 0] * used
    residual = (torch.einsum("rjk,rsk->rsj", a, u) - b[:, None]).square().sum(dim=2)
    allowed = (u >= 0).all(dim=2) & residual.isfinite()
    best = torch.where(allowed, residual, torch.inf).argmin(dim=1)
    chosen: Tensor = u[torch.arange(runs, device=a.device), best]
    return chosen
