"""What a flood may cost, and what it may never hide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle_eye.probes.flood import ALIKE_PER_WINDOW, Admission, Bucket, Seen


def keys(values) -> np.ndarray:
    return np.array(values, np.uint64)


def sort(admission: Admission, texts, *, templates=None, urgent=()):
    errors = np.isin(np.arange(len(texts)), list(urgent))
    admitted, repeated = admission.sort(keys(texts), keys(texts if templates is None else templates), errors)
    return admitted.tolist(), repeated.tolist()


@pytest.fixture
def admission() -> Admission:
    made = Admission(rate=10, burst=40)
    made.start_round(1)
    return made


@given(batches=st.lists(st.lists(st.integers(0, 5), max_size=20), max_size=8))
def test_rank_counts_equal_keys_in_order_over_all_batches(batches):
    seen, counts = Seen(), {}
    for batch in batches:
        expected = []
        for key in batch:
            expected.append(counts.get(key, 0))
            counts[key] = expected[-1] + 1
        assert seen.rank(keys(batch)).tolist() == expected


def test_seen_forgets_rather_than_grow():
    seen = Seen()
    for start in range(0, 100_000, 1000):
        seen.rank(keys(range(start, start + 1000)))
    assert len(seen._keys) <= 4096


@given(steps=st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 50)), max_size=30))
def test_a_bucket_never_gives_more_than_rate_and_burst_allow(steps):
    bucket, now_ns, granted = Bucket(rate=5, burst=20), 0, 0
    for elapsed_ns, wanted in steps:
        now_ns += elapsed_ns
        bucket.refill(now_ns)
        granted += bucket.take(wanted)
        assert granted <= 20 + 5 * now_ns / 1e9 + 1e-6


def test_a_clock_that_steps_back_gives_nothing_away():
    bucket = Bucket(rate=1000, burst=10)
    bucket.refill(10**9)
    assert bucket.take(10) == 10
    bucket.refill(0)
    assert bucket.take(10) == 0


def test_ordinary_lines_all_pass(admission):
    assert sort(admission, range(30)) == (list(range(30)), [])


def test_the_same_text_is_repeated_from_the_eleventh_on(admission):
    admitted, repeated = sort(admission, [7] * 25)
    assert admitted == list(range(ALIKE_PER_WINDOW))
    assert repeated == list(range(ALIKE_PER_WINDOW, 25))


def test_after_a_window_the_text_passes_again(admission):
    sort(admission, [7] * 25)
    assert not admission.start_round(900_000_000)
    assert admission.start_round(1_100_000_000)
    assert sort(admission, [7]) == ([0], [])


def test_a_flood_of_one_template_leaves_half_a_bucket_for_the_others(admission):
    admitted, repeated = sort(admission, range(200), templates=[1] * 200)
    assert (len(admitted), repeated) == (20, [])
    assert sort(admission, [500, 501]) == ([0, 1], [])


def test_errors_pass_when_the_ordinary_bucket_is_empty(admission):
    assert len(sort(admission, range(100))[0]) == 40
    assert sort(admission, [200, 201, 202], urgent=[1]) == ([1], [])


def test_a_flood_of_errors_leaves_the_ordinary_bucket_alone(admission):
    sort(admission, range(100), urgent=range(100))
    assert sort(admission, [200]) == ([0], [])


def test_nothing_in_nothing_out(admission):
    assert sort(admission, []) == ([], [])
