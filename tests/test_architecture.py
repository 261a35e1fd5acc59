"""The house's rules that a machine can hold: which way imports go, what is imported at start, and what the README promises."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {"infra": 0, "tasks": 1, "flows": 2}
STAGES = ("ingestion", "validation", "preparation", "finetuning", "compression", "evaluation", "gate", "publishing", "scoring", "drift")


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))], ids=str)
def test_imports_go_from_flows_to_tasks_to_infra_and_never_back(path: Path) -> None:
    here = FLOORS[path.relative_to(ROOT).parts[0]]
    above = {name for name in imports_of(path) if FLOORS.get(name.split(".")[0], -1) > here}
    assert not above


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_never_uses_a_later_stage(stage: str) -> None:
    later = {f"tasks.{name}" for name in STAGES[STAGES.index(stage) + 1 :]}
    assert not later & imports_of(ROOT / "tasks" / f"{stage}.py")


@pytest.mark.parametrize("command", [["--help"], ["check", "ticket_routing"]])
def test_help_and_check_start_without_the_heavy_libraries(command: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['clerkflow', *sys.argv[1:]]\n"
        "from flows.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: status = end.code\n"
        "heavy = {'torch', 'great_expectations', 'evidently', 'transformers', 'datasets', 'prefect', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(status)"
    )
    answer = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr


def test_no_pickle_and_no_remote_code_anywhere() -> None:
    for path in [path for floor in FLOORS for path in (ROOT / floor).rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(import|from) pickle\b|pickle\.(load|dump)|torch\.(load|save)\(|trust_remote_code\W+True", text), path


def test_the_tree_in_the_readme_is_true() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("```")[5]
    floor, missing = "", []
    for line in tree.splitlines():
        floor = found[1] if (found := re.match(r"([a-z]+/)", line)) else floor
        named = re.findall(
            r"(?<![\w/])[\w.]+\.(?:py|md|yaml|toml|txt|example)\b", line.replace("process.yaml", "").replace("README.md (", "")
        )
        missing += [name for name in named if line[:1] == " " and not (ROOT / floor / name).exists()]
    assert missing == []


@pytest.mark.parametrize("floor", FLOORS)
def test_each_floor_names_all_its_modules_and_no_other(floor: str) -> None:
    text = (ROOT / floor / "__init__.py").read_text(encoding="utf-8")
    named = re.findall(r"^([a-z_]+\.py)  ", text, re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (ROOT / floor).glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("readme", ["README.md", "data/README.md", "infra/README.md", "benchmarks/README.md"])
def test_every_make_target_and_clerkflow_command_in_the_readmes_exists(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = "".join((ROOT / "flows" / name).read_text(encoding="utf-8") for name in ("__main__.py", "again.py", "versions.py"))
    commands = set(re.findall(r"^def ([a-z]+)\(", code, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    assert set(re.findall(r"`(?:\.venv/bin/)?clerkflow ([a-z]+)", text)) <= commands
