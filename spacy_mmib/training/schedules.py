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
        self.current = 0.0
        self._source: Iterable[float] | None = None
        self._schedule: Iterator[float] | None = None
        # Values taken from the schedule.
        self._step = 0
        self._lost = False
        if isinstance(value, Iterable):
            self._source = value
            self.go_to(0)
        else:
            self.current = self._check(float(value))

    def go_to(self, step: int) -> None:
        """Go to a step of a schedule: 0 to start again. A generator, as most of Thinc's schedules are, can't
        go back: it stays where it is.

        step (int): How many values have been taken before the next one.
        """
        if self._source is None:
            return
        try:
            schedule = iter(copy.deepcopy(self._source))
        except TypeError:
            schedule = iter(self._source)
        if schedule is not self._source:
            self._schedule, self._step = schedule, 0
        elif self._schedule is None:
            self._schedule = schedule
        while self._step < step:
            self.next()

    def next(self) -> float:
        """RETURNS (float): The weight of the next update."""
        if self._lost:
            self._lost = False
            warn(
                f"{self.name}: its schedule can't be copied or pickled, so in this copy of the pipeline it "
                f"stays at {self.current:g}. To go on with it, save the pipeline (nlp.to_disk) and load it "
                "(spacy.load)."
            )
        if self._source is not None and self._schedule is not None:
            self._step += 1
            self.current = self._check(float(next(self._schedule, self.current)))
        return self.current

    def _check(self, value: float) -> float:
        if not value >= 0:
            raise ValueError(f"{self.name} has to be 0 or more, not {value}.")
        return value

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if isinstance(self._source, Iterator) and not isinstance(self._source, Warmup):
            # Generators can't be pickled. A copy that predicts in another process has no use for them.
            state.update(_source=None, _schedule=None, _lost=True)
        return state
