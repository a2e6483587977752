"""deploy/kubernetes is what Kubernetes takes and what the service knows, and the service runs within its bounds."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema_rs import Draft202012Validator

from captioning.settings import Settings
from tests.conftest import ROOT, SAMPLES, Service, required_program

FOLDER = ROOT / "deploy" / "kubernetes"
SCHEMAS = json.loads(Path(__file__).with_name("schemas").joinpath("kubernetes-1.37.json").read_text())
PLANS = ["int8", "torch"]
Manifest = dict[str, Any]


def merged(base: Any, patch: Any) -> Any:
    """Return ``base`` with a strategic merge patch applied, as far as one is used here: lists of named things merge."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: merged(base.get(key), value) for key, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list):
        patches = {item["name"]: item for item in patch}
        assert patches.keys() <= {item["name"] for item in base}
        return [merged(item, patches.get(item["name"], {})) for item in base]
    return patch


def built(plan: str) -> dict[str, Manifest]:
    """Return the objects of a plan by kind, as `kubectl kustomize` puts them together, but for the image's name."""
    folder = FOLDER / plan
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    objects: dict[str, Manifest] = {}
    for resource in kustomization["resources"]:
        if (folder / resource).is_dir():
            objects |= built((folder / resource).name)
        else:
            found = yaml.safe_load((folder / resource).read_text())
            objects[found["kind"]] = found
    for patch in kustomization.get("patches", ()):
        change = yaml.safe_load((folder / patch["path"]).read_text())
        objects[change["kind"]] = merged(objects[change["kind"]], change)
    return objects


def pod(plan: str) -> Manifest:
    found: Manifest = built(plan)["Deployment"]["spec"]["template"]
    return found


def container(plan: str) -> Manifest:
    [found] = pod(plan)["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def values(plan: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(plan)["env"] if "value" in variable}


@pytest.mark.parametrize("plan", PLANS)
def test_kubernetes_schemas_take_each_object(plan: str) -> None:
    for kind, found in built(plan).items():
        [name] = [name for name in SCHEMAS["$defs"] if name.endswith(f".{kind}")]
        schema = {"$ref": f"#/$defs/{name}", "$defs": SCHEMAS["$defs"]}
        assert [str(error) for error in Draft202012Validator(schema).iter_errors(found)] == []


def test_the_schemas_refuse_what_is_misspelt() -> None:
    schema = {"$ref": "#/$defs/io.k8s.api.core.v1.Container", "$defs": SCHEMAS["$defs"]}
    assert Draft202012Validator(schema).is_valid(container("int8"))
    assert not Draft202012Validator(schema).is_valid(container("int8") | {"livenesProbe": {}})


@pytest.mark.parametrize("plan", PLANS)
def test_variables_are_settings_with_values_that_they_take(plan: str) -> None:
    names = {variable["name"] for variable in container(plan)["env"]}
    assert names <= {name.upper() for name in Settings.model_fields}
    Settings.model_validate({name.lower(): value for name, value in values(plan).items()})


def test_whoever_looks_for_the_port_finds_it() -> None:
    [port] = container("int8")["ports"]
    annotations = pod("int8")["metadata"]["annotations"]
    [exposed] = built("int8")["Service"]["spec"]["ports"]
    assert values("int8")["PORT"] == annotations["prometheus.io/port"] == str(port["containerPort"])
    probes = [container("int8")[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "liveness", "readiness")]
    assert {*probes, exposed["targetPort"]} == {port["name"]}


def test_labels_lead_to_the_pods() -> None:
    objects = built("int8")
    labels = pod("int8")["metadata"]["labels"]
    selectors = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod("int8")["spec"]["topologySpreadConstraints"]),
    ]
    assert all(selector == labels for selector in selectors)
    target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", objects["Deployment"]["metadata"]["name"])


def test_a_stop_has_time_for_the_pause_and_for_what_was_accepted() -> None:
    pause = container("int8")["lifecycle"]["preStop"]["sleep"]["seconds"]
    timeout = Settings.model_validate({name.lower(): value for name, value in values("int8").items()}).request_timeout_s
    assert pod("int8")["spec"]["terminationGracePeriodSeconds"] > pause + math.ceil(timeout) + 2


