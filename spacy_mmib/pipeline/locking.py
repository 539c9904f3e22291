"""A lock around transformers of spacy-transformers, whose predictions threads disturb.

Its layer switches the one network that all threads use to evaluation mode before a prediction and to
training mode after it, so that another thread's prediction goes on with dropout; and Hugging Face's fast
tokenizers raise "Already borrowed" where two threads set them up at once.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

from spacy.language import Language
from thinc.api import Model


class OneAtATime:
    """A layer's forward function, which one thread at a time may be in. Copies and pickles, and processes
    that were forked, have a lock of their own.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return OneAtATime, (self.function,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """RETURNS (Any): What the function returns."""
        if self._pid != os.getpid():  # a thread of the parent may have held it
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            return self.function(*args, **kwargs)


def lock_transformers(nlp: Language, *models: Model[Any, Any]) -> None:
    """Let one thread at a time run each transformer of a pipeline, a component or inside one. A lock that is
    there already stays.

    models (Model): Of components that will be added to it.
    """
    of_components = (getattr(component, "model", None) for _, component in nlp.components)
    for model in (*of_components, *models):
        for node in model.walk() if isinstance(model, Model) else ():
            # TransformerModel, without importing spacy-transformers, which imports torch.
            if "set_transformer" in node.attrs and not isinstance(node._func, OneAtATime):
                node._func = OneAtATime(node._func)
