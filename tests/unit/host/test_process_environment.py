"""What other programs get to see of this process's environment."""

from __future__ import annotations

import pytest

from pikaforge.host import process


def test_other_programs_do_not_get_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = dict.fromkeys(("PIKAFORGE_SIGNING_KEY", "PIKAFORGE_VAULT_PASSWORD", "PIKAFORGE_A_B_TOKEN"), "CANARY")
    plain = dict.fromkeys(("PIKAFORGE_CWD", "PIKAFORGE_VAULT_USER", "PIKAFORGE_SIGNING_PASSPHRASE", "OTHER"), "kept")
    for name, value in (secret | plain).items():
        monkeypatch.setenv(name, value)
    found = process.environment({"MORE": "x"})
    assert not secret.keys() & found.keys()
    assert {name: found[name] for name in plain} == plain
    assert (found["MORE"], found["LC_ALL"]) == ("x", "C.UTF-8")


def test_what_is_given_on_top_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINE_PASSWORD", "other")
    assert process.environment({"TWINE_PASSWORD": "mine"})["TWINE_PASSWORD"] == "mine"
