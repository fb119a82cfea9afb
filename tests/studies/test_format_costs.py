"""The study of formats: lossless forms are, the others do what they say, and its table comes from records alone."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from steelnb.evaluation import recorded
from studies import formats


@pytest.fixture(scope="module")
def masks():
    rng = np.random.default_rng(0)
    drawn = [gaussian_filter(rng.standard_normal((60, 90)), 2) > 0.05 for _ in range(10)]
    ring = np.zeros((60, 90), bool)
    ring[10:50, 10:50] = True
    ring[20:40, 20:40] = False
    ring[28:32, 28:32] = True  # an island in its hole
    return [*drawn, ring]


def test_lossless_forms_give_the_mask_back(masks):
    for mask in masks:
        for form in ("run-lengths", "parts and holes"):
            assert (formats.FORMS[form](mask, 0) == mask).all()


def test_what_the_others_lose(masks):
    ring = masks[-1]
    assert formats.FORMS["parts"](ring, 0).sum() == 1600
    assert formats.FORMS["one part"](ring, 0).sum() == 1600
    assert formats.dice(ring, formats.FORMS["pixel centres"](ring, 0)) < 1
    for mask in masks:
        assert (formats.FORMS["outline drawn"](mask, 0) >= mask).all()
        costs = [formats.dice(mask, formats.FORMS["parts and holes"](mask, t)) for t in (0, 1, 2)]
        assert costs == sorted(costs, reverse=True)


def test_the_table_comes_from_the_records():
    records = recorded.records("formats")
    assert len(records) == len(formats.cells())
    table = formats.summary(pd.DataFrame(records))
    assert table.startswith("Lossless: run-lengths, parts and holes 0 px.")
    assert "| one part 0 px | Severstal | 0.8076 ± 0.0124 |" in table
