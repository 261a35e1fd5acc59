"""A bucket made ready on a real server: what is made, what stays as it is, and what a person is told."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio.commonconfig import ENABLED, Filter
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

from infra.connection import connect
from infra.minio import environment_of, running
from infra.provision import main
from infra.roles import ROLES, Scope, name_of
from infra.settings import Settings, settings
from infra.store import open_store
from infra.users import Users

Told = tuple[int, str, str]  # exit status, output, errors


class Machine:
    """An administrator's: its environment, and the command as it is typed there."""

    def __init__(self, server: Settings, place: str, folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.server, self.place, self.folder, self.patch, self.capsys = server, place, folder, patch, capsys
        self.scope = Scope(*place.partition("/")[::2])
        for name in ("CLERKFLOW_S3_ENCRYPTION", "CLERKFLOW_S3_VERSIONING"):
            patch.delenv(name, raising=False)
        self.become(environment_of(server, place))

    def become(self, variables: dict[str, str]) -> None:
        for name, value in variables.items():
            self.patch.setenv(name, value)

    def provision(self, *words: str) -> Told:
        self.patch.setattr(sys, "argv", ["provision", "--folder", str(self.folder), *words])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(str(end.code))
        said = self.capsys.readouterr()
        return status, said.out, said.err

    def file(self, role: str) -> Path:
        return next(self.folder.glob(f"clerkflow-{role}-*.env"))

    def variables(self, role: str) -> dict[str, str]:
        """What `set -a; . file` gives, as a shell reads it."""
        line = ["bash", "-c", f"set -a; . {shlex.quote(str(self.file(role)))}; env"]
        shown = subprocess.run(line, env={}, capture_output=True, text=True, check=True).stdout
        return dict(word.partition("=")[::2] for word in shown.splitlines() if word.startswith("CLERKFLOW_"))

    def clear(self) -> None:
        for process in ("", "p"):
            for role in ROLES:
                Users(self.server).remove(name_of(role, Scope(self.scope.bucket, self.scope.prefix, process)))


@pytest.fixture
def machine(
    minio: Settings, new_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Machine]:
    there = Machine(minio, f"{new_bucket}/some/where", tmp_path / "our keys", monkeypatch, capsys)
    yield there
    there.clear()


def test_one_command_makes_a_bucket_and_three_users_that_work(machine: Machine) -> None:
    status, said, _ = machine.provision()
    assert status == 0
    assert said.endswith(f"set -a; . '{machine.file('scorer')}'; set +a\n")
    for role in ROLES:
        assert machine.file(role).stat().st_mode & 0o777 == 0o600
        variables = machine.variables(role)
        assert variables["CLERKFLOW_S3_SECRET_KEY"] not in said
        machine.become(variables)
        store = open_store()
        assert store.uri == f"s3://{machine.place}"
        if role == "watcher":
            with pytest.raises(PermissionError):
                store.write("p/batches/b/manifest.json", b"x")
        else:
            assert store.write("p/batches/b/manifest.json", b"x")


def test_what_is_right_already_is_left_alone(machine: Machine) -> None:
    machine.provision()
    keys = machine.variables("scorer")
    status, said, _ = machine.provision()
    assert status == 0
    assert not [line for line in said.splitlines() if line.startswith("  made")]
    assert machine.variables("scorer") == keys


def test_a_dry_run_shows_every_step_and_takes_none(machine: Machine) -> None:
    status, said, _ = machine.provision("--dry-run")
    assert status == 0
    assert said.count("would be made") == 3 + 2 * len(ROLES)  # bucket, versioning, lifecycle
    client, pool = connect(machine.server)
    assert not client.bucket_exists(machine.scope.bucket)
    assert Users(machine.server).policies_of(name_of("scorer", machine.scope)) is None
    assert not machine.folder.exists()
    pool.clear()


def test_a_policy_or_a_user_that_was_changed_by_hand_is_put_right(machine: Machine) -> None:
    machine.provision()
    users, name = Users(machine.server), name_of("watcher", machine.scope)
    users.set_policy(
        name, {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}]}
    )
    users.admin.policy_set("readwrite", user=name)
    _, said, _ = machine.provision()
    assert [line.split()[1] for line in said.splitlines() if line.startswith("  made")] == ["policy", "user"]
    machine.become(machine.variables("watcher"))
    with pytest.raises(PermissionError):
        open_store().write("p/a", b"x")


def test_renewing_a_key_closes_the_old_one_and_only_that(machine: Machine) -> None:
    machine.provision()
    old, other = machine.variables("scorer"), machine.variables("publisher")
    machine.provision("--renew", "scorer")
    machine.become(old)
    with pytest.raises(PermissionError):
        open_store()
    machine.become(machine.variables("scorer"))
    assert open_store().write("p/batches/b", b"x")
    assert machine.variables("publisher") == other


def test_a_key_that_is_lost_or_was_renewed_elsewhere_is_told(machine: Machine) -> None:
    machine.provision()
    machine.file("watcher").unlink()
    text = machine.file("scorer").read_text()
    machine.file("scorer").write_text(text.replace(machine.variables("scorer")["CLERKFLOW_S3_SECRET_KEY"], "f" * 40))
    _, said, _ = machine.provision()
    assert "its secret key is not on this machine, --renew watcher" in said
    assert "holds another key than the server's, --renew scorer" in said
    assert "f" * 40 not in said


