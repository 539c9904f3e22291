"""Loss weights that change during training."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

from thinc.api import registry

from ..util import warn


@registry.schedules("spacy-mmib.warmup.v1")
class Warmup:
    """Rises linearly from one value to another and stays there: a value a step.

    initial (float): Value of the first step.
    final (float): Value from step `steps` on.
    steps (int): Updates in between.
    """

    def __init__(self, initial: float = 0.0, final: float = 0.1, steps: int = 1000) -> None:
        self.initial, self.final, self.steps = initial, final, steps
        self.step = 0

    def __iter__(self) -> Iterator[float]:
        return self

    def __next__(self) -> float:
        share = min(1.0, self.step / self.steps) if self.steps > 0 else 1.0
        self.step += 1
        return self.initial + share * (self.final - self.initial)


class Weight:
    """A loss weight: a number, or the values of a schedule one after the other.

    value (Union[float, Iterable[float]]): In spaCy 3 schedules are iterables. Where one ends its last
        value stays.
    name (str): For messages.
    RAISES (ValueError): It is negative: a regularizer would be maximized.
    """

    def __init__(self, value: float | Iterable[float], name: str = "weight") -> None:
        self.name = name
        self._source = value if isinstance(value, Iterable) else None
        self._values: Iterator[float] | None = None
        self._step = -1  # which of them is the current one
        self._lost = False
        self._current = 0.0 if isinstance(value, Iterable) else self._check(float(value))

    def at(self, step: int) -> float:
        """RETURNS (float): The weight of an update, counted from 0. A generator, as most of Thinc's schedules
        are, can't go back to an earlier one: it stays where it is.
        """
        if self._lost:
            self._lost = False
            warn(
                f"{self.name}: its schedule can't be copied or pickled, so in this copy of the pipeline it "
                f"stays at {self._current:g}. To go on with it, save the pipeline (nlp.to_disk) and load it "
                "(spacy.load)."
            )
        if self._source is None:
            return self._current
        if self._values is None or step < self._step:
            try:
                self._values, self._step = iter(copy.deepcopy(self._source)), -1
            except TypeError:
                self._values, self._step = iter(self._source), min(step, self._step)
        while self._step < step:
            self._step += 1
            self._current = self._check(float(next(self._values, self._current)))
        return self._current

    def _check(self, value: float) -> float:
        if not value >= 0:
            raise ValueError(f"{self.name} has to be 0 or more, not {value}.")
        return value

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if isinstance(self._source, Iterator) and not isinstance(self._source, Warmup):
            # Generators can't be pickled. A copy that predicts in another process has no use for them.
            state.update(_source=None, _values=None, _lost=True)
        return state