def test_512_mb_have_the_bounds_of_render() -> None:
    blueprint = yaml.safe_load((ROOT / "render.yaml").read_text())
    rendered = {
        item["key"]: str(item["value"]).lower() for item in blueprint["services"][0]["envVars"] if "value" in item
    }
    bounds = {name: value for name, value in values("int8").items() if name != "PORT"}
    assert bounds.items() <= rendered.items()


def test_pods_are_added_long_before_permits_run_out() -> None:
    [metric] = built("int8")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    target = metric["pods"]["target"]
    assert target["type"] == "AverageValue"
    assert int(target["averageValue"]) == int(values("int8")["MAX_CONCURRENT_REQUESTS"]) // 4


def confined(template: Manifest, model: Path) -> list[str]:
    """Return a command that runs the one behind it as that pod's container runs: user, capabilities, file systems.

    ``model`` is a folder that stands at /mnt there, for the image's /model.
    """
    spec = template["spec"]
    [ran] = spec["containers"]
    user, group = spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]
    assert ran["securityContext"]["readOnlyRootFilesystem"]
    assert ran["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not ran["securityContext"]["allowPrivilegeEscalation"]
    mounts = [f"mount -n --bind {model} /mnt", "mount -n -o remount,bind,ro /mnt", "mount -n -o remount,bind,ro /"]
    python = Path(sys.base_prefix)
    if closed := next((parent for parent in python.parents if not parent.stat().st_mode & 0o001), None):
        # A home that only its owner may enter: Python alone is left in it.
        mounts.append(f"mount -n --bind {python} /media && mount -n -t tmpfs -o mode=755 none {closed}")
        mounts.append(f"mkdir -p {python} && mount -n --move /media {python}")
    for volume in ran["volumeMounts"]:
        path = volume["mountPath"].replace("/model", "/mnt")
        mounts.append(f"mount -n -t tmpfs -o mode=777 none {path}")
    drop = f"setpriv --reuid={user} --regid={group} --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs"
    return [required_program("unshare"), "--mount", "sh", "-c", f'{" && ".join(mounts)} && exec {drop} "$0" "$@"']


def test_it_serves_within_the_pods_bounds(start_service: Callable[..., Service], int8_folder: Path) -> None:
    """No container runs here: user, capabilities and file systems are applied by unshare and setpriv."""
    can_be_read = all(folder.stat().st_mode & 0o001 for folder in (ROOT, *ROOT.parents))
    can_mount = subprocess.run([required_program("unshare"), "--mount", "true"], capture_output=True).returncode == 0
    if os.geteuid() or not can_be_read or not can_mount:
        pytest.skip("only root may mount and change users, and other users must be able to read the checkout")
    if ROOT.is_relative_to("/tmp"):
        pytest.skip("the pod has an empty /tmp, and the checkout lies there")
    box = confined(pod("int8"), int8_folder)
    environment = {name: value for name, value in values("int8").items() if name != "PORT"}
    service = start_service(box=box, ENGINE="int8", MODEL_ID="/mnt", API_KEYS="gateway:s3cret", **environment)
    service.wait_until_ready()

    for probe in ("startup", "liveness", "readiness"):
        assert service.get(container("int8")[f"{probe}Probe"]["httpGet"]["path"]).status_code == 200
    answer = service.post(
        data=SAMPLES[0].read_bytes(), headers={"Content-Type": "image/jpeg", "Authorization": "Bearer s3cret"}
    )
    assert re.fullmatch(r"an? .+ on an? .+ background", answer.json()["output"])
    scraped = service.get(pod("int8")["metadata"]["annotations"]["prometheus.io/path"]).text
    [metric] = built("int8")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert re.search(rf"^{metric['pods']['metric']['name']} 0\.0$", scraped, re.MULTILINE)
    assert "prepacked" not in service.log.read_text(), "the weights are mapped, not copied"

    [worker] = service.worker_pids()
    decoders = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in [str(worker), *decoders]]
    user = pod("int8")["spec"]["securityContext"]["runAsUser"]
    assert all(re.search(rf"^Uid:\t{user}\t{user}\t{user}\t{user}$", status, re.MULTILINE) for status in statuses)
    assert service.stop() == 0
