"""`spacy-mmib.Adam.v1`: Thinc's Adam, computed by torch on CPU."""

from collections.abc import Iterable
from typing import Any

import numpy
from spacy.util import registry
from thinc.optimizers import ADAM_DEFAULTS, Optimizer


@registry.optimizers("spacy-mmib.Adam.v1")
def make_adam_v1(
    learn_rate: float | Iterable[float] = ADAM_DEFAULTS["learn_rate"],
    *,
    L2: float | Iterable[float] = ADAM_DEFAULTS["L2"],
    beta1: float | Iterable[float] = ADAM_DEFAULTS["beta1"],
    beta2: float | Iterable[float] = ADAM_DEFAULTS["beta2"],
    eps: float | Iterable[float] = ADAM_DEFAULTS["eps"],
    grad_clip: float | Iterable[float] = ADAM_DEFAULTS["grad_clip"],
    L2_is_weight_decay: bool = True,
    use_averages: bool = False,
) -> "TorchAdam":
    """Build Thinc's `Adam.v1` with the same settings and, but for rounding, the same results. On CPU a step
    is one pass over the weights on all of torch's threads instead of several on one; on a GPU it is Thinc's
    own. A BERT has 110 million weights, so with few posts in a batch the optimizer takes as long as the
    network.

    use_averages (bool): As Thinc's; averages of the weights never reach torch's.
    """
    return TorchAdam(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


class TorchAdam(Optimizer):
    """See `make_adam_v1`."""

    def __call__(self, key: Any, weights: Any, gradient: Any, *, lr_scale: float = 1.0) -> tuple[Any, Any]:
        """RETURNS (Tuple[FloatsXd, FloatsXd]): The weights, updated in place, and the gradient set to 0."""
        if not (_fits(weights) and _fits(gradient)) or self.averages is not None:
            return super().__call__(key, weights, gradient, lr_scale=lr_scale)
        import torch
        from torch.optim.adam import adam

        self.nr_update[key] += 1
        step = self.nr_update[key]
        w, g = torch.from_numpy(weights), torch.from_numpy(gradient)
        if self.L2 and not self.L2_is_weight_decay:
            g.add_(w, alpha=self.L2)
        if self.grad_clip:
            norm = float(torch.linalg.vector_norm(g))
            if norm >= self.grad_clip:
                g.mul_(self.grad_clip / norm)
        for moments in (self.mom1, self.mom2):
            if key not in moments:
                moments[key] = numpy.zeros(weights.size, dtype="float32")
        adam(
            [w],
            [g],
            [torch.from_numpy(self.mom1[key]).view(w.shape)],
            [torch.from_numpy(self.mom2[key]).view(w.shape)],
            [],
            [torch.tensor(float(step - 1))],
            fused=True,
            amsgrad=False,
            beta1=self.b1,
            beta2=self.b2,
            lr=self.learn_rate * lr_scale,
            weight_decay=0.0,
            # torch adds it behind the correction of the second moment, Thinc before.
            eps=self.eps / (1.0 - self.b2**step) ** 0.5,
            maximize=False,
        )
        if self.L2 and self.L2_is_weight_decay:
            w.mul_(1.0 - lr_scale * self.learn_rate * self.L2)
        g.zero_()
        return weights, gradient


def _fits(array: Any) -> bool:
    if not isinstance(array, numpy.ndarray) or array.dtype != numpy.float32 or not array.size:
        return False
    return bool(array.flags.c_contiguous and array.flags.writeable)
