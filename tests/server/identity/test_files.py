"""The files of users and tokens: who may read them, how they change, and what a damaged one says."""

from __future__ import annotations

import json
import os
import threading

import pytest
from identity_here import PASSWORD, hashed, with_token, with_user

from tickflight_server.errors import ConfigError
from tickflight_server.identity.rights import Roles
from tickflight_server.identity.secret_files import read_secret, write_secret
from tickflight_server.identity.tokens import SCOPES, digest, narrowed, tokens_file
from tickflight_server.identity.users import User, add_user, change_user, remove_user, users_file
from tickflight_server.metrics import Metrics
from tickflight_server.paths import Layout


@pytest.fixture
def path(tmp_path):
    return Layout(tmp_path / "lake").users


def test_a_file_is_its_owners_alone_whatever_the_umask(path):
    before = os.umask(0)
    try:
        with_user(path.parents[1])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [folder.stat().st_mode & 0o777 for folder in (path.parent, path.parents[1])] == [0o700, 0o700]
    assert [item.name for item in path.parent.iterdir()] == ["users.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_may_read_or_write_is_refused(path, mode):
    with_user(path.parents[1])
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"by others \(mode {mode:04o}\)\. Hint: chmod 600"):
        users_file(path).load()


def test_no_password_is_in_the_file(path):
    with_user(path.parents[1])
    assert PASSWORD not in path.read_text()
    assert "$argon2id$" in path.read_text()
    secret = with_token(path.parents[1], user="ann")
    tokens = Layout(path.parents[1]).tokens
    assert secret not in tokens.read_text()
    assert digest(secret) in tokens.read_text()


def test_a_change_is_seen_and_a_damaged_file_lets_nobody_in(path):
    with_user(path.parents[1])
    file, metrics = users_file(path), Metrics()
    assert set(file.load()) == {"ann"}
    assert file.refresh(metrics) is None
    add_user(users_file(path), User("bob", hashed()))
    assert set(file.refresh(metrics) or ()) == {"ann", "bob"}
    change_user(users_file(path), "bob", enabled=False)
    assert not (file.refresh(metrics) or {})["bob"].enabled
    remove_user(users_file(path), "ann")
    assert set(file.refresh(metrics) or ()) == {"bob"}
    write_secret(path, b"{")
    assert file.refresh(metrics) == {}
    assert metrics.read()["identity_files_refused"] == 1
    path.unlink()
    assert file.refresh(metrics) == {}


def test_changes_at_once_are_all_kept(path):
    names = [f"user{number}" for number in range(8)]
    threads = [threading.Thread(target=add_user, args=(users_file(path), User(name, hashed()))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(users_file(path).load()) == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a:b"}, "no colon"),
        ({"name": "anonymous"}, "those who say none"),
        ({"hash": "$2b$12$x"}, "not one of argon2id"),
        ({"enabled": "yes"}, "neither true nor false"),
        ({"roles": "admin"}, "list of names"),
    ],
)
def test_a_row_that_is_not_understood_names_itself(path, change, message):
    with_user(path.parents[1])
    document = json.loads(path.read_text())
    document["users"][0] |= change
    write_secret(path, json.dumps(document).encode())
    with pytest.raises(ConfigError, match=message):
        users_file(path).load()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2, "users": []}', '{"version": 1, "users": {}}', "[" * 9999]
)
def test_what_is_no_file_of_users_is_refused(path, text):
    path.parent.mkdir(parents=True)
    write_secret(path, text.encode())
    with pytest.raises(ConfigError, match="is no file of users"):
        users_file(path).load()


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"is no file|Is a directory"):
        read_secret(tmp_path)


def test_a_name_is_there_once(path):
    with_user(path.parents[1])
    with pytest.raises(ConfigError, match="there is a user 'ann' already"):
        with_user(path.parents[1])
    with_token(path.parents[1], user="ann")
    with pytest.raises(ConfigError, match="there is a token 'dash' already"):
        with_token(path.parents[1], user="ann")


def test_a_scope_that_is_not_known_is_refused(path):
    with pytest.raises(ConfigError, match="scope 'reed' of 'dash' is not known"):
        with_token(path.parents[1], roles=("reader",), scopes=("reed",))
    with pytest.raises(ConfigError, match="scope 'reed' of 'dash' is not known"):
        tokens_file(Layout(path.parents[1]).tokens).load()


def test_scopes_only_take_away():
    roles = Roles({})
    for name in roles.names():
        rights = roles.rights([name])
        assert narrowed(rights, ()) == narrowed(rights, SCOPES) == rights
        for scope in SCOPES:
            some = narrowed(rights, [scope])
            assert not set(some.tables) - set(rights.tables)
            assert not some.write - rights.write
            assert some.admin <= rights.admin
            assert some.tables in ((), rights.tables if scope == "read" else ())
    admin = roles.rights(["admin"])
    assert narrowed(admin, ["read"]).write == frozenset()
    assert narrowed(admin, ["read"]).workspace is None
    assert narrowed(admin, ["write"]).tables == ()
    assert not narrowed(admin, ["read", "write", "workspace"]).admin
