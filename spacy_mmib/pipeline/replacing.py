"""`nlp.replace_listeners` where a component listens to two others: for its text, and for its pictures."""

from collections.abc import Iterable
from typing import Any

from spacy import ty
from spacy.language import Language
from thinc.api import Model

from ..util import logger
from .base import MMIBPipe


def replace_listeners_by_path(nlp: Language) -> None:
    """Let `nlp.replace_listeners`, and with it the setting `replace_listeners` of a sourced component,
    replace each path by a copy of the component that it listens to.

    For that setting spaCy calls the method with *all* paths for *each* component that is listened to. With
    two of them both would write their settings to the same section of the config, and to the wrong one if
    there is but one path; a pipeline saved afterwards couldn't be loaded. spaCy has no hook for this, so the
    method of this one object is replaced.
    """
    if not isinstance(nlp.__dict__.get("replace_listeners"), ReplaceListeners):
        nlp.__dict__["replace_listeners"] = ReplaceListeners(nlp)


class ReplaceListeners:
    """Takes the place of the method `replace_listeners` of a pipeline."""

    def __init__(self, nlp: Language) -> None:
        self._nlp = nlp
        self._replaced: set[tuple[str, str]] = set()

    def __call__(self, tok2vec_name: str, pipe_name: str, listeners: Iterable[str]) -> None:
        """Replace listeners by copies of the component `tok2vec_name`. Paths of those that listen to another
        one are left to a call with its name.

        RAISES (ValueError): A path where nothing listens to any component.
        """
        paths = list(listeners)
        pipe = self._nlp.get_pipe(pipe_name) if pipe_name in self._nlp.pipe_names else None
        if isinstance(pipe, MMIBPipe) and tok2vec_name in self._nlp.pipe_names:
            found = [p for p in paths if self._listens(pipe_name, pipe.model, p, tok2vec_name)]
            if paths and not found:
                message = "Nothing that replace_listeners is to replace in %r listens to %r"
                logger.info(message, pipe_name, tok2vec_name)
                return
            paths = found
        Language.replace_listeners(self._nlp, tok2vec_name, pipe_name, paths)
        self._replaced.update((pipe_name, path) for path in paths)

    def _listens(self, pipe_name: str, model: Model[Any, Any], path: str, tok2vec_name: str) -> bool:
        """RETURNS (bool): Whether what is at a path listens to this component, and not to another one. The
        path is like "model.img2vec", or goes further into that layer.
        """
        section, ref, *_ = [*path.split("."), ""]
        nodes = list(model.get_ref(ref).walk()) if section == "model" and model.has_ref(ref) else []
        upstream = {
            name
            for name, component in self._nlp.pipeline
            if isinstance(component, ty.ListenedToComponent)
            for listener in component.listener_map.get(pipe_name, ())
            if any(node is listener for node in nodes)
        }
        if not upstream and (pipe_name, path) not in self._replaced:
            raise ValueError(
                f"replace_listeners of {pipe_name!r}: its {path!r} listens to no component, so there is "
                "nothing to replace; leave that path out."
            )
        return tok2vec_name in upstream
