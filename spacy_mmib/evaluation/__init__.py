"""Scorers, and what is measured of a trained pipeline or a corpus."""


class EvaluationError(ValueError):
    """What was asked for can't be measured; the message says why and what to do."""


class MissingExtraError(ImportError):
    """A library is not installed; the message names the extra that installs it.

    what (str): What needs it.
    needed (str): The library.
    extra (str): The extra of spacy-mmib.
    err (ImportError): What was raised at its import.
    """

    def __init__(self, what: str, needed: str, extra: str, err: ImportError) -> None:
        super().__init__(
            f"{what} needs {needed}, which can't be imported ({err}). Install it with: "
            f'pip install "spacy-mmib[{extra}]"'
        )
