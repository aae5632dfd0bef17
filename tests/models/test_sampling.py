"""Sampling: ratios, padding with negatives, empty slots, randomness."""

import torch

from fastrpn.models.sampling import sample


def masks(positives, negatives, rows):
    """One image whose first rows are positive, whose next are negative, the rest neither."""
    row = torch.arange(rows)
    positive = row < positives
    return positive[None], (~positive & (row < positives + negatives))[None]


def counts(samples):
    filled = samples.weights > 0
    return int((samples.positive & filled).sum()), int((~samples.positive & filled).sum())


def check(samples, positive, negative):
    filled = samples.weights > 0
    assert positive.gather(1, samples.indices)[samples.positive].all()
    assert negative.gather(1, samples.indices)[filled & ~samples.positive].all()
    drawn = samples.indices[filled]
    assert len(drawn.unique()) == len(drawn)


def test_at_most_one_to_one_and_padded_with_negatives():
    for positives, negatives, expected in [
        (300, 9000, (128, 128)),  # enough of both
        (10, 9000, (10, 246)),  # negatives fill up
        (300, 50, (128, 50)),  # positives never exceed their share
        (0, 9000, (0, 256)),
        (5, 0, (5, 0)),
        (0, 0, (0, 0)),
    ]:
        positive, negative = masks(positives, negatives, 10_000)
        samples = sample(positive, negative, 256, 0.5)
        assert samples.indices.shape == (1, 256)
        assert counts(samples) == expected
        check(samples, positive, negative)


def test_images_are_independent():
    first, second = masks(40, 100, 200), masks(3, 10, 200)
    positive, negative = (torch.cat(pair) for pair in zip(first, second, strict=True))
    samples = sample(positive, negative, 128, 0.25)
    assert samples.positive.sum(1).tolist() == [32, 3]
    assert samples.weights.sum(1).tolist() == [128.0, 13.0]


def test_fewer_rows_than_slots():
    samples = sample(*masks(2, 3, 5), 256, 0.5)
    assert samples.indices.shape == (1, 5)
    assert counts(samples) == (2, 3)


def test_no_positives_wanted():
    samples = sample(*masks(5, 5, 20), 4, 0.0)
    assert counts(samples) == (0, 4)


def test_the_draw_is_uniform_and_follows_the_seed():
    positive, negative = masks(10, 90, 100)
    torch.manual_seed(0)
    drawn = torch.zeros(100)
    for _ in range(400):
        samples = sample(positive, negative, 10, 0.5)
        drawn[samples.indices[0]] += 1
    assert drawn[:10].min() > 150 and drawn[:10].max() < 250  # 200 expected
    assert drawn[10:].min() > 5 and drawn[10:].max() < 45  # 22 expected
    torch.manual_seed(7)
    first = sample(positive, negative, 10, 0.5).indices
    torch.manual_seed(7)
    assert torch.equal(first, sample(positive, negative, 10, 0.5).indices)
