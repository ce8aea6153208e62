"""Batches of one size from whatever pieces the inputs come in."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diagfim.errors import UserError
from diagfim.streams import pieces, rebatch


@given(sizes=st.lists(st.integers(0, 5), max_size=8), size=st.integers(1, 7))
def test_batches_are_the_same_however_the_pieces_came(sizes, size):
    total = sum(sizes)
    inputs, labels = torch.arange(total), torch.arange(total) + 100
    parts = zip(inputs.split(sizes), labels.split(sizes), strict=True) if sizes else ()
    found = list(rebatch(parts, size))
    assert [len(batch.inputs) for batch in found] == [
        min(size, total - start) for start in range(0, total, size)
    ]
    for batch in found:
        rows = torch.arange(batch.start, batch.start + len(batch.inputs))
        assert torch.equal(batch.inputs, rows)
        assert torch.equal(batch.labels, rows + 100)


def test_a_stream_is_read_no_further_than_needed():
    read = []

    def stream():
        for k in range(5):
            read.append(k)
            yield torch.zeros(2), None

    batches = rebatch(stream(), 2)
    next(batches)
    assert read == [0]
    assert next(batches).labels is None


def test_a_tensor_is_one_piece_and_a_pair_has_labels():
    inputs, labels = torch.zeros(3, 2), torch.zeros(3)
    assert [(len(x), y) for x, y in pieces(inputs)] == [(3, None)]
    [(x, y)] = pieces(inputs, labels)
    assert x is inputs
    assert torch.equal(y, labels)
    [(x, y)] = pieces([[inputs, labels]])
    assert torch.equal(y, labels)


@pytest.mark.parametrize(
    ("given", "labels", "message"),
    [
        (5, None, "inputs: a int is neither"),
        ([torch.zeros(2), "x"], None, "inputs: batch 1 is a str"),
        ([torch.tensor(1.0)], None, "inputs: batch 0 is a scalar tensor"),
        ([(torch.zeros(2), torch.zeros(3))], None, r"labels: shape \(3,\) beside 2 inputs"),
        ([torch.zeros(2)], torch.zeros(2), "labels: they go with a tensor of inputs"),
        (torch.zeros(2), torch.tensor(0), r"labels: shape \(\) beside 2 inputs"),
    ],
)
def test_what_is_not_a_batch_is_named(given, labels, message):
    with pytest.raises(UserError, match=message):
        list(pieces(given, labels))
