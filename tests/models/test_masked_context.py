"""The masked context sees rows above only; contexts and targets are paired as the offsets say."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.functional import jacobian

from gradlens.models.masked_context import RowsAbove, RowsAhead, listed, masked_context


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rows_above_is_a_convolution_with_the_rest_of_its_kernel_at_zero():
    x = noise(2, 3, 6, 5)
    for strict in (False, True):
        layer = RowsAbove(3, 4, strict).double()
        kernel = torch.zeros(4, 3, 5, 3, dtype=torch.float64)  # rows i-2 … i+2
        first = 0 if strict else 1
        kernel[:, :, first : first + 2] = layer.weight.detach()
        torch.testing.assert_close(layer(x), F.conv2d(x, kernel, layer.bias, padding=(2, 1)), rtol=0, atol=1e-12)


def test_a_single_column_is_read_alone():
    x, layer = noise(2, 3, 6, 1), RowsAbove(3, 4, True, wide=False).double()
    assert layer.weight.shape == (4, 3, 2, 1)
    one = F.conv1d(F.pad(x[..., 0], (2, 0)), layer.weight[..., 0], layer.bias)[:, :, :6]
    torch.testing.assert_close(layer(x)[..., 0], one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_context_never_sees_its_own_row_or_one_below(layers, wide):
    """By perturbation and by Jacobian: row i reads rows i − layers − 1 … i − 1, no others, and does read them."""
    torch.manual_seed(layers)
    context = masked_context(3, layers, wide).double()
    x = noise(1, 3, 7, 4 if wide else 1)
    before = context(x)
    for row in range(7):
        changed = x.clone()
        changed[:, :, row] += noise(1, 3, x.shape[3], seed=row + 1)
        moved = (context(changed) - before).abs().amax((0, 1, 3))  # [rows]
        assert torch.equal(moved[: row + 1], torch.zeros(row + 1, dtype=torch.float64))
        read_by = moved[row + 1 : row + 2 + layers]
        assert (read_by > 0).all()
        assert torch.equal(moved[row + 2 + layers :], torch.zeros_like(moved[row + 2 + layers :]))
    slopes = jacobian(context, x)[0, :, :, :, 0].abs().sum((0, 2, 3, 5))  # [row of the output, row of the input]
    assert slopes.shape == (7, 7)
    reads = torch.tensor([[i - layers - 1 <= j <= i - 1 for j in range(7)] for i in range(7)])
    assert torch.equal(slopes > 0, reads)
    if wide:  # of an output in column 0, layers 1 … L look one column further each
        columns = jacobian(context, x)[0, :, 6, 0, 0].abs().sum((0, 1, 2))
        assert torch.equal(columns > 0, torch.arange(4) <= layers)


def test_pairs_are_what_the_offsets_say():
    n, c, rows, columns, skip = 2, 3, 7, 4, 1
    z = noise(n, c, rows, columns)
    plain, masked = (RowsAhead(c, 5, skip, layers).double() for layers in (0, 2))
    for head in (plain, masked):
        pairs = head(z)
        assert len(pairs) == 5
        for k, (context, targets) in enumerate(pairs, 1):
            w = head.ahead[k - 1].weight[:, :, 0, 0]
            at = 0
            for b in range(n):
                for i in range(rows - k - skip):
                    for j in range(columns):
                        own = z[b, :, i, j] if head is plain else masked.context(z)[b, :, i + 1, j]
                        torch.testing.assert_close(context[at], own, rtol=0, atol=1e-12)
                        torch.testing.assert_close(targets[at], w @ z[b, :, i + k + skip, j], rtol=0, atol=1e-12)
                        at += 1
            assert at == len(context) == len(targets)
    assert len(plain(z)[4][0]) == n * columns  # on 7 rows the fifth offset has one pair of rows


def test_a_context_knows_as_many_rows_with_masks_as_without():
    """Both contexts of a pair are of rows up to i: the prediction skips the same rows."""
    x = noise(1, 3, 7, 2)
    for layers in (0, 3):
        torch.manual_seed(0)
        head = RowsAhead(3, 2, 1, layers).double()
        slopes = jacobian(lambda z, head=head: head(z)[0][0].view(1, 5, 2, 3), x)  # contexts of 5 rows
        reads = slopes.abs().sum((0, 2, 3, 4, 5, 7))  # [context row, input row]
        assert all(reads[i, i] > 0 for i in range(5))
        assert all(torch.equal(reads[i, i + 1 :], torch.zeros(6 - i, dtype=torch.float64)) for i in range(5))


def test_listed_is_image_by_image_row_by_row():
    z = noise(2, 3, 4, 5)
    rows = [z[n, :, i, j] for n in range(2) for i in range(4) for j in range(5)]
    assert torch.equal(listed(z), torch.stack(rows))
