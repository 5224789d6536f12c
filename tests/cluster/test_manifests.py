"""What ``ray up`` and kubectl are given: against Ray's own schema, and the fields that KubeRay's resources have."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import llmemb
from llmemb.job import BAD_INPUT

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTER = REPOSITORY / "cluster"
JOBS = {file.stem for file in (REPOSITORY / "jobs").glob("*.py")}
IMAGE = f"REGISTRY/llmemb:{llmemb.__version__}"
# The fields of KubeRay 1.6's ray.io/v1 that are used here, and what they hold.
RAY_JOB: dict[str, Any] = {
    "clusterSelector": dict,
    "entrypoint": str,
    "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
}
WORKER_GROUP: dict[str, Any] = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "rayStartParams": dict,
    "labels": dict,
    "template": dict,
}
RAY_CLUSTER: dict[str, Any] = {
    "rayVersion": str,
    "authOptions": {"mode": {"token", "disabled"}, "secretName": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"version": {"v1", "v2"}, "idleTimeoutSeconds": int},
    "headGroupSpec": {"rayStartParams": dict, "labels": dict, "template": dict},
    "workerGroupSpecs": [WORKER_GROUP],
}
RAY_CRON_JOB: dict[str, Any] = {"schedule": str, "timeZone": str, "jobTemplate": RAY_JOB}
SPECS = {"RayJob": RAY_JOB, "RayCluster": RAY_CLUSTER, "RayCronJob": RAY_CRON_JOB}


def kubernetes() -> Iterator[dict[str, Any]]:
    for file in sorted((CLUSTER / "kuberay").glob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text())


def check(value: Any, expected: Any, path: str) -> None:
    """Each field is known, and of its kind."""
    if isinstance(expected, dict):
        assert value.keys() <= expected.keys(), path
        for key in value:
            check(value[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, list):
        for index, entry in enumerate(value):
            check(entry, expected[0], f"{path}.{index}")
    elif isinstance(expected, set):
        assert value in expected, path
    else:
        assert isinstance(value, expected), path


def pods() -> list[dict[str, Any]]:
    """The pod specs of all manifests."""
    found = []
    for manifest in kubernetes():
        if manifest["kind"] == "RayCluster":
            groups = [manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]]
            found += [group["template"]["spec"] for group in groups]
        elif manifest["kind"] == "CronJob":
            found.append(manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    return found


def test_ray_accepts_the_aws_cluster():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((CLUSTER / "aws.yaml").read_text()))
    validate_config(config)
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config(config | {"idle_timeout": 5})


def test_aws_nodes_come_and_go_encrypted_and_without_keys():
    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    types = config["available_node_types"]
    workers = {name: kind for name, kind in types.items() if name != config["head_node_type"]}
    assert len(workers) == 3
    assert all(kind["min_workers"] == 0 for kind in workers.values())
    for kind in types.values():
        node = kind["node_config"]
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
        # gp3: up to 1,000 MiB/s, and a quarter of its IOPS, 3,000 where none are said.
        assert all(125 < disk["Ebs"]["Throughput"] <= 750 for disk in node["BlockDeviceMappings"])
        assert node["ImageId"].startswith(("ami-", "resolve:ssm:/aws/service/")), "Ray's own is of Ubuntu 18.04"
        assert "instance-profile" in node["IamInstanceProfile"]["Arn"]
        assert node["MetadataOptions"]["HttpTokens"] == "required"
    assert "InstanceMarketOptions" not in types["gpu_on_demand"]["node_config"]
    assert types["gpu_spot"]["priority"] > types["gpu_on_demand"]["priority"]
    starts = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert config["docker"]["image"] == IMAGE


def test_ray_passes_the_image_on_as_it_is():
    from ray.autoscaler._private.aws.config import _check_ami

    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    wanted = {name: kind["node_config"]["ImageId"] for name, kind in config["available_node_types"].items()}
    _check_ami(config)
    assert {name: kind["node_config"]["ImageId"] for name, kind in config["available_node_types"].items()} == wanted


def test_aws_workers_watch_for_the_notice_and_the_image_has_the_watcher():
    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    command = config["worker_start_ray_commands"][-1]
    assert re.search(
        r"ray start \S.* && \(RAY_ADDRESS=\$RAY_HEAD_IP:6379 setsid nohup python /app/cluster/spot_notice.py .* &\)$",
        command,
    )
    subprocess.run(["bash", "-n", "-c", f"({command})"], check=True)
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    assert "WORKDIR /app\n" in dockerfile
    assert "COPY cluster/spot_notice.py cluster/\n" in dockerfile


def test_the_image_has_what_rays_autoscaler_and_kuberay_want():
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    [extras] = re.findall(r"pip install --constraint constraints.txt '\.\[(.*)\]'", dockerfile)
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    required = {Requirement(line).name for extra in extras.split(",") for line in known[extra]}
    assert required >= {"boto3", "s3fs"}
    assert re.search("^boto3==", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    [packages] = re.findall(r"--no-install-recommends ((?:.|\\\n)*?)\\?\n    &&", dockerfile)
    assert set(packages.replace("\\", "").split()) >= {"wget", "libibverbs1", "ibverbs-providers", "librdmacm1"}


def test_the_documented_policy_lets_arrow_ask_whether_the_bucket_is_there():
    """HeadBucket wants s3:ListBucket, and has no prefix that a condition could match (apache/arrow#49949)."""
    blocks = re.findall(r"```json\n(.*?)```", (REPOSITORY / "docs" / "cluster.md").read_text(), re.DOTALL)
    statements = [statement for block in blocks for statement in json.loads(block)["Statement"]]
    [listing] = [statement for statement in statements if "s3:ListBucket" in statement["Action"]]
    assert listing == {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::BUCKET"}
    [images] = [statement for statement in statements if "ssm:GetParameters" in statement["Action"]]
    assert images["Resource"] == "arn:aws:ssm:*::parameter/aws/service/deeplearning/*"


def test_kuberays_resources_have_known_fields():
    kinds = []
    for manifest in kubernetes():
        if manifest["apiVersion"] == "ray.io/v1":
            kinds.append(manifest["kind"])
            check(manifest["spec"], SPECS[manifest["kind"]], manifest["kind"])
    assert sorted(kinds) == ["RayCluster", "RayCronJob", *["RayJob"] * len(JOBS)]


def test_the_documented_worker_group_has_known_fields():
    blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "cluster.md").read_text(), re.DOTALL)
    [group] = [yaml.safe_load(block)[0] for block in blocks if "groupName" in block]
    check(group, WORKER_GROUP, "docs")
    [container] = group["template"]["spec"]["containers"]
    assert container["image"] == IMAGE
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert "IPC_LOCK" in container["securityContext"]["capabilities"]["add"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts["/dev/shm"] in [v["name"] for v in group["template"]["spec"]["volumes"] if v["emptyDir"]]


def test_every_job_has_a_rayjob_that_runs_it_on_the_cluster():
    jobs = {
        manifest["metadata"]["labels"]["job"]: manifest for manifest in kubernetes() if manifest["kind"] == "RayJob"
    }
    assert jobs.keys() == JOBS
    for job, manifest in jobs.items():
        assert manifest["spec"]["entrypoint"] == f"python /app/jobs/{job}.py --config /etc/llmemb/{job}.yaml"
        assert manifest["spec"]["clusterSelector"] == {"ray.io/cluster": "llmemb"}


def test_kuberay_takes_the_rayjobs():
    """Its rules for a RayJob on a cluster that stays (ValidateRayJobSpec, validateDeletionConfiguration and
    BuildJobSubmitCommand). Versions without the first delete the cluster that others use."""
    specs = [manifest["spec"] for manifest in kubernetes() if manifest["kind"] == "RayJob"]
    specs += [manifest["spec"]["jobTemplate"] for manifest in kubernetes() if manifest["kind"] == "RayCronJob"]
    assert len(specs) == len(JOBS) + 1
    for spec in specs:
        assert not spec.get("shutdownAfterJobFinishes")
        assert not spec.get("ttlSecondsAfterFinished")
        assert not spec.get("backoffLimit")
        assert not set(spec["entrypoint"]) & set("&|;<>()$`\\\"'*?#~=%\n"), "it goes unquoted into a shell"


def test_ray_mounts_the_token_where_the_images_user_looks_for_it():
    from ray.autoscaler._private.docker import docker_start_cmds

    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    [home] = re.findall(r"^ENV HOME=(\S+)", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    started = docker_start_cmds("ubuntu", IMAGE, config["file_mounts"], "llmemb", [], "llmemb", home, "docker")
    assert f":{home}/.ray/auth_token" in started


def test_the_cronjobs_night_takes_the_dataset_that_it_prepared():
    [job] = [manifest for manifest in kubernetes() if manifest["kind"] == "CronJob"]
    template = job["spec"]["jobTemplate"]["spec"]
    [prepare], [night] = template["template"]["spec"]["initContainers"], template["template"]["spec"]["containers"]
    assert "submit prepare" in prepare["command"][-1]
    assert prepare["command"][-1].endswith(
        " output=s3://BUCKET/llmemb/datasets/$(date -u +%F) execution.keep_finished=true"
    )
    assert night["command"][:3] == ["llmemb", "submit", "nightly"]
    final = {rule["onExitCodes"]["containerName"] for rule in template["podFailurePolicy"]["rules"]}
    assert final == {prepare["name"], night["name"]}
    assert all(rule["onExitCodes"]["values"] == [BAD_INPUT] for rule in template["podFailurePolicy"]["rules"])
    blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "cluster.md").read_text(), re.DOTALL)
    [config] = [yaml.safe_load(block) for block in blocks if "retrain:" in block]
    assert config["dataset"].endswith("/datasets/*")


def test_pods_are_nobody_special_and_use_the_image():
    assert len(pods()) == 4
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["image"] == IMAGE
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not [entry for entry in container["env"] if "TOKEN" in entry["name"] and "value" in entry]


def test_versions_are_those_that_are_pinned():
    pinned = (REPOSITORY / "constraints.txt").read_text()
    [cluster] = [manifest for manifest in kubernetes() if manifest["kind"] == "RayCluster"]
    assert f"ray=={cluster['spec']['rayVersion']}\n" in pinned


def test_the_image_is_pinned_and_not_root():
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["llmemb"]
    # Else Ray mounts the token into /root, where nobody looks for it.
    assert "ENV HOME=/home/llmemb \\" in lines
    assert any("useradd --create-home" in line and line.endswith(" llmemb") for line in lines)
    assert any("--constraint constraints.txt" in line for line in lines)
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    copied = {path for line in lines if line.startswith("COPY ") for path in line.split()[1:-1]}
    assert copied == {path.removeprefix("!") for path in ignored if path.startswith("!")}
