"""Where keys come from, and that no error tells them."""

import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.credentials import CredentialsFile, credentials_of, write_private
from infra.settings import Settings

SECRET = "s3cr3t-0123456789"


def test_a_key_with_signs_that_mean_something_elsewhere_is_taken_as_it_is(tmp_path: Path) -> None:
    write_private(tmp_path / "file", f"[default]\naws_access_key_id=me\naws_secret_access_key={SECRET}%(x)s=#;\n")
    found = CredentialsFile(tmp_path / "file", "default").retrieve()
    assert (found.access_key, found.secret_key, found.session_token) == ("me", f"{SECRET}%(x)s=#;", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"aws_secret_access_key={SECRET}\n", r"expected \[profile\]"),
        (f"[default]\n{SECRET}\n", r"expected \[profile\]"),
        (f"[default]\naws_secret_access_key={SECRET}\naws_secret_access_key={SECRET}\n", r"expected \[profile\]"),
        (f"[other]\naws_secret_access_key={SECRET}\n", "no profile 'default' .* it has: other"),
        (f"[default]\naws_secret_access_key={SECRET}\n", "needs aws_access_key_id and aws_secret_access_key"),
    ],
)
def test_a_file_that_is_not_understood_is_told_without_its_lines(tmp_path: Path, text: str, message: str) -> None:
    write_private(tmp_path / "file", text)
    with pytest.raises(ValueError, match=message) as refused:
        CredentialsFile(tmp_path / "file", "default").retrieve()
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_a_file_that_is_not_there_is_named_with_its_variable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CLERKFLOW_S3_CREDENTIALS_FILE=.*none"):
        CredentialsFile(tmp_path / "none", "default").retrieve()


@pytest.mark.parametrize("given", [{}, {"s3_access_key": SecretStr("me")}, {"s3_secret_key": SecretStr(SECRET)}])
def test_one_key_alone_is_a_mistake_even_beside_a_file(given: dict[str, SecretStr], tmp_path: Path) -> None:
    absent = {"s3_access_key": SecretStr(""), "s3_secret_key": SecretStr(""), "s3_credentials_file": tmp_path if given else None}
    with pytest.raises(ValueError, match="needs both CLERKFLOW_S3_ACCESS_KEY and") as refused:
        credentials_of(Settings().model_copy(update=absent | given))
    assert SECRET not in str(refused.value)


def test_what_holds_keys_does_not_show_them(tmp_path: Path) -> None:
    write_private(tmp_path / "file", f"[default]\naws_access_key_id=me\naws_secret_access_key={SECRET}\n")
    for provider in (
        CredentialsFile(tmp_path / "file", "default"),
        credentials_of(Settings(s3_access_key=SecretStr("me"), s3_secret_key=SecretStr(SECRET))),
    ):
        assert provider.retrieve().secret_key == SECRET
        assert SECRET not in f"{provider!r} {provider}"


def test_a_private_file_replaces_one_that_others_could_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o644)
    write_private(tmp_path / "file", "new")
    assert ((tmp_path / "file").read_text(), (tmp_path / "file").stat().st_mode & 0o777) == ("new", 0o600)
