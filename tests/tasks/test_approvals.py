"""A person's word as data: who may give it, when it counts, once and for one champion, on a folder and on a real MinIO server."""

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save

from infra.signing import Ed25519PrivateKey, base64, public_key_of
from infra.spans import Spans
from infra.store import Conflict, Store
from tasks.aliases import champion_of, log_of, move_alias, rollback
from tasks.approvals import Standing, ask, decision_key, request_key, standing, standings
from tasks.artifacts import json_bytes
from tasks.decisions import check_may_return, complete_decided, decide
from tasks.gate import RuleResult, Verdict
from tasks.manifests import Manifest
from tasks.publishing import outcome_of
from tasks.registry import publish_version
from tasks.reservations import store_time
from tasks.retention import collect
from tasks.terms import Approval

ROOT = Path(__file__).resolve().parents[2]
RESULT = RuleResult(rule="accuracy at least 0.5", metric="accuracy", measure=0.9, passed=True, reason="0.9 >= 0.5")
PASSED = Verdict(passed=True, results=(RESULT,))
APPROVAL = Approval(by=("owner", "risk"), expires_hours=48)


@pytest.fixture(autouse=True)
def approvers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Anna may decide, Ben may not."""
    file = tmp_path / "approvers.yaml"
    file.write_text("anna: [owner]\nben: [intern]\ncleo: [risk, owner]\n", encoding="utf-8")
    monkeypatch.setenv("CLERKFLOW_APPROVERS", str(file))
    return file


def version(store: Store, seed: int, approval: Approval | None = APPROVAL) -> Manifest:
    """A published version whose own declaration asks for approval, with weights of a few bytes."""
    gate = {"rules": [{"metric": "accuracy", "at_least": 0.5}], "approval": approval.model_dump() if approval else None}
    weights = save({"w": numpy.full(4, seed, "float32")})
    files = {"model.safetensors": Spans((weights,)), "declaration.json": Spans((json_bytes({"gate": gate}),))}
    return publish_version(store, "p", files, created=f"2024-01-3{seed % 2}T08:00:00Z", run=f"run-{seed}")


def asked(store: Store, seed: int = 1, approval: Approval = APPROVAL, instead_of: str | None = None) -> Standing:
    """A request for a new version."""
    return ask(store, version(store, seed, approval), PASSED, f"run-{seed}", approval, instead_of)


def champion(store: Store) -> str | None:
    alias = champion_of(store, "p")
    return alias.version if alias else None


def test_an_approved_version_is_champion_and_the_log_says_who_and_why(store: Store) -> None:
    found = asked(store)
    assert (found.state, champion(store)) == ("waiting", None)
    done = decide(store, "p", found.id, "approved", "anna", "looks right")
    assert (done.state, done.released, champion(store)) == ("approved", True, found.version)
    assert log_of(store, "p")[-1].reason == f"approved by anna (owner), request {found.id}: looks right"


def test_a_rejected_version_never_becomes_champion_and_is_not_asked_for_again(store: Store) -> None:
    found = asked(store)
    assert decide(store, "p", found.id, "rejected", "cleo", "not now").state == "rejected"
    with pytest.raises(Conflict, match=r"was rejected by cleo .* never changed"):
        decide(store, "p", found.id, "approved", "anna", "I disagree")
    assert (asked(store).state, champion(store)) == ("rejected", None)
    assert complete_decided(store, "p") == []


def test_the_same_version_is_asked_for_once_while_it_waits(store: Store) -> None:
    assert asked(store).id == asked(store).id
    assert len(standings(store, "p")) == 1


@pytest.mark.parametrize(
    "name,reason,words",
    [
        ("ben", "why not", "ben is intern; to decide on this, one of owner, risk"),
        ("mallory", "x", "not among the approvers"),
        ("anna", "  ", "needs a reason"),
    ],
)
def test_who_may_not_decide_or_says_no_reason_decides_nothing(store: Store, name: str, reason: str, words: str) -> None:
    found = asked(store)
    with pytest.raises(ValueError, match=words):
        decide(store, "p", found.id, "approved", name, reason)
    assert (standing(store, "p", found.id).state, champion(store)) == ("waiting", None)


def test_what_became_of_a_model_is_said_in_a_word(store: Store) -> None:
    assert outcome_of(Verdict(passed=False, results=()), None).became == "refused"
    found = asked(store)
    waiting = outcome_of(PASSED, found)
    assert (waiting.became, waiting.request, waiting.passed) == ("waiting", found.id, True)
    assert outcome_of(PASSED, decide(store, "p", found.id, "rejected", "anna", "no")).became == "rejected"
    other = asked(store, 2)
    decide(store, "p", other.id, "approved", "anna", "yes")
    assert outcome_of(PASSED, champion_of(store, "p")).became == "published"
    assert [each.id for each in standings(store, "p", current=True)] == []


def test_without_a_file_of_approvers_nobody_may_decide(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(store)
    monkeypatch.delenv("CLERKFLOW_APPROVERS")
    with pytest.raises(ValueError, match="CLERKFLOW_APPROVERS is not set, so nobody may decide"):
        decide(store, "p", found.id, "approved", "anna", "yes")


def test_a_request_expires_by_the_stores_clock_and_a_new_run_asks_anew(store: Store) -> None:
    short = Approval(by=("owner",), expires_hours=1e-7)
    first = asked(store, 1, short)
    assert first.request
    for _ in range(100):
        if store_time(store, "p") > datetime.fromisoformat(first.request.expires):
            break
        time.sleep(0.1)
    assert standing(store, "p", first.id).state == "expired"
    with pytest.raises(ValueError, match=r"expired at .* train again to ask again"):
        decide(store, "p", first.id, "approved", "anna", "too late")
    second = asked(store, 1, short)
    assert (first.id, second.id) == (f"{first.version}-1", f"{first.version}-2")


def test_an_overtaken_request_moves_nothing_and_says_who_is_champion(store: Store) -> None:
    first, second = asked(store, 1), asked(store, 2)
    decide(store, "p", second.id, "approved", "anna", "the better one")
    with pytest.raises(Conflict, match=f"champion is {second.version} since"):
        decide(store, "p", first.id, "approved", "anna", "this one, too")
    assert {each.id: each.state for each in standings(store, "p")} == {first.id: "overtaken", second.id: "approved"}
    assert champion(store) == second.version
    assert store.stat(decision_key("p", first.id)) is None


def test_an_approval_is_used_once_even_when_the_champion_before_it_comes_back(store: Store) -> None:
    old = version(store, 0)
    move_alias(store, "p", old.version, "first", instead_of=None)
    found = asked(store, 1, instead_of=old.version)
    decide(store, "p", found.id, "approved", "anna", "yes")
    rollback(store, "p", reason="customers complained")
    decide(store, "p", found.id, "approved", "anna", "yes")
    assert complete_decided(store, "p") == []
    assert champion(store) == old.version
    assert standing(store, "p", found.id).released


def test_a_request_is_overtaken_when_its_champion_went_and_came_back(store: Store) -> None:
    old, other = version(store, 0), version(store, 2)
    move_alias(store, "p", old.version, "first", instead_of=None)
    found = asked(store, 1, instead_of=old.version)
    move_alias(store, "p", other.version, "second", instead_of=old.version)
    rollback(store, "p")
    with pytest.raises(Conflict, match="nothing moves"):
        decide(store, "p", found.id, "approved", "anna", "yes")
    assert champion(store) == old.version


DECIDE = (
    "import sys; from infra.store import open_store; from tasks.decisions import decide; print(decide(open_store(), *sys.argv[1:]).state)"
)


def child(*words: str, code: str = DECIDE) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_processes_that_decide_at_once_one_is_heard(store: Store) -> None:
    found = asked(store)
    both = [child("p", found.id, word, name, "now") for word, name in (("approved", "anna"), ("rejected", "cleo"))]
    said = [each.communicate(timeout=240) for each in both]
    assert sorted(each.returncode for each in both) == [0, 1]
    winner = next(out.strip() for (out, _), each in zip(said, both, strict=True) if each.returncode == 0)
    assert any("a decision is never changed" in error for _, error in said)
    assert standing(store, "p", found.id).state == winner
    assert champion(store) == (found.version if winner == "approved" else None)


KILLED = (
    "import os, sys; from infra.store import open_store; from tasks import decisions\n"
    "decisions.release = lambda *_: os.kill(os.getpid(), 9)\n"
    "decisions.decide(open_store(), *sys.argv[1:])"
)


@pytest.mark.parametrize("way", ["the same command", "the next training run"])
def test_a_kill_between_the_decision_and_the_alias_is_made_good(store: Store, way: str) -> None:
    found = asked(store)
    killed = child("p", found.id, "approved", "anna", "yes", code=KILLED)
    killed.communicate(timeout=240)
    assert (killed.returncode, champion(store)) == (-9, None)
    assert (standing(store, "p", found.id).state, standing(store, "p", found.id).open) == ("approved", True)
    if way == "the same command":
        decide(store, "p", found.id, "approved", "anna", "yes")
    else:
        assert complete_decided(store, "p") == [found.version]
    assert champion(store) == found.version


def rewrite(store: Store, key: str, **changes: Any) -> None:
    store.write(key, json_bytes(json.loads(store.read(key)[0]) | changes))


@pytest.mark.parametrize(
    "change", [{"by": ["intern"]}, {"expires": "2099-01-01T00:00:00+00:00"}, {"root": "0" * 64}, {"version": "0" * 12}, {"more": 1}]
)
def test_a_request_that_was_changed_is_not_decided_on(store: Store, change: dict[str, Any]) -> None:
    found = asked(store)
    rewrite(store, request_key("p", found.id), **change)
    assert standing(store, "p", found.id).state == "damaged"
    with pytest.raises(ValueError, match=r"changed after it was written|has no version|damaged"):
        decide(store, "p", found.id, "approved", "anna", "yes")
    assert champion(store) is None


@pytest.mark.parametrize(
    "change", [{"request_sha256": "0" * 64}, {"role": "intern"}, {"decided": "2099-01-01T00:00:00+00:00"}, {"name": "ben"}]
)
def test_a_decision_that_was_changed_releases_nothing(store: Store, change: dict[str, Any]) -> None:
    found = asked(store)
    child("p", found.id, "approved", "anna", "yes", code=KILLED).communicate(timeout=240)
    rewrite(store, decision_key("p", found.id), **change)
    assert (standing(store, "p", found.id).state, complete_decided(store, "p"), champion(store)) == ("damaged", [], None)


def test_a_request_that_was_changed_after_the_decision_releases_nothing(store: Store) -> None:
    found = asked(store)
    child("p", found.id, "approved", "anna", "yes", code=KILLED).communicate(timeout=240)
    rewrite(store, request_key("p", found.id), run="another")
    assert standing(store, "p", found.id).fault.endswith("one of the two was changed")
    assert (complete_decided(store, "p"), champion(store)) == ([], None)


def key_pair() -> tuple[str, str]:
    private = Ed25519PrivateKey.generate()
    return base64.b64encode(private.private_bytes_raw()).decode(), public_key_of(private)


def test_with_trusted_keys_an_unsigned_or_forged_word_does_not_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = key_pair()
    monkeypatch.setenv("CLERKFLOW_SIGNING_KEY", private)
    monkeypatch.setenv("CLERKFLOW_PUBLIC_KEYS", public)
    found = asked(store)
    rewrite(store, request_key("p", found.id), run="another")
    assert "signature does not fit" in standing(store, "p", found.id).fault
    rewrite(store, request_key("p", found.id), run="run-1")
    monkeypatch.delenv("CLERKFLOW_SIGNING_KEY")
    with pytest.raises(ValueError, match=r"the decision on .* is not signed"):
        decide(store, "p", found.id, "approved", "anna", "yes")
    assert store.stat(decision_key("p", found.id)) is None
    monkeypatch.setenv("CLERKFLOW_SIGNING_KEY", private)
    assert decide(store, "p", found.id, "approved", "anna", "yes").released


def test_a_name_with_a_key_is_taken_by_nobody_else(store: Store, approvers_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = key_pair()
    approvers_file.write_text(f"anna: {{roles: [owner], key: {public}}}\n", encoding="utf-8")
    found = asked(store)
    for key in ("", key_pair()[0]):
        monkeypatch.setenv("CLERKFLOW_SIGNING_KEY", key)
        with pytest.raises(ValueError, match="not signed with the key of anna"):
            decide(store, "p", found.id, "approved", "anna", "yes")
    monkeypatch.setenv("CLERKFLOW_SIGNING_KEY", private)
    assert decide(store, "p", found.id, "approved", "anna", "yes").released


def test_what_waits_is_never_collected_and_what_is_done_with_may_go(store: Store) -> None:
    oldest, rejected, newest = asked(store, 0), asked(store, 2), version(store, 3)
    assert collect(store, "p", 1, grace_hours=0, dry_run=False).dropped == ()
    decide(store, "p", rejected.id, "rejected", "anna", "no")
    time.sleep(1.1)  # MinIO tells some of its times in whole seconds
    found = collect(store, "p", 1, grace_hours=0, dry_run=False)
    assert (found.dropped, {*found.kept}) == ((rejected.version,), {oldest.version, newest.version})
    assert decide(store, "p", oldest.id, "approved", "anna", "yes").released


def test_going_back_does_not_pass_an_approval_by(store: Store) -> None:
    found = asked(store)
    with pytest.raises(ValueError, match=f"clerkflow approve p {found.id}"):
        check_may_return(store, "p", found.version)
    decide(store, "p", found.id, "approved", "anna", "yes")
    check_may_return(store, "p", found.version)


def test_a_request_that_is_not_there_is_told_with_those_that_wait(store: Store) -> None:
    found = asked(store)
    for name in ("nothing", "../x", f"{found.version}-9"):
        with pytest.raises(ValueError, match=f"waiting are: {found.id}"):
            decide(store, "p", name, "approved", "anna", "yes")


def test_a_file_of_approvers_that_makes_no_sense_is_told(store: Store, approvers_file: Path) -> None:
    found = asked(store)
    for text, words in (("anna: 5", "expected lines such as"), ("anna: [", "approvers.yaml"), ("anna: []", "at least 1 item")):
        approvers_file.write_text(text)
        with pytest.raises(ValueError, match=words):
            decide(store, "p", found.id, "approved", "anna", "yes")
    approvers_file.unlink()
    with pytest.raises(ValueError, match="which is not there"):
        decide(store, "p", found.id, "approved", "anna", "yes")
