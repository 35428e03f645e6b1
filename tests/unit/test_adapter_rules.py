"""What a UNet call adds to which rows."""

from hypothesis import given
from hypothesis import strategies as st

from difs.actors.adapter_rules import Use, uses
from difs.messages import Adapter

A, B = Adapter("a", 0.5), Adapter("b", 1.0)

ROWS = st.lists(
    st.lists(
        st.builds(Adapter, st.sampled_from("abc"), st.sampled_from([-1.0, 0.0, 0.5, 1.0])), max_size=3
    )
)


def test_without_adapters_nothing_is_added() -> None:
    assert uses([]) == uses([(), ()]) == ()


def test_one_set_for_all_rows_names_no_rows() -> None:
    assert uses([(A, B)] * 3) == (Use("a", (0.5,), None), Use("b", (1.0,), None))


def test_adapters_come_in_the_order_of_their_naming() -> None:
    assert [use.name for use in uses([(B, A), (A, B)])] == ["b", "a"]


def test_a_mixed_batch_names_each_adapter_s_rows() -> None:
    assert uses([(A,), (), (B,), (A, B)]) == (
        Use("a", (0.5, 0.5), (0, 3)),
        Use("b", (1.0, 1.0), (2, 3)),
    )


def test_a_row_has_its_own_weight() -> None:
    assert uses([(A,), (Adapter("a", -2.0),)]) == (Use("a", (0.5, -2.0), (0, 1)),)


def test_weight_0_adds_nothing() -> None:
    assert uses([(Adapter("a", 0.0),), (A,)]) == (Use("a", (0.5,), (1,)),)
    assert uses([(Adapter("a", 0.0),)]) == ()


def test_an_adapter_named_twice_has_the_sum() -> None:
    assert uses([(A, A)]) == (Use("a", (1.0,), None),)
    assert uses([(A, Adapter("a", -0.5))]) == ()


@given(ROWS)
def test_every_row_gets_what_it_names_and_no_more(rows: list[list[Adapter]]) -> None:
    got: list[dict[str, float]] = [{} for _ in rows]
    for use in uses(rows):
        on = range(len(rows)) if use.rows is None else use.rows
        weights = use.weights * len(rows) if use.rows is None else use.weights
        for row, weight in zip(on, weights, strict=True):
            got[row][use.name] = weight
    for row, adapters in enumerate(rows):
        sums = {a.name: sum(b.weight for b in adapters if b.name == a.name) for a in adapters}
        assert got[row] == {name: weight for name, weight in sums.items() if weight}
