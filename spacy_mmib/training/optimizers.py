"""`spacy-mmib.Adam.v1`: Thinc's Adam, computed by torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
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
    decay_1d: bool = True,
) -> "TorchAdam":
    """Build Thinc's `Adam.v1` with the same settings and, but for rounding, the same results. A torch module
    of this package takes a step as a whole: on a GPU a few kernels, and nothing that waits for them; on CPU
    one pass over the weights on all of torch's threads. Other weights take theirs one by one: on CPU in such
    a pass, on a GPU by Thinc. A BERT has 110 million weights, so with few posts in a batch the optimizer
    takes as long as the network.

    use_averages (bool): As Thinc's, for the weights of Thinc's layers. Those of torch modules have none:
        spaCy would never put them in place of the weights.
    lr_scale (Optional[Mapping[str, float]]): What the learning rate is multiplied by (and with it the weight
        decay), by the names of parameters: those of torch modules have several parts, such as
        "crf.transitions" or "encoder.layer.0.output.dense.weight", those of Thinc's layers one, such as "W".
        A key fits names that have it as a run of whole parts, so that "crf" fits "crf.transitions" and
        "head.crf.transitions", but not "crfs.w"; of several keys that fit the longest counts. A key that fits
        nothing that is trained is warned about: a misspelt one would leave the rate as it is, unnoticed.
    decay_1d (bool): Whether L2 is also for parameters of one dimension: biases, and what LayerNorm and
        BatchNorm multiply by. BERT was trained, and is mostly fine-tuned, without.
    RAISES (ValueError): A multiplier is negative or not finite.
    """
    return TorchAdam(**locals())


class TorchAdam(Optimizer):
    """See `make_adam_v1`."""

    L2: float

    def __init__(self, *, lr_scale: Mapping[str, float] | None, decay_1d: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.decay_1d = decay_1d
        self.lr_scale = dict(lr_scale or {})
        for name, scale in self.lr_scale.items():
            if not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"lr_scale[{name!r}] is {scale}; it has to be a number of 0 or more.")
        self._scales: dict[str, float] = {}  # by names of parameters
        self._unused = set(self.lr_scale)

    def _get_scale(self, key: Any) -> float:
        """RETURNS (float): The multiplier for a parameter, 1 for those that no key of `lr_scale` fits."""
        if not self.lr_scale:
            return 1.0
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
        if self.averages is None and _fits(weights) and _fits(gradient):
            import torch

            for moments in (self.mom1, self.mom2):
                if key not in moments:
                    moments[key] = numpy.zeros(weights.size, dtype="float32")
            moments = [x[key].reshape(weights.shape) for x in (self.mom1, self.mom2)]
            self._step([key], [[torch.from_numpy(x)] for x in (weights, gradient, *moments)], lr_scale)
            gradient.fill(0)
            return weights, gradient
        L2 = self.L2
        self.L2 = self._get_decay(weights)
        try:
            return super().__call__(key, weights, gradient, lr_scale=lr_scale * self._get_scale(key))
        finally:
            self.L2 = L2

    def update_module(self, module_id: int, parameters: Iterable[tuple[str, Any]]) -> None:
        """Take a step with all parameters of a torch module at once. Their gradients are used up: what is in
        them then means nothing.

        module_id (int): The first part of the keys of its parameters, the second is the name.
        parameters (Iterable[Tuple[str, torch.nn.Parameter]]): By names. Those without a gradient stay as they
            are until they have one; from then on, no gradient is one of 0.
        """
        import torch

        keys, rows = [], []
        for name, parameter in parameters:
            # .data, since an in-place change of the parameter itself would invalidate a pending backward.
            key, w, g = (module_id, name), parameter.data, parameter.grad
            if not w.numel() or (g is None and key not in self.mom1):
                continue
            if g is None or g.stride() != w.stride():  # torch's kernels go through all of them in one order
                g = torch.zeros_like(w) if g is None else torch.empty_like(w).copy_(g)
            if key not in self.mom1:
                self.mom1[key], self.mom2[key] = torch.zeros_like(w), torch.zeros_like(w)
            keys.append(key)
            rows.append((w, g, self.mom1[key], self.mom2[key]))
        self._step(keys, list(zip(*rows)))

    def _step(self, keys: Sequence[Any], tensors: Sequence[Sequence[Any]], lr_scale: float = 1.0) -> None:
        """Update weights in place.

        tensors (Sequence[Sequence[torch.Tensor]]): Weights, gradients, and both moments, one a key each.
        """
        import torch
        from torch.optim.adamw import adamw

        groups: dict[tuple[int, float, float], list[int]] = {}
        for i, key in enumerate(keys):
            scale = lr_scale * self._get_scale(key)
            self.nr_update[key] += 1
            group = self.nr_update[key], scale, self._get_decay(tensors[0][i])
            groups.setdefault(group, []).append(i)
        for (step, scale, decay), members in groups.items():
            w, g, mom1, mom2 = ([of_all[i] for i in members] for of_all in tensors)
            if decay and not self.L2_is_weight_decay:
                torch._foreach_add_(g, w, alpha=decay)
            if self.grad_clip:
                clip(g, self.grad_clip, on_host=g[0].is_cpu)
            # Thinc decays the updated weights, torch the old ones: with a step that is that much shorter, it
            # is the same.
            decay *= self.learn_rate * scale if self.L2_is_weight_decay else 0.0
            rate = self.learn_rate * scale * (1.0 - decay)
            # torch adds eps behind the correction of the second moment, Thinc before.
            eps = self.eps / (1.0 - self.b2**step) ** 0.5
            settings: dict[str, Any] = {"beta1": self.b1, "beta2": self.b2, "eps": eps, "lr": rate}
            settings["weight_decay"] = decay / rate if rate else 0.0
            # Made on the device: nothing is copied to it.
            steps = list(torch.full((len(w),), step - 1.0, device=w[0].device).unbind())
            adamw(w, g, mom1, mom2, [], steps, fused=True, amsgrad=False, maximize=False, **settings)

    def _get_decay(self, weights: Any) -> float:
        return self.L2 if self.decay_1d or weights.ndim > 1 else 0.0


def clip(gradients: list[Any], threshold: float, *, on_host: bool) -> None:
    """Shorten gradients that are longer than a threshold to it, each by itself, in place.

    gradients (List[torch.Tensor]): All on one device.
    on_host (bool): Whether to look at their lengths, and leave those alone that are short. That saves a pass
        over all of them, but waits for a GPU.
    """
    import torch

    norms = torch.stack(torch._foreach_norm(gradients))
    if not on_host:
        torch._foreach_mul_(gradients, (threshold / norms.clamp(min=threshold)).unbind())
        return
    for gradient, norm in zip(gradients, norms.tolist()):
        if norm >= threshold:
            gradient.mul_(threshold / norm)


def _fits(array: Any) -> bool:
    if not isinstance(array, numpy.ndarray) or array.dtype != numpy.float32 or not array.size:
        return False
    return bool(array.flags.c_contiguous and array.flags.writeable)
