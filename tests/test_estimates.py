"""Intervals of shares."""

import pytest

from monitor import estimates


def test_a_share_of_all_has_an_interval_too() -> None:
    found = estimates.share(30, 30)
    assert found.value == found.high == 1
    assert found.low == pytest.approx(0.8865, abs=1e-3)  # Wilson's: n / (n + z^2)


def test_a_share_of_nothing_is_refused_instead_of_being_called_zero() -> None:
    with pytest.raises(ValueError, match="n"):
        estimates.share(0, 0)
