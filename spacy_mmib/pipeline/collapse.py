"""Watching the posteriors during training."""

from collections.abc import Mapping

from ..util import logger, warn

MODALITIES = {"kl_text": "text", "kl_image": "picture"}


class CollapseMonitor:
    """Logs the mean KL per dimension of each modality, and warns once about one whose posterior has become
    the prior: its latent is then noise, and the modality no longer tells the task anything.

    name (str): Of the component.
    window (int): Updates to average over.
    threshold (float): In nats per dimension. A healthy posterior is far above (about 0.5 at the start of
        training), a collapsed one is within a hundredth of 0.
    """

    def __init__(self, name: str, window: int = 100, threshold: float = 0.01) -> None:
        self.name, self.window, self.threshold = name, window, threshold
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._warned: set[str] = set()

    def update(self, kl_per_dim: Mapping[str, float]) -> None:
        """Take the values of one update.

        kl_per_dim (Mapping[str, float]): Nats per dimension by term; a modality that did not occur in the
            batch is not in it.
        """
        for term, value in kl_per_dim.items():
            self._sums[term] = self._sums.get(term, 0.0) + value
            self._counts[term] = self._counts.get(term, 0) + 1
            if self._counts[term] == self.window:
                self._finish_window(term, self._sums.pop(term) / self._counts.pop(term))

    def _finish_window(self, term: str, mean: float) -> None:
        modality = MODALITIES[term]
        logger.info(
            "%s: KL per dimension of the %s posterior, mean of %d updates: %.4f nats",
            self.name,
            modality,
            self.window,
            mean,
        )
        if mean < self.threshold and term not in self._warned:
            self._warned.add(term)
            beta = "beta1" if term == "kl_text" else "beta2"
            warn(
                f"{self.name}: the {modality} posterior has collapsed onto the prior (KL {mean:.4f} nats per "
                f"dimension, mean of {self.window} updates), so the {modality} no longer reaches the "
                f"prediction. Lower {beta}, warm it up with spacy-mmib.warmup.v1, or start from a "
                "pretrained encoder."
            )
