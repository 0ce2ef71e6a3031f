import pytest

from core.running.ahead import Ahead


def noted(made):
    def make(step):
        made.append(step)
        if step == 3:
            raise ValueError("step 3")
        return 10 * step

    return make


def test_what_is_made_ahead_is_what_is_made_on_the_spot():
    ahead = Ahead(noted([]), last=2)
    assert [ahead.at(step) for step in (1, 2)] == [10, 20]


def test_every_step_is_made_once_and_none_after_the_last():
    made = []
    ahead = Ahead(noted(made), last=2)
    for step in (1, 2):
        ahead.at(step)
    assert made == [1, 2]


def test_a_step_out_of_turn_is_made_on_the_spot():
    ahead = Ahead(noted([]), last=9)
    assert [ahead.at(step) for step in (1, 7, 7, 8)] == [10, 70, 70, 80]


def test_an_error_is_raised_where_its_step_is_asked_for():
    ahead = Ahead(noted([]), last=9)
    assert ahead.at(2) == 20
    with pytest.raises(ValueError, match="step 3"):
        ahead.at(3)
