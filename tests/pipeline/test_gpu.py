"""On a GPU: training, mixed precision, and the CPU's predictions within tolerance."""

import copy

import numpy
import pytest
import spacy
import torch
from conftest import (
    MODEL,
    entities,
    make_examples,
    make_rel_examples,
    make_rel_nlp,
    new_docs,
    relations,
    train,
)
from spacy.util import registry
from thinc.api import get_current_ops, require_cpu, require_gpu

from spacy_mmib.bridge.shim import Shim, fetch

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _gpu():
    require_gpu(0)
    yield
    require_cpu()


def make_gpu_nlp(autocast: str | None):
    nlp = spacy.blank("en")
    half = {"mixed_precision": True} if autocast == "float16" else {"autocast": autocast}
    img2vec = {**MODEL["img2vec"], **half}
    model = {**MODEL, "img2vec": img2vec, "autocast": autocast}
    nlp.add_pipe("mmib_ner", config={"model": model, "beta1": 0.01, "beta2": 0.01})
    return nlp


@pytest.mark.parametrize("autocast", [None, "float16", "bfloat16"])
def test_trains_on_gpu_and_predicts_the_same_on_cpu(autocast, tmp_path):
    nlp = make_gpu_nlp(autocast)
    train(nlp, make_examples(nlp), steps=100)
    assert nlp.evaluate(make_examples(nlp))["ents_f"] == 1.0
    core = nlp.get_pipe("mmib_ner").model.get_ref("fusion").shims[0]._model
    assert next(core.parameters()).is_cuda
    expected = entities(nlp.pipe(new_docs(nlp)))
    nlp.to_disk(tmp_path)
    require_cpu()
    on_cpu = entities(spacy.load(tmp_path).pipe(new_docs(nlp)))
    for a, b in zip(expected, on_cpu):
        assert [x[:2] for x in a] == [x[:2] for x in b]
        tolerance = 0.05 if autocast else 1e-3
        numpy.testing.assert_allclose([x[2] for x in a], [x[2] for x in b], atol=tolerance)


@pytest.mark.parametrize("settings", [{}, {"L2": 0.1, "grad_clip": 0.1}, {"lr_scale": {"0": 3.0}}])
def test_a_step_with_a_module_does_not_wait_for_the_gpu_and_is_that_of_the_cpu(settings):
    torch.manual_seed(0)
    on_cpu = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last))
    on_cpu.append(torch.nn.Linear(6, 5))
    on_gpu = copy.deepcopy(on_cpu).cuda()
    shims = [
        (Shim(module), registry.optimizers.get("spacy-mmib.Adam.v1")(**settings))
        for module in (on_cpu, on_gpu)
    ]
    for _ in range(20):
        for parameter, copied in zip(on_cpu.parameters(), on_gpu.parameters()):
            parameter.grad = torch.randn_like(parameter)
            copied.grad = parameter.grad.cuda()
        for shim, optimizer in shims:
            torch.cuda.set_sync_debug_mode("error")
            try:
                shim.finish_update(optimizer)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    for parameter, copied in zip(on_cpu.parameters(), on_gpu.parameters()):
        torch.testing.assert_close(copied.cpu(), parameter, rtol=1e-5, atol=1e-6)


def test_numbers_are_asked_for_without_waiting():
    arrays = [get_current_ops().asarray1f([value]) for value in (1.5, -2.0)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        wait = fetch(arrays)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert wait() == [1.5, -2.0]


@pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")
@pytest.mark.parametrize("entity_repr", ["pool", "marker"])
def test_joint_pipeline_trains_on_gpu_and_predicts_the_same_on_cpu(entity_repr, tmp_path):
    nlp = make_rel_nlp(joint=True, model={"entity_repr": entity_repr})
    train(nlp, make_rel_examples(nlp), steps=120)
    scores = nlp.evaluate(make_rel_examples(nlp))
    assert scores["ents_f"] == scores["rel_micro_f"] == 1.0
    head = nlp.get_pipe("mmib_rel").model.get_ref("head").shims[0]._model
    assert next(head.parameters()).is_cuda
    posts = lambda: [eg.predicted for eg in make_rel_examples(nlp)]
    expected = relations(nlp.pipe(posts()))
    nlp.to_disk(tmp_path)
    require_cpu()
    on_cpu = relations(spacy.load(tmp_path).pipe(posts()))
    for a, b in zip(expected, on_cpu):
        assert [x[:3] for x in a] == [x[:3] for x in b]
        numpy.testing.assert_allclose([x[3] for x in a], [x[3] for x in b], atol=1e-3)
