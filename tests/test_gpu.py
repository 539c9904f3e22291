"""On a GPU: training, mixed precision, and the CPU's predictions within tolerance."""

import numpy
import pytest
import spacy
from conftest import MODEL, entities, make_examples, new_docs, train
from thinc.api import require_cpu, require_gpu

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _gpu():
    require_gpu(0)
    yield
    require_cpu()


def make_gpu_nlp(mixed_precision: bool):
    nlp = spacy.blank("en")
    img2vec = {**MODEL["img2vec"], "mixed_precision": mixed_precision}
    model = {**MODEL, "img2vec": img2vec, "mixed_precision": mixed_precision}
    nlp.add_pipe("mmib_ner", config={"model": model, "beta1": 0.01, "beta2": 0.01})
    return nlp


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_trains_on_gpu_and_predicts_the_same_on_cpu(mixed_precision, tmp_path):
    nlp = make_gpu_nlp(mixed_precision)
    train(nlp, make_examples(nlp), steps=100)
    assert nlp.evaluate(make_examples(nlp))["ents_f"] == 1.0
    core = nlp.get_pipe("mmib_ner").model.get_ref("core").shims[0]._model
    assert next(core.parameters()).is_cuda
    expected = entities(nlp.pipe(new_docs(nlp)))
    nlp.to_disk(tmp_path)
    require_cpu()
    on_cpu = entities(spacy.load(tmp_path).pipe(new_docs(nlp)))
    for a, b in zip(expected, on_cpu):
        assert [x[:2] for x in a] == [x[:2] for x in b]
        tolerance = 0.05 if mixed_precision else 1e-3
        numpy.testing.assert_allclose([x[2] for x in a], [x[2] for x in b], atol=tolerance)
