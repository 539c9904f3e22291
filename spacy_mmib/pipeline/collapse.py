"""Watching the posteriors during training."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from ..bridge.data import Posterior, Posteriors
from ..util import logger, warn

MODALITIES = {"text": "text", "image": "picture"}


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


class PosteriorSample:
    """Posteriors of different texts, or of different pictures, as sums.

    The signal of a dimension is the variance of mu between posts, at the same row of each: the first token of
    one and that of another, the whole picture of one and that of another. The noise is sigma^2. A latent that
    is the same for all posts has no signal, be it the prior or a constant far from it (of which the KL is
    anything); and none if it tells rows apart, the whole picture from objects, but not posts.
    """

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._x, self._mu = _Moments(), _Moments()
        self._noise: NDArray[Any] | float = 0.0

    def __len__(self) -> int:
        """RETURNS (int): How many different texts or pictures there are."""
        return len(self._keys)

    def add(self, posterior: Posterior) -> None:
        """Take a text or picture, if it is not here yet."""
        if posterior.key not in self._keys:
            self._keys.add(posterior.key)
            self._x.add(posterior.x)
            self._mu.add(posterior.mu)
            self._noise = self._noise + posterior.variance.sum(axis=0, dtype="float64")

    def measure(self, threshold: float) -> ActiveUnits | None:
        """Count the active units.

        threshold (float): The ratio of signal to noise above which a unit is active.
        RETURNS (Optional[ActiveUnits]): `None` if nothing can be said: a single post, the same vectors of all
            of them (one picture in many files), or numbers that are none.
        """
        rows, degrees = self._mu.count()
        if not degrees or not self._x.differ():
            return None
        noise = numpy.maximum(self._noise / rows, numpy.finfo("float32").tiny)
        ratio = numpy.asarray(self._mu.squares) / degrees / noise
        if not numpy.isfinite(ratio).all():
            return None
        nats = 0.5 * float(numpy.log1p(ratio).sum())
        return ActiveUnits(int((ratio > threshold).sum()), len(ratio), nats)


class _Moments:
    """The variance of vectors within rows of the same number, as a stream (Welford's algorithm)."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._means: list[NDArray[Any]] = []
        self.squares: NDArray[Any] | float = 0.0
        self._total = 0.0

    def count(self) -> tuple[int, int]:
        """RETURNS (Tuple[int, int]): All vectors, and the degrees of freedom of their variance."""
        return sum(self._counts), sum(self._counts) - len(self._counts)

    def add(self, vectors: NDArray[Any]) -> None:
        for i, vector in enumerate(vectors.astype("float64")):
            if i == len(self._counts):
                self._counts.append(0)
                self._means.append(numpy.zeros_like(vector))
            self._counts[i] += 1
            delta = vector - self._means[i]
            self._means[i] += delta / self._counts[i]
            self.squares = self.squares + delta * (vector - self._means[i])
            self._total += float(vector @ vector)

    def differ(self) -> bool:
        """RETURNS (bool): Whether the vectors of a row differ by more than rounding."""
        return float(numpy.sum(self.squares)) > 1e-8 * self._total


class CollapseMonitor:
    """Logs the mean KL per dimension and the active units of each modality, and warns once about one whose
    posterior has collapsed: its latent is then the same for all posts but for noise, and the modality tells
    the task nothing.

    Measured on the demo after 200 updates: 1 unit of 96 is active where F1 is the same with pictures as
    without (KL as a sum, 0.26 nats a dimension), and all 96 are where they are used (as a mean, 0.54 nats).

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
        self._samples: dict[str, PosteriorSample] = {}
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
            sample = self._samples.setdefault(modality, PosteriorSample())
            for posterior in found:
                sample.add(posterior)
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
                units = sample.measure(self.threshold)
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
