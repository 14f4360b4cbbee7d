"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No example may fail because the machine was busy: time is never what a test asserts.
settings.register_profile("backrest", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("backrest")
