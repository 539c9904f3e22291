"""Scorers, and what is measured of a trained pipeline or a corpus."""

import importlib


class EvaluationError(ValueError):
    """What was asked for can't be measured; the message says why and what to do."""


class MissingExtraError(ImportError):
    """A library is not installed; the message names the extra of spacy-mmib that installs it."""


def require(what: str, needed: str, extra: str, *modules: str) -> None:
    """RAISES (MissingExtraError): A module of the libraries that `what` needs can't be imported."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as err:
        raise MissingExtraError(
            f"{what} needs {needed}, which can't be imported ({err}). Install it with: "
            f'pip install "spacy-mmib[{extra}]"'
        ) from err
