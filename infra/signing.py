"""Signing: Ed25519 over what a version's manifest says. Keys come from the environment: python -m infra.signing makes a pair."""

import argparse
import base64
import binascii
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infra.credentials import write_private
from infra.settings import Settings, settings


def public_key_of(private: Ed25519PrivateKey) -> str:
    """A public key as text: its 32 bytes in base64."""
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def signing_key(where: Settings | None = None) -> Ed25519PrivateKey | None:
    """The private key of the environment; None when there is none.

    Raises:
        ValueError: CLERKFLOW_SIGNING_KEY is not 32 bytes in base64; the message does not repeat it.
    """
    text = (where or settings()).signing_key.get_secret_value()
    return Ed25519PrivateKey.from_private_bytes(_raw(text, "CLERKFLOW_SIGNING_KEY")) if text else None


def trusted_keys(where: Settings | None = None) -> tuple[str, ...]:
    """The public keys whose signatures count, as text; none means that signatures are not asked for."""
    text = (where or settings()).public_keys
    return tuple(base64.b64encode(_raw(part, "CLERKFLOW_PUBLIC_KEYS")).decode() for part in text.replace(",", " ").split())


def _raw(text: str, name: str) -> bytes:
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise ValueError(f"{name} is not an Ed25519 key: expected 32 bytes in base64, as 'python -m infra.signing' makes them")
    return raw


def sign(private: Ed25519PrivateKey, message: bytes) -> str:
    """The signature of a message, in base64."""
    return base64.b64encode(private.sign(message)).decode()


def is_signed(public: str, signature: str, message: bytes) -> bool:
    """Whether a signature of the message was made with the private half of this public key."""
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(base64.b64decode(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def main() -> None:
    """Make a key pair: the private key goes to a file for its owner's eyes only, the public one is printed."""
    parser = argparse.ArgumentParser(prog="python -m infra.signing", description="An Ed25519 key pair for published versions.")
    parser.add_argument("file", type=Path, help="new file for the private key, as a line for the environment")
    file = parser.parse_args().file
    if file.exists():
        raise SystemExit(f"{file} is there already; a key that has signed versions must not be lost: name another file")
    private = Ed25519PrivateKey.generate()
    write_private(file, f"CLERKFLOW_SIGNING_KEY={base64.b64encode(private.private_bytes_raw()).decode()}\n")
    print(f"private key: {file}; only publishers need it: set -a; . {file}; set +a")
    print(f"public key, for every machine that loads models: export CLERKFLOW_PUBLIC_KEYS={public_key_of(private)}")


if __name__ == "__main__":
    main()
