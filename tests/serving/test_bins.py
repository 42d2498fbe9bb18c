import math
import threading

from hypothesis import given
from hypothesis import strategies as st

from serving.bins import NOTHING, Bins

BOUNDS = (0.1, 1.0, 10.0)


@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from([*BOUNDS, NOTHING])), max_size=600))
def test_each_value_is_in_its_buckets_once(values: list[float]) -> None:
    bins = Bins([BOUNDS, BOUNDS])
    for value in values:
        bins.add((value, NOTHING))
    found, empty = bins.read()
    there = [value for value in values if not math.isnan(value)]
    assert found.counts == [*(sum(value <= bound for value in there) for bound in BOUNDS), len(there)]
    assert math.isclose(found.total, sum(there), abs_tol=1e-9)
    assert (empty.counts, empty.total) == ([0, 0, 0, 0], 0.0)
    assert bins.read()[0] == found


def test_no_value_is_lost_between_threads() -> None:
    bins = Bins([BOUNDS])
    threads = [threading.Thread(target=lambda: [bins.add((0.5,)) for _ in range(3000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        bins.read()
    assert bins.read()[0].counts == [0, 12000, 12000, 12000]
