"""The containers' files, read by the tools that would run them, where no engine runs here."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from infra.minio import SOURCE

INFRA = Path(__file__).resolve().parents[2] / "infra"
PASSWORDS = {
    "MINIO_ROOT_USER": "u",
    "MINIO_ROOT_PASSWORD": "p" * 8,
    "PREFECT_AUTH": "a:b",
    "POSTGRES_PASSWORD": "q",
    "ARRIVALS_TOKEN": "t" * 48,
}


def compose(*words: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """docker-compose reading our file; it needs no engine for that."""
    program = shutil.which("docker-compose")
    if program is None:
        assert not os.environ.get("CI"), "CI reads the containers' files too: apt-get install docker-compose"
        pytest.skip("no docker-compose: apt-get install docker-compose")
    line = [program, "-f", str(INFRA / "compose.yaml"), *words]
    return subprocess.run(line, env={"PATH": "/usr/bin:/bin"} | environment, cwd=INFRA, capture_output=True, text=True, timeout=300)


def test_compose_takes_the_file_and_publishes_on_loopback_only() -> None:
    answer = compose("config", environment=PASSWORDS)
    assert answer.returncode == 0, answer.stderr
    services = yaml.safe_load(answer.stdout)["services"]
    assert set(services) == {"postgres", "minio", "prefect", "provision", "worker", "watcher", "reports"}
    ports = [str(port) for service in services.values() for port in service.get("ports", [])]
    assert ports and all("127.0.0.1" in port for port in ports)


def test_compose_refuses_to_start_without_passwords() -> None:
    answer = compose("config", environment=PASSWORDS | {"MINIO_ROOT_PASSWORD": ""})
    assert answer.returncode != 0
    assert "infra/.env.example" in answer.stderr


def test_every_service_is_pinned_and_no_password_stands_in_the_file() -> None:
    text = (INFRA / "compose.yaml").read_text(encoding="utf-8")
    images = re.findall(r"image: (\S+)", text)
    assert images and all(":" in image and not image.endswith(":latest") for image in images)
    assert not re.findall(r"(?:PASSWORD|SECRET_KEY|AUTH\w*): (?!\$\{)\S+", text)


def test_the_image_builds_the_same_minio_as_the_tests_and_does_not_run_as_root() -> None:
    text = (INFRA / "Dockerfile").read_text(encoding="utf-8")
    assert SOURCE in text
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    assert all("USER 10001" in stage for stage in stages if " AS minio-source" not in stage)


@pytest.mark.parametrize("file", sorted((INFRA / "kubernetes").glob("*.yaml")), ids=lambda file: file.name)
def test_kubernetes_takes_every_manifest(file: Path) -> None:
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_kubernetes_takes_the_job_that_a_run_becomes() -> None:
    template = json.loads((INFRA / "kubernetes" / "job-template.json").read_text(encoding="utf-8"))
    values = {"name": "run", "command": ["prefect", "flow-run", "execute"], "env": [{"name": "A", "value": "b"}], "labels": {"a": "b"}}
    values |= {name: spec["default"] for name, spec in template["variables"]["properties"].items() if spec["default"]}
    filled = json.dumps(template["job_configuration"]["job_manifest"])
    for name, value in values.items():
        filled = filled.replace(f'"{{{{ {name} }}}}"', json.dumps(value)).replace(f"{{{{ {name} }}}}", str(value))
    job = json.loads(filled)
    kubernetes_validate.validate(job, "1.31", strict=True)
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert set(template["variables"]["properties"]) == set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
