"""Padding: what passes between layers of ours as one tensor."""

import numpy
import pytest
import torch

from spacy_mmib.bridge.shim import PaddedRows, pad, unpad

RNG = numpy.random.RandomState(0)
LENGTHS = (3, 0, 5, 1)


@pytest.fixture(params=[4, 0], ids=["width 4", "width 0"])
def arrays(request):
    return [RNG.normal(size=(n, request.param)).astype("float32") for n in LENGTHS]


def test_padding_is_zeros_behind_the_rows(arrays):
    padded, mask = pad(arrays, requires_grad=True)
    assert padded.requires_grad
    assert padded.is_leaf
    assert mask.tolist() == [[i < n for i in range(5)] for n in LENGTHS]
    expected = numpy.zeros((4, 5, arrays[0].shape[1]), "float32")
    for row, array in zip(expected, arrays):
        row[: len(array)] = array
    assert (padded.detach().numpy() == expected).all()


def test_posts_without_any_rows():
    padded, mask = pad([numpy.zeros((0, 4), "float32")] * 2)
    assert padded.shape == (2, 0, 4)
    assert mask.shape == (2, 0)


def test_what_was_padded_is_not_padded_again(arrays):
    """What a layer leaves in rows of padding, be it NaN, no other one sees."""
    padded, mask = pad(arrays)
    rows = unpad(padded.masked_fill(~mask.unsqueeze(-1), float("nan")), arrays)
    assert isinstance(rows, PaddedRows)
    again, again_mask = pad(rows, requires_grad=True)
    assert again.requires_grad
    assert not rows.tensor.requires_grad
    assert again.data_ptr() == rows.tensor.data_ptr()
    assert torch.equal(again, padded)
    assert torch.equal(again_mask, mask)
    assert torch.equal(unpad(padded * 2, rows).tensor, padded * 2)


def test_rows_are_arrays_of_posts(arrays):
    rows = unpad(pad(arrays)[0], arrays)
    assert len(rows) == len(arrays)
    for found in (list(rows), rows[:], [rows[i] for i in range(-4, 0)]):
        assert all((a == b).all() and a.shape == b.shape for a, b in zip(found, arrays, strict=True))
