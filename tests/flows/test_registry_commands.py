"""The commands that look at published versions, move between them, prove, sign, take out and remove them."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flows import __main__ as line
from infra.signing import public_key_of
from infra.spans import Spans
from infra.store import LocalStore, open_store
from tasks.aliases import challenge, champion_of, move_alias
from tasks.manifests import Manifest, manifest_key, read_unsigned, version_names
from tasks.registry import publish_version
from tasks.shards import shards_of
from tests.flows.conftest import Command


@pytest.fixture
def clerkflow(toy: Path, command: Command) -> Command:
    """The command line in this process, which knows `toy`."""
    return command


def published(number: int) -> Manifest:
    """A version of process `toy`, without a model that could be loaded."""
    files = {"config.json": Spans((b"%d" % number,)), "model-1.safetensors": Spans((b"w" * 100_000 + b"%d" % number,))}
    facts = {"created": f"2024-01-{number:02}T08:00:00Z", "run": f"run-{number}", "metrics": {"accuracy": 0.9 + number / 1000}}
    return publish_version(open_store(), "toy", files, **facts)


def crowned(*numbers: int) -> list[str]:
    """Versions, each made champion after the one before it."""
    found: list[str] = []
    for number in numbers:
        found.append(published(number).version)
        move_alias(open_store(), "toy", found[-1], f"reason {number}", f"run-{number}", instead_of=found[-2] if len(found) > 1 else None)
    return found


def shard_of(version: str) -> str:
    return read_unsigned(open_store(), "toy", version).files["model-1.safetensors"].pieces[0].key


def champion() -> str:
    found = champion_of(open_store(), "toy")
    assert found
    return found.version


# models


def test_models_shows_versions_with_their_aliases_and_measures_and_every_champion_with_its_reason(clerkflow: Command) -> None:
    first, second = crowned(1, 2)
    third = published(3).version
    challenge(open_store(), "toy", third)
    status, told = clerkflow("models", "toy")
    assert status == 0
    for words in (
        f"{third} │ challenger",
        f"{second} │ champion",
        f"{first} │ previous",
        "accuracy 0.9020",
        "0.1 MiB",
        "reason 1",
        "run-2",
    ):
        assert words in told
    assert told.index(third) < told.index(second) < told.index(first)


def test_models_of_a_process_without_one_says_how_to_make_the_first(clerkflow: Command) -> None:
    status, told = clerkflow("models", "toy")
    assert status == 0
    assert "no version yet" in told
    assert "clerkflow train toy" in told


def test_models_says_which_versions_are_signed(clerkflow: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    crowned(1)
    signing(monkeypatch)
    second = published(2)
    table = clerkflow("models", "toy")[1].split("champions")[0]
    assert f"{second.version} │ signed │" in table
    assert table.count("signed") == 1
    assert table.count("not trusted") == 1  # the first one, which no loader takes now
    monkeypatch.setenv("CLERKFLOW_PUBLIC_KEYS", public_key_of(Ed25519PrivateKey.generate()))
    table = clerkflow("models", "toy")[1].split("champions")[0]
    assert (table.count("signed"), table.count("not trusted")) == (0, 2)


# rollback


def test_rollback_says_what_was_done_and_the_next_command_shows_why(clerkflow: Command) -> None:
    first, second = crowned(1, 2)
    status, told = clerkflow("rollback", "toy", "--reason", "customers [red]complained")
    assert (status, champion()) == (0, first)
    assert f"toy: champion is {first} again, was {second}" in told
    assert "clerkflow models toy" in told
    assert "customers [red]complained │" in clerkflow("models", "toy")[1]


def test_rollback_to_a_version_by_name(clerkflow: Command) -> None:
    versions = crowned(1, 2, 3)
    assert clerkflow("rollback", "toy", versions[0])[0] == 0
    assert champion() == versions[0]


def test_rollback_where_it_makes_no_sense_is_told_with_status_two(clerkflow: Command) -> None:
    status, told = clerkflow("rollback", "toy")
    assert status == 2
    assert "clerkflow train toy" in told
    (first,) = crowned(1)
    for words, said in (([], "name a version"), ([first], "champion already"), (["nothing"], f"published are: {first}")):
        status, told = clerkflow("rollback", "toy", *words)
        assert (status, said in told) == (2, True)
    assert champion() == first


def test_rollback_to_a_version_that_lost_a_shard_is_refused_and_the_champion_stays(clerkflow: Command) -> None:
    first, second = crowned(1, 2)
    key = shard_of(first)
    open_store().delete(key)
    status, told = clerkflow("rollback", "toy")
    assert (status, champion()) == (2, second)
    assert f"missing: {open_store().address(key)}" in told


# verify


def test_verify_says_how_much_was_read_and_the_root_that_stands_for_it(clerkflow: Command) -> None:
    (first,) = crowned(1)
    status, told = clerkflow("verify", "toy")
    assert status == 0
    assert f"toy {first}: 3 parts, 0.1 MiB read, 0 wrong" in told
    assert f"root {read_unsigned(open_store(), 'toy', first).root}" in told
    assert f"{first}: not signed" in told


def test_verify_names_the_part_and_the_bytes_that_differ_with_status_one(clerkflow: Command) -> None:
    _, second = crowned(1, 2)
    key = shard_of(second)
    data = bytearray(open_store().read(key)[0])
    data[70_000] ^= 1
    open_store().write(key, bytes(data))
    status, told = clerkflow("verify", "toy", "champion")
    assert status == 1
    assert "files/model-1.safetensors" in told
    assert f"bytes 0–{len(data) - 1} differ" in told
    assert "1 wrong" in told
    assert "clerkflow rollback toy" in told
    assert clerkflow("verify", "toy", "previous")[0] == 0


def test_verify_of_a_damaged_champion_that_had_no_other_before_it_offers_no_rollback(clerkflow: Command) -> None:
    (first,) = crowned(1)
    open_store().delete(shard_of(first))
    status, told = clerkflow("verify", "toy")
    assert (status, "missing" in told, "clerkflow rollback" in told) == (1, True, False)


def test_verify_of_a_damaged_version_that_is_not_champion_does_not_ask_to_roll_the_champion_back(clerkflow: Command) -> None:
    first, _ = crowned(1, 2)
    open_store().delete(shard_of(first))
    status, told = clerkflow("verify", "toy", first)
    assert status == 1
    assert "clerkflow rollback toy" not in told


def test_verify_of_a_manifest_that_does_not_make_its_root_is_told_with_a_status(clerkflow: Command) -> None:
    (first,) = crowned(1)
    key = manifest_key("toy", first)
    open_store().write(key, open_store().read(key)[0].replace(b'"run-1"', b'"run-9"'))
    status, told = clerkflow("verify", "toy")
    assert status == 1
    assert "its parts make root" in told


def test_verify_finds_an_unsigned_version_where_signatures_are_asked_for(clerkflow: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    crowned(1)
    monkeypatch.setenv("CLERKFLOW_PUBLIC_KEYS", public_key_of(Ed25519PrivateKey.generate()))
    status, told = clerkflow("verify", "toy")
    assert status == 1
    assert "clerkflow sign toy" in told


# sign


def signing(monkeypatch: pytest.MonkeyPatch) -> str:
    """Give this machine a key that it trusts; the public half."""
    key = Ed25519PrivateKey.generate()
    monkeypatch.setenv("CLERKFLOW_SIGNING_KEY", base64.b64encode(key.private_bytes_raw()).decode())
    monkeypatch.setenv("CLERKFLOW_PUBLIC_KEYS", public_key_of(key))
    return public_key_of(key)


def test_sign_puts_a_signature_under_the_champion_that_the_other_commands_then_take(
    clerkflow: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = crowned(1)
    public = signing(monkeypatch)
    status, told = clerkflow("sign", "toy")
    assert status == 0
    assert f"{first}: signed by {public}" in told
    assert clerkflow("verify", "toy")[0] == 0


def test_sign_without_a_key_says_how_to_make_one(clerkflow: Command) -> None:
    crowned(1)
    status, told = clerkflow("sign", "toy")
    assert status == 1
    assert "python -m infra.signing FILE" in told


def test_sign_refuses_what_is_damaged(clerkflow: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = crowned(1)
    open_store().write(shard_of(first), b"damaged")
    signing(monkeypatch)
    status, told = clerkflow("sign", "toy")
    assert status == 1
    assert "is not signed, for it is not what was published" in told
    assert read_unsigned(open_store(), "toy", first).signature is None


def test_a_new_key_takes_the_place_of_an_old_signature(clerkflow: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine that only signs, and trusts no key by name."""
    signing(monkeypatch)
    crowned(1)
    public = signing(monkeypatch)
    monkeypatch.delenv("CLERKFLOW_PUBLIC_KEYS")
    status, told = clerkflow("sign", "toy")
    assert (status, f"signed by {public}" in told) == (0, True)


