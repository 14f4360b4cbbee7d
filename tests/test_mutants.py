"""``scripts/mutants``: that every mutant still fits the sources, and that a handful of them is caught.

The whole table is for a person with a quarter of an hour: scripts/README.md.
"""

from __future__ import annotations

import ast
import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from conformance.cases import load
from conformance.model import Role, select

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))  # mutation is a script: no part of the program, nor of the suite

from mutation import __main__ as mutants  # noqa: E402 - found by the line above
from mutation import config, history, session, transport  # noqa: E402
from mutation.catalogue import MUTANTS  # noqa: E402
from mutation.model import Mutant  # noqa: E402

load()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_every_mutant_still_applies_once_and_is_a_program(mutant: Mutant) -> None:
    ast.parse(mutant.mutated())


def test_there_are_enough_mutants_of_both_roles_and_each_names_cases_that_exist() -> None:
    assert len({mutant.id for mutant in MUTANTS}) == len(MUTANTS) >= 60
    for role in Role:
        ids = [case.id for case in select(role)]
        ours = [mutant for mutant in MUTANTS if mutant.role == role.value]
        assert len(ours) >= 40
        for mutant in ours:
            for glob in mutant.likely:
                assert any(fnmatchcase(id, glob) for id in ids), (mutant.id, glob)


def test_the_page_counts_them_as_they_are() -> None:
    page = (ROOT / "scripts/README.md").read_text()
    for area in (transport, session, history, config):
        as_hub = sum(mutant.role == "hub" for mutant in area.MUTANTS)
        row = f"| `{area.__name__.rpartition('.')[2]}` | {as_hub} | {len(area.MUTANTS) - as_hub} |"
        assert row in page, row
    assert f"That is {len(MUTANTS)}, " in page


def test_a_handful_of_mutants_is_caught_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("kem-id", "pair-expired", "map-modno", "answer-any")
    only = [word for id in chosen for word in ("--only", id)]
    assert mutants.main([*only, "--quick", "--patience", "15", "--no-control", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in rows} == {*chosen}
    assert all(row["outcome"] == "caught" and row["by"] and not row["weak"] for row in rows)


HARMLESS = "# nothing that anybody could see"


def mutant(old: str, new: str) -> Mutant:
    return Mutant("made-up", "hub", "errors.py", old, new, "for this test", ("kem/1",))


def run(monkeypatch: pytest.MonkeyPatch, one: Mutant) -> int:
    monkeypatch.setattr(mutants, "MUTANTS", (one,))
    return mutants.main(["--quick", "--no-control"])


FIRST_LINE = (ROOT / "backrest/errors.py").read_text().splitlines()[0]


def test_a_mutant_that_survives_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, mutant(FIRST_LINE, f"{HARMLESS}\n{FIRST_LINE}")) == 1
    assert "SURVIVES" in capsys.readouterr().err


def test_a_program_that_does_not_start_is_caught_by_no_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, mutant(FIRST_LINE, f"raise RuntimeError\n{FIRST_LINE}")) == 0
    said = capsys.readouterr().err
    assert "the program does not start" in said
    assert "0 of them by a named case" in said


def test_a_mutant_whose_text_is_gone_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, mutant("what was never there", "x")) == 1
    assert "mutant made-up no longer applies" in capsys.readouterr().err
