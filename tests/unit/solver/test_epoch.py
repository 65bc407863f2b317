"""The one time of a reproducible result."""

import pytest

from filesync.errors import UsageError
from solver.client.outputs.epoch import YEAR_10000_S, config_at, oci_time, parse_epoch


def test_a_time_is_whole_seconds_or_nothing() -> None:
    assert parse_epoch("", "E") is None
    assert parse_epoch("1700000000", "E") == 1_700_000_000
    for text in ("yesterday", "-1", "1.5", str(YEAR_10000_S)):
        with pytest.raises(UsageError, match=r"E=.*: give whole seconds since 1970"):
            parse_epoch(text, "E")


def test_nothing_in_a_configuration_is_younger_than_its_time() -> None:
    old, young = "2001-01-01T00:00:00Z", "2030-01-01T00:00:00.123456789Z"
    history = [{"created": old}, {"created": young}, {"created_by": "RUN"}, {"created": "?"}]
    config = {"created": young, "history": history, "os": "linux"}
    at = oci_time(1_000_000_000)
    assert config_at(config, 1_000_000_000) == {
        "created": at,
        "history": [
            {"created": old},
            {"created": at},
            {"created_by": "RUN", "created": at},
            {"created": at},
        ],
        "os": "linux",
    }
    assert config_at(config, None) == config
    assert history[1] == {"created": young}, "what was given is left alone"