# export


def test_export_writes_a_folder_that_plain_transformers_opens(clerkflow: Command, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=16, vocab_size=50)).eval()
    model.save_pretrained(tmp_path / "model")
    files = {"config.json": Spans.of(tmp_path / "model" / "config.json")} | shards_of(tmp_path / "model", 6_000)
    version = publish_version(open_store(), "toy", files, 2_000, created="2024-01-31T08:00:00Z", run="r").version
    move_alias(open_store(), "toy", version, "test", instead_of=None)
    status, told = clerkflow("export", "toy", "champion", str(tmp_path / "out" / "deep"))
    assert (status, f"version {version} is in {tmp_path / 'out' / 'deep'}" in told) == (0, True)
    assert {path.name for path in (tmp_path / "out" / "deep").iterdir()} == set(files)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["deep"]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "deep", local_files_only=True).eval()
    tokens = torch.arange(12).reshape(1, 12)
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, again(tokens).logits)


def test_export_of_an_adapter_beside_its_base_says_what_opens_both(clerkflow: Command, tmp_path: Path) -> None:
    files = {"config.json": Spans((b"1",)), "adapter_model.safetensors": Spans((b"a",))}
    version = publish_version(open_store(), "toy", files, created="2024-01-01T08:00:00Z", run="run-1").version
    status, told = clerkflow("export", "toy", version, str(tmp_path / "out"))
    assert (status, "without peft, transformers opens the base alone" in " ".join(told.split())) == (0, True)
    assert "LoRA" not in clerkflow("export", "toy", published(2).version, str(tmp_path / "other"))[1]


