"""Watching the posteriors during training."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from ..bridge.data import Posterior, Posteriors
from ..util import logger, warn

MODALITIES = {"text": "text", "image": "picture"}

MOST_POSTS = 64
"""So many different texts or pictures are enough for a verdict; more would only take memory."""


class ActiveUnits(NamedTuple):
    """What a sample of posteriors says.

    active (int): Dimensions of the latent that tell posts apart.
    width (int): All dimensions.
    nats (float): What a row of the latent can tell of its post at most, the noise being Gaussian: half the
        sum over dimensions of log(1 + signal to noise).
    """

    active: int
    width: int
    nats: float


def count_active_units(posteriors: Collection[Posterior], threshold: float) -> ActiveUnits | None:
    """Count the active units of posteriors of different texts, or of different pictures.

    The signal of a dimension is the variance of mu between posts, at the same row of each: the first token of
    one and that of another, the whole picture of one and that of another. The noise is sigma^2. A latent that
    is the same for all posts has no signal, be it the prior or a constant far from it (of which the KL is
    anything); and none if it tells rows apart, the whole picture from objects, but not posts.

    threshold (float): The ratio of signal to noise above which a unit is active.
    RETURNS (Optional[ActiveUnits]): `None` if nothing can be said: a single post, the same vectors of all
        of them (one picture in many files), or numbers that are none.
    """
    x, mu = [p.x.astype("float64") for p in posteriors], [p.mu.astype("float64") for p in posteriors]
    numbers = [len(rows) for rows in mu]
    degrees = sum(numbers) - max(numbers, default=0)
    differ = degrees and _sum_squares(x).sum() > 1e-8 * sum(float((rows**2).sum()) for rows in x)
    if not differ:
        return None
    noise = numpy.concatenate([p.variance for p in posteriors]).mean(axis=0, dtype="float64")
    ratio = _sum_squares(mu) / degrees / numpy.maximum(noise, numpy.finfo("float32").tiny)
    if not numpy.isfinite(ratio).all():
        return None
    nats = 0.5 * float(numpy.log1p(ratio).sum())
    return ActiveUnits(int((ratio > threshold).sum()), len(ratio), nats)


def _sum_squares(vectors: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """RETURNS (numpy.ndarray): By dimension, the squared differences from the mean of all posts' vectors in
    the same row.
    """
    total = numpy.zeros(vectors[0].shape[1])
    for row in range(max(map(len, vectors))):
        of_row = numpy.stack([rows[row] for rows in vectors if len(rows) > row])
        total += ((of_row - of_row.mean(axis=0)) ** 2).sum(axis=0)
    return total


class CollapseMonitor:
    """Logs the mean KL per dimension and the active units of each modality, and warns once about one whose
    posterior has collapsed: its latent is then the same for all posts but for noise, and the modality tells
    the task nothing.

    name (str): Of the component.
    window (int): Updates between two verdicts, over which the KL is averaged.
    watched (int): The last of them, whose posts are measured. Few, as the weights go on changing.
    min_posts (int): With fewer different texts or pictures there is no verdict.
    threshold (float): The ratio of signal to noise above which a unit is active. 0.01 as in Burda et al.,
        Importance Weighted Autoencoders (2016), whose noise is about 1: a unit tells half of that in nats.
    min_active (float): The share of active units below which a posterior has collapsed, unless it tells
        more than in the window before: the weak vectors of a network with random weights take a while.
    """

    def __init__(
        self,
        name: str,
        window: int = 50,
        watched: int = 10,
        min_posts: int = 8,
        threshold: float = 0.01,
        min_active: float = 0.05,
    ) -> None:
        self.name, self.window, self.watched = name, window, watched
        self.min_posts, self.threshold, self.min_active = min_posts, threshold, min_active
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._updates = 0
        self._kls: dict[str, list[float]] = {}
        self._samples: dict[str, dict[str, Posterior]] = {}  # by modality and key
        self._nats: dict[str, float] = {}
        self._warned: set[str] = set()

    @property
    def watching(self) -> bool:
        """RETURNS (bool): Whether the next update is to come with its posteriors."""
        return self._updates >= self.window - self.watched

    def update(self, logs: Mapping[str, float], posteriors: Posteriors) -> None:
        """Take the values of one update.

        logs (Mapping[str, float]): What the fusion logs: of these KLs, in nats per dimension, as "kl_text"
            and "kl_image"; a modality that did not occur in the batch is not in it.
        posteriors (Posteriors): Of its posts, if `watching`.
        """
        for name, value in logs.items():
            if name.startswith("kl_"):
                self._kls.setdefault(name.removeprefix("kl_"), []).append(value)
        for modality, found in posteriors.items():
            sample = self._samples.setdefault(modality, {})
            for posterior in found:
                if len(sample) < MOST_POSTS:
                    sample.setdefault(posterior.key, posterior)
        self._updates += 1
        if self._updates >= self.window:
            self._finish_window()

    def _finish_window(self) -> None:
        for modality, values in self._kls.items():
            message = "%s: KL per dimension of the %s posterior, mean of %d updates: %.4f nats"
            mean = sum(values) / len(values)
            logger.info(message, self.name, MODALITIES[modality], len(values), mean)
        for modality, sample in list(self._samples.items()):
            # Too few stay, and get more in the next window: with a post a batch and few pictures.
            if len(sample) >= self.min_posts:
                del self._samples[modality]
                units = count_active_units(sample.values(), self.threshold)
                if units is not None:
                    self._judge(modality, units, len(sample))
        self._kls.clear()
        self._updates = 0

    def _judge(self, modality: str, units: ActiveUnits, posts: int) -> None:
        what = MODALITIES[modality]
        message = "%s: active units of the %s posterior on %d different %ss: %d of %d (at most %.2f nats)"
        logger.info(message, self.name, what, posts, what, *units)
        before = self._nats.get(modality)
        self._nats[modality] = units.nats
        lost = units.active < self.min_active * units.width
        if lost and before is not None and units.nats <= before and modality not in self._warned:
            self._warned.add(modality)
            kl = self._kls.get(modality)
            nats = f", at a KL of {sum(kl) / len(kl):.4f} nats per dimension" if kl else ""
            warn(
                f"{self.name}: the {what} posterior has collapsed: of the {units.width} units of its latent "
                f"{units.active} differ between {posts} {what}s by more than noise{nats}. So the {what} "
                f"hardly reaches the prediction. Lower loss_weights.kl_{modality}, warm it up with "
                'spacy-mmib.warmup.v1, set kl_reduction = "mean" if it is "sum", or start from a pretrained '
                "encoder."
            )
