"""Layout of a concatenated batch."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lungtune.layers.layout import BatchLayout, LayoutContext, derive_seed


def layout(counts: tuple[int, ...], places: tuple[int, ...] | None = None, whole: int | None = None) -> BatchLayout:
    places = tuple(range(len(counts))) if places is None else places
    whole = len(counts) if whole is None else whole
    return BatchLayout(places, counts, (None,) * len(counts), (), LayoutContext(), training=False, whole=whole)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_each_row_is_multiplied_by_its_slots_matrix(counts: list[int]) -> None:
    slots = layout(tuple(counts))
    x, matrices = torch.randn(sum(counts), 2, 3), torch.randn(len(counts), 3, 5)
    expected = torch.cat([x[rows] @ matrices[i] for i, rows in enumerate(slots.rows)])
    torch.testing.assert_close(slots.matmul(x, matrices), expected, atol=1e-5, rtol=1e-5)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_means_are_taken_slot_by_slot(counts: list[int]) -> None:
    slots = layout(tuple(counts))
    x = torch.randn(sum(counts))
    torch.testing.assert_close(slots.means(x), torch.stack([x[rows].mean() for rows in slots.rows]))


def test_equal_neighbours_form_one_group() -> None:
    groups = layout((4, 4, 8, 8, 8, 4)).groups
    assert [(g.size, g.each, g.rows) for g in groups] == [
        (2, 4, slice(0, 8)),
        (3, 8, slice(8, 32)),
        (1, 4, slice(32, 36)),
    ]


def test_pick_finds_the_slots_of_a_part_of_the_pack() -> None:
    stacked = torch.arange(5)
    assert layout((1,) * 5).pick(stacked) is stacked
    assert layout((1, 1), (2, 3), whole=5).pick(stacked).tolist() == [2, 3]
    assert layout((1, 1, 1), (0, 2, 4), whole=5).pick(stacked).tolist() == [0, 2, 4]


def test_another_layout_holds_inside_the_block_only() -> None:
    slots = layout((2, 2, 2))
    with slots.context.using(slots):
        with slots.over({0: 3, 2: 3}) as inner:
            assert slots.context.layout is inner
            assert (inner.places, inner.counts) == ((0, 2), (3, 3))
            with inner.bare():
                assert slots.context.layout is None
        assert slots.context.layout is slots
    assert slots.context.layout is None


def test_mixed_seeds_depend_on_every_number_and_on_order() -> None:
    seeds = {derive_seed(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(seeds) == 512
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(2**70, -1) == derive_seed(2**70, -1)
