"""What is deployed: Render's blueprint, the Dockerfile and the units say what the service and its settings know.

Render publishes a JSON schema of its blueprints, https://render.com/schema/render.yaml.json. It could not be had whole
where this was written, so the keys below are those that https://render.com/docs/blueprint-spec documents.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from captioning.model.registry import engine_kind
from captioning.settings import Settings
from tests.conftest import ROOT, required_program

BLUEPRINT: dict[str, Any] = yaml.safe_load((ROOT / "render.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = {service["name"]: service for service in BLUEPRINT["services"]}
KEYS = {
    "type", "name", "runtime", "region", "plan", "numInstances", "scaling", "autoDeployTrigger", "buildFilter",
    "buildCommand", "startCommand", "healthCheckPath", "maxShutdownDelaySeconds", "envVars",
}  # fmt: skip
SOURCES = {"value", "generateValue", "fromService", "sync"}


def environment(service: str) -> dict[str, dict[str, Any]]:
    return {variable["key"]: variable for variable in SERVICES[service]["envVars"]}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_keys_that_render_documents(name: str) -> None:
    service = SERVICES[name]
    assert service.keys() <= KEYS
    assert {"type", "name", "runtime", "plan", "region", "buildCommand", "startCommand"} <= service.keys()
    assert service["autoDeployTrigger"] in ("off", "commit", "checksPass")
    assert service["buildFilter"].keys() <= {"paths", "ignoredPaths"}
    for variable in service["envVars"]:
        assert len(variable.keys() & SOURCES) == 1
        assert variable.keys() <= {"key", *SOURCES}
    for pattern in service["buildFilter"]["paths"]:
        assert list(ROOT.glob(pattern)), pattern


def test_the_services_variables_are_its_settings() -> None:
    others = {"GUNICORN_CMD_ARGS"}
    assert set(environment("smartscan-captioning")) - others <= {name.upper() for name in Settings.model_fields}
    values = {
        name.lower(): str(variable["value"]).lower()
        for name, variable in environment("smartscan-captioning").items()
        if "value" in variable and name not in others
    }
    Settings.model_validate(values)


def test_the_gateway_reaches_the_service_over_the_private_network() -> None:
    gateway, service = environment("smartscan-gateway"), environment("smartscan-captioning")
    assert service["PORT"]["value"] != 10000
    for variable in gateway.values():
        if source := variable.get("fromService"):
            assert source["name"] == "smartscan-captioning"
            assert source.get("property") == "hostport" or source["envVarKey"] in service
    documented = re.findall(r"^\| `([A-Z_]+)`", (ROOT / "examples" / "gateway" / "README.md").read_text(), re.MULTILINE)
    assert gateway.keys() - {"NODE_VERSION"} <= set(documented)
    assert SERVICES["smartscan-gateway"]["region"] == SERVICES["smartscan-captioning"]["region"]


def test_the_version_of_python_is_a_full_one() -> None:
    assert re.fullmatch(r"3\.11\.\d+\n", (ROOT / ".python-version").read_text())


def test_the_image_exports_again_only_when_the_export_changes() -> None:
    """Its first two stages copy what the export imports, and nothing of what answers requests."""
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    stage = "".join(stages[1:3])
    assert [text.split("\n")[0] for text in stages[1:3]] == ["${PYTHON} AS libraries", "libraries AS export"]
    copied = set(re.findall(r"[\w./]+", " ".join(re.findall(r"^COPY (.*) \S+$", stage, re.MULTILINE))))
    script = (
        "import sys, tools.export_int8; print(*(m.__file__ for m in sys.modules.values() if hasattr(m, '__file__')))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    own = {path.removeprefix(f"{ROOT}/") for path in ran.stdout.split() if path.startswith(f"{ROOT}/")}
    needed = {path for path in own if not path.startswith((".venv", "build"))}
    assert needed
    for path in needed:
        parents = {path, *(str(parent) for parent in (ROOT / path).relative_to(ROOT).parents)}
        assert copied & (parents - {"."}) or ("captioning/*.py" in stage and path.count("/") == 1), path
    assert not copied & {"captioning", "captioning/web", "captioning/cli", "captioning/fetch", "captioning/server"}


def test_the_image_can_be_built_for_an_engine() -> None:
    """Its last stage begins from the one that is named like the engine, which int8 is by default."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE))
    assert "\nARG ENGINE=int8\n" in dockerfile
    for engine in stages - {"libraries", "export"}:
        assert engine_kind(Settings(engine=engine))
    assert {path.parent.name for path in (ROOT / "deploy" / "kubernetes").glob("*/kustomization.yaml")} <= stages


def test_what_the_image_copies_is_let_through() -> None:
    names = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in " ".join(names).split():
        assert list(ROOT.glob(name)), name
        assert {name, name.split("/")[0]} & allowed, name


def test_what_is_left_out_of_a_deployment_is_there_to_be_left_out() -> None:
    """Each line of the list, which grep reads, takes out one requirement: a name that went would take out none."""
    requirements = (ROOT / "requirements.txt").read_text()
    for pattern in (ROOT / "deploy" / "export-only.txt").read_text().splitlines():
        assert len(re.findall(pattern, requirements, re.MULTILINE)) == 1, pattern


def test_the_systemd_unit_is_sound() -> None:
    unit = ROOT / "deploy" / "smartscan-captioning.service"
    command = [required_program("systemd-analyze"), "verify", "--man=no", str(unit)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    complaints = [line for line in ran.stderr.splitlines() if "smartscan" in line and "not executable" not in line]
    assert complaints == []
