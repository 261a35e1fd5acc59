"""Approvers: a file of names, their roles and perhaps their keys -> whether somebody may decide on a request.

The file belongs to whoever runs clerkflow; CLERKFLOW_APPROVERS names it:

    anna: [process-owner, risk]
    ben: {roles: [risk], key: <public key, as 'python -m infra.signing' prints it>}

What this is worth: a name without a key is a claim. The file keeps people from deciding by mistake, and the decision says who
claimed to be whom; it keeps nobody out who can write to the store, for such a person can move the champion's alias as well.
A name with a key is proven: only the holder of the private half (CLERKFLOW_SIGNING_KEY) can decide in that name, and not
through a worker of Prefect's, which has another key or none. The store's own policy has to say who may write below
`<process>/models/aliases/` and `<process>/approvals/`.
"""

from typing import Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from infra import signing
from infra.settings import Settings, settings
from tasks.manifests import Signature, check_signed
from tasks.terms import Declared


class Approver(Declared):
    """What one person may do; a list is the roles alone."""

    roles: tuple[str, ...] = Field(min_length=1)
    key: str | None = None  # Ed25519, base64; who decides in this name signs with its private half

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, approver: Any) -> Any:
        return {"roles": approver} if isinstance(approver, list) else {"roles": [approver]} if isinstance(approver, str) else approver


def approvers(where: Settings | None = None) -> dict[str, Approver] | None:
    """Everybody who may decide something; None when this machine has no such file.

    Raises:
        ValueError: the file is not there, or does not say who has which role.
    """
    file = (where or settings()).approvers
    if file is None:
        return None
    try:
        return TypeAdapter(dict[str, Approver]).validate_python(yaml.safe_load(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"CLERKFLOW_APPROVERS names {file}, which is not there") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ValueError(f"{file}: expected lines such as 'anna: [process-owner]'; {faults}") from None


def role_of(name: str, asked: tuple[str, ...]) -> str:
    """The role in which somebody may decide.

    Args:
        asked: the roles of which one is needed.

    Raises:
        ValueError: this machine does not know who has which role, or this person has none of them.
    """
    known = approvers()
    if known is None:
        raise ValueError("CLERKFLOW_APPROVERS is not set, so nobody may decide: name a file with lines such as 'anna: [process-owner]'")
    if name not in known:
        raise ValueError(f"{name!r} is not among the approvers; needed is one of: {', '.join(asked)}")
    roles = [role for role in asked if role in known[name].roles]
    if not roles:
        raise ValueError(f"{name} is {', '.join(known[name].roles)}; to decide on this, one of {', '.join(asked)} is needed")
    return roles[0]


def check_author(what: str, name: str, role: str, signature: Signature | None, message: bytes) -> None:
    """That a decision comes from who it says, as far as this machine can know.

    Raises:
        ValueError: the name has a key that has not signed it, or has lost the role; or a trusted key is asked for, and none has signed.
    """
    known = approvers()
    person = known.get(name) if known else None
    if known is not None and (person is None or role not in person.roles):
        raise ValueError(f"{what} is by {name} as {role}, and CLERKFLOW_APPROVERS does not give {name} this role")
    if person is None or person.key is None:
        return check_signed(what, signature, message, "decide on a machine that has CLERKFLOW_SIGNING_KEY")
    if signature is None or signature.public_key != person.key or not signing.is_signed(person.key, signature.value, message):
        raise ValueError(f"{what} is not signed with the key of {name}: only the holder of CLERKFLOW_SIGNING_KEY's private half decides so")
    return None
