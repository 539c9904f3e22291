"""`spacy-mmib.Adam.v1`: Thinc's Adam, computed by torch on CPU."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy
from spacy.util import registry
from thinc.optimizers import ADAM_DEFAULTS, Optimizer

from ..util import warn

PATIENCE = 10
"""Steps in which a name in `lr_scale` has to fit a parameter that is trained."""


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
    lr_scale: Mapping[str, float] | None = None,
) -> "TorchAdam":
    """Build Thinc's `Adam.v1` with the same settings and, but for rounding, the same results. On CPU a step
    is one pass over the weights on all of torch's threads instead of several on one; on a GPU it is Thinc's
    own. A BERT has 110 million weights, so with few posts in a batch the optimizer takes as long as the
    network.

    use_averages (bool): As Thinc's; averages of the weights never reach torch's.
    lr_scale (Optional[Mapping[str, float]]): What the learning rate is multiplied by (and with it the weight
        decay), by the names of parameters: those of torch modules have several parts, such as
        "crf.transitions" or "encoder.layer.0.output.dense.weight", those of Thinc's layers one, such as "W".
        A key fits names that have it as a run of whole parts, so that "crf" fits "crf.transitions" and
        "head.crf.transitions", but not "crfs.w"; of several keys that fit the longest counts. A key that fits
        nothing that is trained is warned about: a misspelt one would leave the rate as it is, unnoticed.
    RAISES (ValueError): A multiplier is negative or not finite.
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
        lr_scale=lr_scale,
    )


class TorchAdam(Optimizer):
    """See `make_adam_v1`."""

    def __init__(
        self, learn_rate: Any, *, lr_scale: Mapping[str, float] | None = None, **settings: Any
    ) -> None:
        super().__init__(learn_rate, **settings)
        self.lr_scale = dict(lr_scale or {})
        for name, scale in self.lr_scale.items():
            if not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"lr_scale[{name!r}] is {scale}; it has to be a number of 0 or more.")
        self._scales: dict[str, float] = {}  # by names of parameters
        self._unused = set(self.lr_scale)

    def _get_scale(self, key: Any) -> float:
        """RETURNS (float): The multiplier for a parameter, 1 for those that no key of `lr_scale` fits."""
        name = str(key[1])
        if name not in self._scales:
            fitting = [run for run in self.lr_scale if f".{run}." in f".{name}."]
            self._unused.difference_update(fitting)
            self._scales[name] = self.lr_scale[max(fitting, key=len)] if fitting else 1.0
        if self._unused and self.nr_update.get(key, 0) >= PATIENCE:
            names = sorted({known.split(".")[0] for known in self._scales})
            warn(
                f"lr_scale of spacy-mmib.Adam.v1 has names that fit nothing trained in {PATIENCE} steps: "
                f"{', '.join(sorted(self._unused))}. Names of those that are trained begin with "
                f"{', '.join(names[:30])}."
            )
            self._unused.clear()
        return self._scales[name]

    def __call__(self, key: Any, weights: Any, gradient: Any, *, lr_scale: float = 1.0) -> tuple[Any, Any]:
        """RETURNS (Tuple[FloatsXd, FloatsXd]): The weights, updated in place, and the gradient set to 0."""
        if self.lr_scale:
            lr_scale *= self._get_scale(key)
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
