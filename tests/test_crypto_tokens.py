"""Pairing tokens: the last # and the first :, one clear sentence for the rest, no secret shown."""

from __future__ import annotations

import subprocess
import sys

import pytest
from crypto_vectors import load, untimed
from hypothesis import given
from hypothesis import strategies as st

from backrest.crypto.tokens import PairingToken, new_secret, same_secret

TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(lambda t: t.strip() == t)


@pytest.mark.parametrize("capture", ["hub-session.json", "client-session.json"])
def test_captured_token_reads_and_prints_the_same(capture: str) -> None:
    text = load(f"captures/{capture}")["token"]
    token = PairingToken.parse(text)
    assert token.keyid.startswith("ed25519.")
    assert len(token.secret) == 64
    assert token.instance_id in ("hub", "scripted-hub")
    assert str(token) == token.format() == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("k:s#i", ("k", "s", "i")),
        ("k:s#t#i", ("k", "s#t", "i")),
        ("k:s:t#i", ("k", "s:t", "i")),
        ("k:s#i:j", ("k", "s", "i:j")),
        ("k#l:s#i", ("k#l", "s", "i")),
        ("  k:s#büro 2\n", ("k", "s", "büro 2")),
    ],
)
def test_instance_follows_the_last_hash_and_key_id_ends_at_the_first_colon(
    text: str, parts: tuple[str, str, str]
) -> None:
    token = PairingToken.parse(text)
    assert (token.keyid, token.secret, token.instance_id) == parts


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no '#'"),
        ("  ", "no '#'"),
        ("keyid:hush", "no '#'"),
        ("hush#i", "no ':'"),
        ("hush#i:j", "no ':'"),
        (":hush#i", "key id is empty"),
        ("k:#i", "secret is empty"),
        ("k:hush#", "instance id is empty"),
        ("k:hu\nsh#i", "one line"),
        ("k:hush#i\x00j", "one line"),
    ],
)
def test_bad_token_is_one_sentence_without_the_secret(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        PairingToken.parse(text)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


@untimed
@given(keyid=TEXT.filter(lambda t: ":" not in t), secret=TEXT, instance=TEXT.filter(lambda t: "#" not in t))
def test_any_token_survives_printing_and_parsing(keyid: str, secret: str, instance: str) -> None:
    token = PairingToken(keyid, secret, instance)
    assert PairingToken.parse(str(token)) == token


@untimed
@given(st.text())
def test_any_text_is_a_token_or_a_value_error(text: str) -> None:
    try:
        token = PairingToken.parse(text)
    except ValueError:
        return
    assert token.format() == text.strip()


def test_secret_is_not_in_the_repr() -> None:
    token = PairingToken("k", new_secret(), "i")
    assert token.secret not in repr(token)
    assert repr(token) == "PairingToken(keyid='k', instance_id='i')"


def test_new_secret_is_64_hex_digits_and_never_the_same() -> None:
    made = {new_secret() for _ in range(50)}
    assert len(made) == 50
    assert all(len(bytes.fromhex(secret)) == 32 and secret == secret.lower() for secret in made)


def test_same_secret_compares_all_of_it_and_an_empty_one_equals_nothing() -> None:
    secret = new_secret()
    assert same_secret(secret, secret)
    assert not same_secret(secret, secret[:-1])
    assert not same_secret(secret, secret.upper() + "x")
    assert same_secret("schlüssel", "schlüssel")
    assert not same_secret("\ud800", "x")
    assert not same_secret("", "")


def test_reading_a_token_loads_no_cryptography() -> None:
    program = (
        "import sys, backrest.crypto.tokens as t; t.PairingToken.parse('k:s#i');"
        "sys.exit(any(m.split('.')[0] in ('cryptography', 'pqcrypto', 'google') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
