"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["sync_world"]  # its fixtures: instances in one process

# No example may fail because the machine was busy: time is never what a test asserts.
settings.register_profile("backrest", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("backrest")

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

if os.environ.get("CI") == "true":

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
        return _not_skipped((yield))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        return _not_skipped((yield))


def _not_skipped(report: Report) -> Report:
    """With CI=true a skip is a failure: what is missing there would be missed for ever."""
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which must not happen with CI=true: {report.longrepr}"
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--hostile-sessions",
        type=int,
        default=300,
        help="sessions of a random hostile peer, for each role; 10000 is the full run (with --timeout 0)",
    )
    parser.addoption(
        "--made-up-repos", type=int, default=1000, help="repositories of a hostile hub; 10000 is the full run"
    )
    parser.addoption("--hostile-seed", default="1", help="another seed is another run")
