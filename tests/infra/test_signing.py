"""Ed25519 keys as text of the environment, and the command that makes a pair."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.settings import settings
from infra.signing import is_signed, public_key_of, sign, signing_key, trusted_keys

ROOT = Path(__file__).resolve().parents[2]
# RFC 8032, 7.1, test 2: secret key, public key, message, signature
SECRET = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
MESSAGE = "72"
SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def text(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def test_a_signature_is_the_one_that_the_standard_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_SIGNING_KEY", text(SECRET))
    key = signing_key()
    assert key is not None
    assert public_key_of(key) == text(PUBLIC)
    assert sign(key, bytes.fromhex(MESSAGE)) == text(SIGNATURE)
    assert is_signed(text(PUBLIC), text(SIGNATURE), bytes.fromhex(MESSAGE))


@pytest.mark.parametrize(
    ("public", "signature", "message"),
    [
        (text(PUBLIC), text(SIGNATURE), b"s"),
        (text(PUBLIC), text(SIGNATURE[:-2] + "01"), b"r"),
        (text(PUBLIC), "", b"r"),
        (text(PUBLIC), "no base64 at all", b"r"),
        (text(PUBLIC), "\u00fc", b"r"),
        (public_key_of(Ed25519PrivateKey.generate()), text(SIGNATURE), b"r"),
        ("", text(SIGNATURE), b"r"),
        (text(PUBLIC)[:-4], text(SIGNATURE), b"r"),
    ],
    ids=range(8),  # random keys make no names that two processes agree on
)
def test_what_is_not_signed_by_this_key_is_not_signed_and_no_error(public: str, signature: str, message: bytes) -> None:
    assert not is_signed(public, signature, message)


def test_without_variables_there_is_no_key_and_nothing_is_asked_for() -> None:
    assert signing_key() is None
    assert trusted_keys() == ()


@pytest.mark.parametrize("between", [" ", ",", ", ", "\n"])
def test_several_public_keys_may_stand_beside_each_other(monkeypatch: pytest.MonkeyPatch, between: str) -> None:
    keys = [public_key_of(Ed25519PrivateKey.generate()) for _ in range(2)]
    monkeypatch.setenv("CLERKFLOW_PUBLIC_KEYS", between.join(keys))
    assert trusted_keys() == tuple(keys)


@pytest.mark.parametrize("name", ["CLERKFLOW_SIGNING_KEY", "CLERKFLOW_PUBLIC_KEYS"])
@pytest.mark.parametrize("value", ["c2hvcnQ=", "not-base64-!", "A" * 43, base64.b64encode(b"x" * 33).decode(), "ключ"])
def test_what_is_no_key_is_refused_by_the_name_of_its_variable_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} is not an Ed25519 key: expected 32 bytes in base64") as told:
        signing_key() if name == "CLERKFLOW_SIGNING_KEY" else trusted_keys()
    assert value not in str(told.value)


def test_the_signing_key_is_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_SIGNING_KEY", text(SECRET))
    assert text(SECRET) not in repr(settings()) + str(settings()) + settings().model_dump_json()


def make_pair(file: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "infra.signing", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_command_makes_a_pair_that_fits_and_keeps_the_private_key_for_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys" / "signing.env"
    made = make_pair(file)
    assert made.returncode == 0, made.stderr
    name, _, value = file.read_text().strip().partition("=")
    assert value not in made.stdout + made.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLERKFLOW_PUBLIC_KEYS", made.stdout.split("CLERKFLOW_PUBLIC_KEYS=")[1].split()[0])
    key = signing_key()
    assert key is not None
    assert trusted_keys() == (public_key_of(key),)
    assert f". {file}" in made.stdout


def test_a_key_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "signing.env").write_text("kept")
    made = make_pair(tmp_path / "signing.env")
    assert made.returncode != 0
    assert "name another file" in made.stderr
    assert "Traceback" not in made.stderr
    assert (tmp_path / "signing.env").read_text() == "kept"


def test_a_shell_can_load_the_file_as_the_command_says(tmp_path: Path) -> None:
    file = tmp_path / "signing.env"
    make_pair(file)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLERKFLOW_")}
    line = f"set -a; . {file}; set +a; printenv CLERKFLOW_SIGNING_KEY"
    answer = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, timeout=300)
    assert len(base64.b64decode(answer.stdout)) == 32
