"""The files of experiments/clusters against what is published for them: nothing here has a cluster to try them on."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import typer
import yaml

from silo_tune.cli import app
from silo_tune.machine import VERSION

ROOT = Path(__file__).parent.parent
CLUSTERS = ROOT / "experiments" / "clusters"
FOLDERS = sorted(path for path in CLUSTERS.iterdir() if path.is_dir())
FILES = sorted(path for path in CLUSTERS.rglob("*") if path.is_file())
DOCKERFILE = CLUSTERS / "docker" / "Dockerfile"
SBATCH = CLUSTERS / "slurm" / "silo-tune.sbatch"

# Where the image keeps the clone.
INSIDE = "/home/ray/silo-tune/"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def job() -> Any:
    return load(CLUSTERS / "kuberay" / "rayjob.yaml")["spec"]


def pods() -> list[Any]:
    """Pod specs of the head and of every group of workers."""
    cluster = job()["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


# --- commands ---


def commands() -> list[tuple[str, str]]:
    """Every `silo-tune` command in the folder's files, with the file that has it."""
    found = []
    for path in FILES:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        found += [(path.name, line) for line in re.findall(r"\bsilo-tune (?:run|plan|report)\b[^`'\n]*", text)]
    return found


@pytest.mark.parametrize(("file", "line"), commands())
def test_every_command_is_one_that_silo_tune_takes(file: str, line: str) -> None:
    words = shlex.split(line.removesuffix("&"), comments=True)[1:]
    context = typer.main.get_command(app).make_context("silo-tune", list(words))
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    parsed = command.make_context(words[0], words[1:], parent=context).params
    assert parsed["address"] is not None, f"{file}: without --address it would start a cluster of its own"
    assert parsed["out"] is not None, f"{file}: without --out the run would lie on one node"
    if "$" not in parsed["study"] and parsed["study"] != "STUDY.toml":
        assert (ROOT / parsed["study"].removeprefix(INSIDE)).is_file(), f"{file}: no {parsed['study']}"


def test_there_are_commands_to_check() -> None:
    assert {file for file, _ in commands()} >= {"rayjob.yaml", "silo-tune.sbatch", "README.md"}


