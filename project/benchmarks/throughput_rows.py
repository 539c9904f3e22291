"""What the benchmark measures: a row loads its model, makes new input, and is timed processing that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from spacy.util import registry
from thinc.util import get_torch_default_device
from torch import nn

from project.benchmarks.generated_posts import N_OBJECTS, Post
from project.benchmarks.released_procedure import BATCH_SIZE, ReleasedModel
from project.benchmarks.throughput_models import Files, Sizes, load, make_doc, make_examples


@dataclass(frozen=True)
class Setting:
    """What all rows have in common.

    files (Files): Models.
    sizes (Sizes): Of the models.
    batch_size (int): Posts that `nlp.pipe` takes at a time.
    """

    files: Files
    sizes: Sizes
    batch_size: int


class Row:
    """Something to be measured.

    setting (Setting): See there.
    """

    trains = False

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def load(self) -> None:
        """Load the model."""
        raise NotImplementedError

    def fill(self, posts: Sequence[Post]) -> None:
        """Do once what later runs rely on."""

    def make_input(self, posts: Sequence[Post]) -> Any:
        """RETURNS (Any): New input for `run`, which nothing has been computed for."""
        raise NotImplementedError

    def run(self, data: Any) -> Any:
        """Process it. This is what is timed.

        RETURNS (Any): What was found for each post, if anything is.
        """
        raise NotImplementedError

    def get_parts(self) -> dict[str, nn.Module]:
        """RETURNS (Dict[str, nn.Module]): The torch modules whose share of the time is of interest."""
        raise NotImplementedError


class Released(Row):
    """The released procedure, at prediction.

    autocast (Optional[str]): Precision.
    """

    def __init__(self, setting: Setting, autocast: str | None = None) -> None:
        super().__init__(setting)
        self.autocast = None if autocast is None else getattr(torch, autocast)

    def load(self) -> None:
        """See `Row`."""
        sizes, files = self.setting.sizes, self.setting.files
        torch.manual_seed(0)
        self.model = ReleasedModel(files.bert, sizes.arch, files.weights, sizes.heads)
        self.device = get_torch_default_device()
        self.model.to(self.device)

    def make_input(self, posts: Sequence[Post]) -> Any:
        """See `Row`."""
        return posts

    def run(self, data: Any) -> Any:
        """See `Row`."""
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return list(self.model.predict(data))

    def get_parts(self) -> dict[str, nn.Module]:
        """See `Row`."""
        model = self.model
        return {"bert": model.bert, "resnet": model.resnet, "core": model.core}


class ReleasedTraining(Released):
    """The released procedure, in training."""

    trains = True

    def load(self) -> None:
        """See `Row`."""
        super().load()
        self.optimizer = self.model.make_optimizer()

    def run(self, data: Any) -> None:
        """See `Row`."""
        for start in range(0, len(data), BATCH_SIZE):
            self.model.train_step(data[start : start + BATCH_SIZE], self.optimizer)


class Ours(Row):
    """mmib_ner, or spaCy's ner.

    encoder (Optional[Dict[str, Any]]): Settings of the picture encoder.
    component (str): "mmib_ner" or "ner".
    pictures (bool): Whether posts have pictures.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        encoder: dict[str, Any] | None = None,
        component: str = "mmib_ner",
        pictures: bool = True,
    ) -> None:
        super().__init__(setting)
        self.encoder = encoder
        self.component = component
        self.pictures = pictures

    def load(self) -> None:
        """See `Row`."""
        self.nlp = load(self.setting.files, self.component, self.encoder)

    def fill(self, posts: Sequence[Post]) -> None:
        """Put the vectors of all pictures into the cache, if there is one."""
        if (self.encoder or {}).get("cache"):
            model = self.nlp.get_pipe(self.component).model
            model.get_ref("img2vec").predict([make_doc(self.nlp, post) for post in posts])

    def make_input(self, posts: Sequence[Post]) -> Any:
        """See `Row`."""
        return [make_doc(self.nlp, post, picture=self.pictures) for post in posts]

    def run(self, data: Any) -> Any:
        """See `Row`."""
        return [
            [(ent.start, ent.end, ent.label_) for ent in doc.ents]
            for doc in self.nlp.pipe(data, batch_size=self.setting.batch_size)
        ]

    def get_parts(self) -> dict[str, nn.Module]:
        """See `Row`."""
        parts = {"bert": _get_module(self.nlp.get_pipe("transformer").model.layers[0])}
        if self.component == "mmib_ner":
            model = self.nlp.get_pipe(self.component).model
            for part, layer in (
                ("resnet", model.get_ref("img2vec").layers[0]),
                ("core", model.get_ref("core")),
                ("head", model.get_ref("head")),
            ):
                parts[part] = _get_module(layer)
        return parts


class OurTraining(Ours):
    """mmib_ner in training, with the encoder of texts."""

    trains = True

    def load(self) -> None:
        """See `Row`."""
        super().load()
        # The shipped config's: Adam with weight decay, like the released code's, and batches of as many
        # posts, but of similar length.
        training = self.nlp.config.interpolate()["training"]
        settings = {"optimizer": training["optimizer"], "batcher": training["batcher"]}
        assert settings["batcher"]["size"] == BATCH_SIZE
        resolved = registry.resolve(settings)
        self.optimizer, self.batcher = resolved["optimizer"], resolved["batcher"]

    def make_input(self, posts: Sequence[Post]) -> Any:
        """See `Row`."""
        return make_examples(self.nlp, list(posts), pictures=self.pictures)

    def run(self, data: Any) -> None:
        """See `Row`."""
        for batch in self.batcher(data):
            self.nlp.update(batch, sgd=self.optimizer, drop=0.1, losses={})


def _get_module(layer: Any) -> nn.Module:
    module: nn.Module = layer.shims[0]._model
    return module


def get_encoders(setting: Setting) -> dict[str, dict[str, Any]]:
    """RETURNS (Dict[str, Dict[str, Any]]): Settings of the picture encoder, by the name of the row."""
    given = {"get_regions": {"@region_getters": "spacy-mmib.given.v1"}, "max_regions": N_OBJECTS}
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(setting.files.cache)}
    return {
        "exact": {**given, "region_features": "crop"},
        "roi": {**given, "region_features": "roi"},
        "cached": {**given, "region_features": "crop", "cache": cache},
    }


def make_rows(setting: Setting, *, gpu: bool) -> dict[str, Callable[[], Row]]:
    """RETURNS (Dict[str, Callable[[], Row]]): How to make each row. On a GPU those in half precision too."""
    encoders = get_encoders(setting)
    rows: dict[str, Callable[[], Row]] = {
        "released": lambda: Released(setting),
        "ours_exact": lambda: Ours(setting, encoder=encoders["exact"]),
        "ours_roi": lambda: Ours(setting, encoder=encoders["roi"]),
        "ours_cached": lambda: Ours(setting, encoder=encoders["cached"]),
        "train_released": lambda: ReleasedTraining(setting),
        "train_cached": lambda: OurTraining(setting, encoder=encoders["cached"]),
        "text_ours": lambda: Ours(setting, pictures=False),
        "text_ner": lambda: Ours(setting, component="ner", pictures=False),
    }
    if gpu:
        half = {"autocast": "bfloat16"}
        rows["released_bf16"] = lambda: Released(setting, autocast="bfloat16")
        rows["ours_exact_bf16"] = lambda: Ours(setting, encoder={**encoders["exact"], **half})
        rows["ours_roi_bf16"] = lambda: Ours(setting, encoder={**encoders["roi"], **half})
    return rows