def test_roles_for_one_process_stand_beside_those_for_all(machine: Machine) -> None:
    machine.provision()
    status, _, _ = machine.provision("--process", "p")
    assert status == 0
    assert len(list(machine.folder.iterdir())) == 2 * len(ROLES)


def test_an_overwritten_object_keeps_its_earlier_version_for_the_days_that_were_set(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLERKFLOW_S3_NONCURRENT_DAYS", "7")
    machine.provision()
    store, (client, pool) = open_store(), connect(machine.server)
    bucket, prefix = machine.scope.bucket, machine.scope.root
    store.write("p/a", b"first")
    store.write("p/a", b"second")
    store.delete("p/a")
    assert store.stat("p/a") is None
    found = [version for version in client.list_objects(bucket, f"{prefix}p/a", include_version=True) if not version.is_delete_marker]
    assert sorted(client.get_object(bucket, f"{prefix}p/a", version_id=each.version_id).data for each in found) == [b"first", b"second"]
    (rule,) = client.get_bucket_lifecycle(bucket).rules
    assert rule.noncurrent_version_expiration.noncurrent_days == 7
    assert rule.rule_filter.prefix == prefix
    pool.clear()


def test_lifecycle_rules_of_others_stay(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    client, pool = connect(machine.server)
    bucket = machine.scope.bucket
    client.make_bucket(bucket)
    theirs = Rule(ENABLED, rule_id="theirs", rule_filter=Filter(prefix="logs/"), expiration=Expiration(days=3))
    client.set_bucket_lifecycle(bucket, LifecycleConfig([theirs]))
    for days in ("5", "6"):
        monkeypatch.setenv("CLERKFLOW_S3_NONCURRENT_DAYS", days)
        machine.provision()
    rules = {rule.rule_id: rule for rule in client.get_bucket_lifecycle(bucket).rules}
    assert rules.pop("theirs") == theirs
    assert [rule.noncurrent_version_expiration.noncurrent_days for rule in rules.values()] == [6]
    pool.clear()


def test_versioning_that_is_not_asked_for_is_left_as_it_is(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_S3_VERSIONING", "false")
    assert "versioning: left as it is" in machine.provision()[1]
    client, pool = connect(machine.server)
    assert client.get_bucket_versioning(machine.scope.bucket).status is None
    pool.clear()


@pytest.mark.parametrize("encryption", ["SSE-S3", "SSE-KMS:clerkflow"])
def test_every_object_of_every_role_is_encrypted_when_that_is_set(
    safe_minio: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], encryption: str
) -> None:
    machine = Machine(safe_minio, f"{encryption.partition(':')[0].lower()}-bucket", tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("CLERKFLOW_S3_ENCRYPTION", encryption)
    assert machine.provision()[0] == 0
    client, pool = connect(safe_minio)
    for role, key in (("publisher", "p/models/a"), ("scorer", "p/batches/a")):
        machine.become(machine.variables(role))
        store = open_store()
        etag = store.write(key, b"x", if_absent=True)
        assert store.read(key) == (b"x", etag)
        shown = client.stat_object(machine.scope.bucket, key).metadata["X-Amz-Server-Side-Encryption"]
        assert shown == ("AES256" if encryption == "SSE-S3" else "aws:kms")
    pool.clear()


def test_encryption_that_the_server_cannot_do_is_told_with_the_remedy(
    minio_program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CLERKFLOW_S3_ENDPOINT", "CLERKFLOW_S3_ACCESS_KEY", "CLERKFLOW_S3_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    with running() as server:
        machine = Machine(server, "bucket", tmp_path, monkeypatch, capsys)
        monkeypatch.setenv("CLERKFLOW_S3_ENCRYPTION", "SSE-S3")
        status, _, error = machine.provision()
    assert status == 2
    assert "MINIO_KMS_SECRET_KEY" in error


def test_without_a_key_that_the_server_knows_nothing_is_encrypted_by_it(
    safe_minio: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(safe_minio, "no-such-key", tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("CLERKFLOW_S3_ENCRYPTION", "SSE-KMS:nobodys")
    status, _, error = machine.provision()
    assert status == 2
    assert "key with given key ID does not exist; start it with a key" in error


def test_only_an_administrator_may_provision(machine: Machine) -> None:
    machine.provision()
    machine.become(machine.variables("scorer"))
    status, _, error = machine.provision()
    assert status == 2
    assert settings().s3_secret_key.get_secret_value() not in error
    assert "AccessDenied" in error


def test_policies_can_be_printed_without_a_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CLERKFLOW_STORE", "s3://bucket/some/where")
    monkeypatch.setattr(sys, "argv", ["provision", "--print-policies", "--process", "p"])
    main()
    shown = json.loads(capsys.readouterr().out)
    assert [name.split("-")[1] for name in shown] == list(ROLES)
    assert all(document["Version"] == "2012-10-17" for document in shown.values())


@pytest.mark.parametrize(("store", "message"), [("data/store", "expected a folder or s3://bucket"), ("s3://bucket/a*", "as patterns")])
def test_a_store_that_is_no_bucket_is_a_mistake(
    store: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLERKFLOW_STORE", store)
    monkeypatch.setattr(sys, "argv", ["provision"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err