# --- every folder ---


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_readme_says_what_to_edit_the_command_where_the_run_goes_and_what_a_restart_does(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.count("\n- ") in (4, 5)
    for word in ("Edit", "Command", "run goes", "lost|restart|requeue"):
        assert re.search(word, text), word
    named = re.findall(r"experiments/[\w./-]+\.\w+|experiments/clusters/docker/Dockerfile", text)
    named += list(re.findall(r"\]\(([^)]+)\)", text))
    assert named
    for name in named:
        assert (ROOT / name.removeprefix(INSIDE)).exists() or (folder / name).exists(), name


def test_the_first_page_leads_to_every_folder() -> None:
    text = (CLUSTERS / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in FOLDERS} == set(re.findall(r"\]\(([\w-]+)/README\.md\)", text))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_file_holds_a_credential_or_turns_authentication_off(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    secrets = r"AKIA|PRIVATE KEY|(?i:secret_access|access_key|password|RAY_AUTH_TOKEN\s*[=:])|\b[0-9a-f]{32,}\b"
    assert not re.search(secrets, text)
    assert not re.search(r"AUTH_MODE\W+(?!token\b)\w|mode: disabled", text)


# --- Kubernetes ---

# Fields of the custom resource that KubeRay 1.6 defines, as far as the manifest may use them.
JOB = {
    *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint"),
    *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata"),
    *("rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig"),
    *("submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
}
CLUSTER = {
    *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec"),
    *("headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs"),
}
HEAD = {"enableIngress", "headService", "rayStartParams", "serviceType", "template"}
WORKERS = {
    *("groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas"),
    *("scaleStrategy", "template"),
}
POD = {"containers", "serviceAccountName", "terminationGracePeriodSeconds", "volumes"}
CONTAINER = {"image", "name", "resources", "volumeMounts"}


def test_the_rayjob_has_fields_that_kuberay_knows_and_no_others() -> None:
    manifest = load(CLUSTERS / "kuberay" / "rayjob.yaml")
    assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job()["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert job().keys() <= JOB
    assert cluster.keys() <= CLUSTER
    assert {"rayStartParams", "template"} <= head.keys() <= HEAD
    for group in workers:
        assert {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"} <= group.keys() <= WORKERS
        assert 0 < group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (head, *workers):
        assert group["template"].keys() <= {"metadata", "spec"}
        # `ray start` takes text; YAML's numbers would be refused.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for pod in pods():
        assert {"containers"} <= pod.keys() <= POD
        assert all({"image", "name", "resources"} <= container.keys() <= CONTAINER for container in pod["containers"])


def test_the_rayjob_keeps_the_token_on_and_goes_on_after_a_lost_head() -> None:
    spec, cluster = job(), job()["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert spec["backoffLimit"] >= 2  # the lease of a lost driver lives for a minute
    assert spec["shutdownAfterJobFinishes"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert pods()[0]["terminationGracePeriodSeconds"] > int(image_settings()["RAY_JOB_STOP_WAIT_TIME_S"])


def test_every_pod_has_shared_memory_resources_and_an_account_for_the_bucket() -> None:
    for pod in pods():
        assert pod["serviceAccountName"]
        container = pod["containers"][0]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        (mount,) = container["volumeMounts"]
        (volume,) = pod["volumes"]
        assert mount["mountPath"] == "/dev/shm"
        assert volume["name"] == mount["name"]
        shared = volume["emptyDir"]
        assert shared["medium"] == "Memory"
        assert int(shared["sizeLimit"].removesuffix("Gi")) < int(container["resources"]["limits"]["memory"][:-2])


# --- ray up ---


def test_ray_up_takes_its_file() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    config = load(CLUSTERS / "ray-up" / "cluster.yaml")
    jsonschema.validate(config, schema)
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert sum(kind.get("max_workers", 0) for kind in types.values()) <= config["max_workers"]
    assert any(kind["resources"]["CPU"] >= 1 for kind in types.values())


def test_ray_up_brings_the_token_to_every_container() -> None:
    config = load(CLUSTERS / "ray-up" / "cluster.yaml")
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]


# --- the image ---


def instructions() -> list[tuple[str, list[str]]]:
    """The Dockerfile as (instruction, words)."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [(words[0], words[1:]) for words in map(shlex.split, lines)]


def image_settings() -> dict[str, str]:
    return dict(word.split("=", 1) for name, words in instructions() if name == "ENV" for word in words)


def test_the_image_copies_what_is_there_and_the_package_can_be_built_from_it() -> None:
    copied = [word for name, words in instructions() if name == "COPY" for word in words[1:-1]]
    assert all(list(ROOT.glob(pattern)) for pattern in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {"pyproject.toml", project["readme"], *project["license-files"]}
    wanted |= {pattern.rstrip("*") for pattern in ("silo_tune*", "analysis*")}
    assert wanted <= set(copied)


def test_the_image_has_a_python_that_the_project_takes_and_the_ray_that_the_manifest_names() -> None:
    base = next(words[0] for name, words in instructions() if name == "ARG" and words[0].startswith("BASE="))
    found = re.fullmatch(r"BASE=rayproject/ray:(\d+\.\d+\.\d+)-py(\d)(\d+)-cpu", base)
    assert found is not None
    assert found[1] == job()["rayClusterSpec"]["rayVersion"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"])
    assert lowest is not None
    assert (int(found[2]), int(found[3])) >= (int(lowest[1]), int(lowest[2]))


def test_the_image_runs_as_a_plain_user_in_the_folder_that_the_commands_name() -> None:
    users = [words for name, words in instructions() if name == "USER"]
    assert users == [["ray"]]
    assert [words for name, words in instructions() if name == "WORKDIR"] == [[INSIDE.rstrip("/")]]


def test_kubernetes_and_ray_up_take_the_image_that_the_readme_builds() -> None:
    images = {container["image"] for pod in pods() for container in pod["containers"]}
    images.add(load(CLUSTERS / "ray-up" / "cluster.yaml")["docker"]["image"])
    assert images == {f"REGISTRY/silo-tune:{VERSION}"}
    readme = (CLUSTERS / "docker" / "README.md").read_text(encoding="utf-8")
    assert readme.count(f"REGISTRY/silo-tune:{VERSION}") == 2


# --- Slurm ---

# All of shellcheck's optional checks but two: braces around every name, and names that only Slurm assigns.
CHECKS = (
    "add-default-case,avoid-negated-conditions,avoid-nullary-conditions,check-extra-masked-returns,"
    "check-set-e-suppressed,deprecate-which,quote-safe-variables,require-double-brackets,useless-use-of-cat"
)


def test_shellcheck_finds_nothing_in_the_slurm_script() -> None:
    done = subprocess.run(
        ["shellcheck", f"--enable={CHECKS}", str(SBATCH)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_slurm_script_ends_before_its_time_and_goes_on_in_the_queue() -> None:
    text = SBATCH.read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, flags=re.MULTILINE))
    assert len(options) == text.count("#SBATCH")
    assert {"nodes", "cpus-per-task", "time", "requeue"} <= options.keys()
    assert options["open-mode"] == "append"  # a requeued job would wipe what the first one said
    signal = re.fullmatch(r"B:(\w+)@\d+", options["signal"])
    assert signal is not None
    assert re.search(rf"^trap '.*kill -TERM .*' {signal[1]}$", text, flags=re.MULTILINE)
    assert "scontrol requeue" in text


def test_the_slurm_script_refuses_to_begin_without_a_study_and_a_run() -> None:
    for arguments in ([], ["study.toml"]):
        done = subprocess.run(["bash", str(SBATCH), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "usage: sbatch silo-tune.sbatch STUDY.toml RUN" in done.stderr
