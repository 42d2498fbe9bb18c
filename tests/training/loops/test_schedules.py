"""Learning rates that change with the step, beside their formulas."""

import math

import pytest
import tensorflow as tf

from training.loops.schedules import RestartedCosine, warm_cosine


def formula(rate: float, steps: int, step: int) -> float:
    rise = steps // 20
    if step < rise:
        return rate * (1 / 20 + (1 - 1 / 20) * step / rise)
    return rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / steps))


@pytest.mark.parametrize("step", [0, 1, 9, 10, 11, 105, 199])
def test_a_rise_and_half_a_cosine(step: int) -> None:
    assert float(warm_cosine(3e-3, 200)(step)) == pytest.approx(formula(3e-3, 200, step), rel=1e-5)


@pytest.mark.parametrize("step", [0, 10, 100, 199, 200, 201, 205, 250, 299])
def test_the_second_cosine_begins_where_the_first_ends(step: int) -> None:
    expected = formula(3e-3, 200, step) if step < 200 else formula(1e-3, 100, step - 200)
    assert float(RestartedCosine(3e-3, 200, 1e-3, 100)(tf.constant(step))) == pytest.approx(expected, rel=1e-5)


def test_without_a_second_one_it_is_the_first() -> None:
    one, same = warm_cosine(3e-3, 200), RestartedCosine(3e-3, 200, 1e-3, 0)
    assert [float(one(step)) for step in range(0, 200, 17)] == [float(same(step)) for step in range(0, 200, 17)]


def test_the_schedule_can_be_built_from_its_config() -> None:
    schedule = RestartedCosine(3e-3, 200, 1e-3, 100)
    again = RestartedCosine.from_config(schedule.get_config())
    assert float(again(250)) == float(schedule(250))