def test_an_exported_folder_is_ones_own_and_an_empty_folder_may_be_there(clerkflow: Command, tmp_path: Path) -> None:
    crowned(1)
    (tmp_path / "out").mkdir()
    assert clerkflow("export", "toy", "champion", str(tmp_path / "out"))[0] == 0
    (tmp_path / "out" / "config.json").write_text("mine now")


def test_an_exported_folder_may_be_the_one_where_one_is(clerkflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crowned(1)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    status, told = clerkflow("export", "toy", "champion", ".")
    assert status == 0, told
    assert (tmp_path / "here" / "config.json").read_text() == "1"


def test_export_never_writes_into_a_folder_with_something_in_it(clerkflow: Command, tmp_path: Path) -> None:
    crowned(1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for place in ("out", "out/thesis.txt"):
        status, told = clerkflow("export", "toy", "champion", str(tmp_path / place))
        assert (status, "name another one" in told) == (1, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_export_of_a_damaged_version_leaves_nothing_behind(clerkflow: Command, tmp_path: Path) -> None:
    (first,) = crowned(1)
    open_store().write(shard_of(first), b"damaged")
    status, told = clerkflow("export", "toy", "champion", str(tmp_path / "out" / "deep"))
    assert (status, "cannot be used" in told) == (1, True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("words", [["export", "toy", "challenger", "out"], ["verify", "toy", "challenger"], ["sign", "toy", "challenger"]])
def test_an_alias_that_stands_for_nothing_is_told_with_the_versions_there_are(clerkflow: Command, words: list[str]) -> None:
    (first,) = crowned(1)
    status, told = clerkflow(*words)
    assert status in (1, 2)
    assert f"toy has no challenger yet; published are: {first}" in told


# gc


def test_gc_only_says_what_would_go_until_it_is_told_to_delete(clerkflow: Command) -> None:
    versions = crowned(1, 2, 3, 4)
    status, told = clerkflow("gc", "toy", "--keep", "1", "--grace-hours", "0")
    assert status == 0
    assert "toy: would remove 2 versions and 6 objects, 0.2 MiB" in told
    assert f"2 versions stay: {versions[3]}, {versions[2]}" in told
    assert len(list(version_names(open_store(), "toy"))) == 4
    following = told.split("clerkflow ")[-1].split()
    status, told = clerkflow(*following)
    assert (status, "toy: removed 2 versions and 6 objects" in told) == (0, True)
    assert sorted(version_names(open_store(), "toy")) == sorted(versions[2:])


def test_gc_leaves_what_is_younger_than_a_day_alone(clerkflow: Command) -> None:
    crowned(1, 2, 3, 4)
    assert "--delete" not in clerkflow("gc", "toy", "--keep", "1")[1]
    status, told = clerkflow("gc", "toy", "--keep", "1", "--delete")
    assert (status, "removed 0 versions and 0 objects" in told) == (0, True)
    assert len(list(version_names(open_store(), "toy"))) == 4


def test_gc_must_be_told_how_many_stay_and_one_at_least(clerkflow: Command) -> None:
    for words in ([], ["--keep", "0"], ["--keep", "1", "--grace-hours", "-1"]):
        assert clerkflow("gc", "toy", *words)[0] == 2


def test_gc_beside_another_one_is_told(clerkflow: Command) -> None:
    crowned(1)
    open_store().write("toy/models/collection.json", b"another")
    status, told = clerkflow("gc", "toy", "--keep", "1", "--delete")
    assert (status, "another collection runs" in told) == (1, True)


def test_gc_says_which_manifest_is_damaged_and_removes_nothing(clerkflow: Command) -> None:
    first, _, _ = crowned(1, 2, 3)
    open_store().write(manifest_key("toy", first), b"{}")
    keys = [info.key for info in open_store().list("toy/")]
    status, told = clerkflow("gc", "toy", "--keep", "1", "--grace-hours", "0", "--delete")
    assert (status, f"{first}/manifest.json is damaged" in told) == (1, True)
    assert [info.key for info in open_store().list("toy/")] == keys


def test_these_commands_start_without_the_heavy_libraries(toy: Path) -> None:
    import subprocess
    import sys

    assert isinstance(open_store(), LocalStore)
    crowned(1)
    code = (
        "import sys; from contextlib import suppress; from flows.__main__ import main\n"
        "for words in (['models', 'toy'], ['verify', 'toy'], ['gc', 'toy', '--keep', '1']):\n"
        "    sys.argv = ['clerkflow', *words]\n"
        "    with suppress(SystemExit): main()\n"
        "heavy = {'torch', 'great_expectations', 'evidently', 'transformers', 'datasets', 'prefect', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=Path(line.__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("name", ["verify", "sign"])
def test_a_version_that_is_not_there_is_a_mistake_of_the_command_and_those_there_are_named(name: str, clerkflow: Command) -> None:
    (first,) = crowned(1)
    status, told = clerkflow(name, "toy", "nowhere")
    assert status == 2
    assert f"toy has no version 'nowhere'; published are: {first}" in told


def test_models_lists_the_others_when_one_version_is_damaged(clerkflow: Command) -> None:
    first, second = crowned(1, 2)
    open_store().write(manifest_key("toy", first), b"{")
    status, told = clerkflow("models", "toy")
    assert status == 0
    assert second in told
