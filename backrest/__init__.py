"""Backrest: see and steer the restic backups of many machines from one place."""

__version__ = "0.1.0"
