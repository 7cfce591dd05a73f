"""``examples/cluster``: the SLURM job on stubs and on a real Ray; fields of the RayJob, lines of the Dockerfile."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import typer.main
from ray.scripts.scripts import start
from ruamel.yaml import YAML

from lungtune.commands import app
from lungtune.core import journal
from lungtune.core.paths import ROOT

UV = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")

FOLDER = ROOT / "examples" / "cluster"
FILES = sorted(path for path in FOLDER.iterdir() if path.is_file())
SCRIPT = FOLDER / "slurm.sh"
README = (FOLDER / "README.md").read_text()
PORT = 23_000 + os.getpid() % 1000

SRUN = """#!/usr/bin/env bash
# Runs the command once for each node, waits for all and hands SIGTERM on, as srun does.
printf '%s\\n' "$@" >"$RECORD/srun"
trap 'kill $(jobs -p); exit 143' TERM
nodes=1
while [[ $1 == --* ]]; do [[ $1 == --nodes=* ]] && nodes=${1#*=}; shift; done
for ((node = 0; node < nodes; node++)); do SLURM_NODEID=$node "$@" & done
code=0
while ((nodes-- > 0)); do wait -n || code=$?; done
exit $code
"""
RAY = """#!/usr/bin/env bash
# ray symmetric-run FLAGS -- COMMAND: the first node runs the command; over several nodes it ends with 1, as Ray 2.60's.
[[ $SLURM_NODEID == 0 ]] || exit 0
printf '%s\\n' "$@" >"$RECORD/ray"
env >"$RECORD/ray_env"
[[ -z ${HANG:-} ]] || { touch "$RECORD/hangs"; exec sleep 60; }
[[ $* == *"--min-nodes 1 "* ]] && code=0 || code=1
while [[ $1 != -- ]]; do shift; done
shift
"$@"
exit $code
"""
LUNGTUNE = """#!/usr/bin/env bash
# A search that trains nothing: until SIGTERM where SEARCH is "long".
printf '%s\\n' "$@" >"$RECORD/lungtune"
env >"$RECORD/env"
[[ ${SEARCH:-} == long ]] || exit "${SEARCH:-0}"
trap 'exit 3' TERM
touch "$RECORD/searches"
while true; do sleep 0.05; done
"""
SCONTROL = '#!/usr/bin/env bash\necho "$@" >"$RECORD/scontrol"\n'


def parsed(words: list[str]) -> dict[str, Any]:
    """Parse the words of a ``lungtune`` command line without running it; return its values."""
    name, *rest = words
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    return dict(command.make_context(name, rest).params)


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Job:
    """A SLURM allocation of stubs.

    Args:
        folder: for stubs, home and what the stubs record.
        slurm: ``SLURM_*`` and other variables.
        stubs: commands by name.
    """

    def __init__(self, folder: Path, stubs: dict[str, str], **variables: str) -> None:
        for name, text in stubs.items():
            executable(folder / "bin" / name, text)
        (folder / "record").mkdir()
        self.record, self.home = folder / "record", folder / "home"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "LUNGTUNE_", "SLURM_"))}
        self.environment = {
            **kept,
            "PATH": os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), kept["PATH"]]),
            "USER": "me",
            "RECORD": str(self.record),
            "LUNGTUNE_HOME": str(self.home),
            "LUNGTUNE_HEAD_IP": "127.0.0.1",
            "LUNGTUNE_HEAD_PORT": str(PORT),
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NAME": "lungtune",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_ON_NODE": "8",
            "SLURM_SUBMIT_DIR": str(ROOT),
            **variables,
        }

    def start(self, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", SCRIPT, *flags],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *flags: str) -> tuple[int, str]:
        process = self.start(*flags)
        out, _ = process.communicate(timeout=30)
        return process.returncode, out

    def signalled(self, number: signal.Signals, after: str) -> tuple[int, str]:
        """Run the job, send it a signal once a stub has made the file ``after``; return exit code and output."""
        process = self.start()
        try:
            self.wait_for(after)
            process.send_signal(number)
            out, _ = process.communicate(timeout=20)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, out

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 20
        while not (self.record / name).exists():
            assert time.monotonic() < deadline, f"no {name}"
            time.sleep(0.02)

    def words(self, name: str) -> list[str]:
        """Return the words a stub was called with."""
        return (self.record / name).read_text().splitlines()

    def variables(self, name: str = "env") -> dict[str, str]:
        """Return the environment a stub was called with."""
        return dict(line.partition("=")[::2] for line in self.words(name))

    def begin_study(self, name: str) -> None:
        """Write the first event of a study."""
        path = self.home / "studies" / name / "journal.jsonl"
        path.parent.mkdir(parents=True)
        journal.Journal(path).append("study", schema=2, name=name)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job whose Ray and search are stubs."""
    return Job(tmp_path, {"srun": SRUN, "ray": RAY, "lungtune": LUNGTUNE, "scontrol": SCONTROL})


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".sh"], ids=lambda path: path.name)
def test_scripts_are_bash(path: Path) -> None:
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_of_the_folder_names_a_registry(path: Path) -> None:
    hosts = ("pypi" + ".org", "python" + "hosted", "index" + "-url", "download.pytorch", "--extra-index", "ghcr.io")
    assert not [host for host in hosts if host in path.read_text()]


def test_slurm_job_begins_a_study_on_the_cluster(job: Job) -> None:
    code, out = job.run()
    assert code == 0, out
    values = parsed(job.words("lungtune"))
    assert (values["space"], values["study"], values["resume"]) == ("clip_lora", "lungtune-77", False)
    assert values["data"].startswith("chest_xray:")
    assert values["budget"] == 23 * 3600
    inside = job.variables()
    assert inside["RAY_ADDRESS"] == f"127.0.0.1:{PORT}"
    assert inside["LUNGTUNE_CACHE"] == f"{job.home}/cache"
    assert "RAY_ADDRESS" not in job.variables("ray_env"), "nothing to join before Ray is started"
    assert re.fullmatch(r"[0-9a-f]{64}", inside["RAY_AUTH_TOKEN"])
    assert not (job.record / "scontrol").exists()


def test_slurm_job_takes_its_own_flags(job: Job) -> None:
    code, out = job.run("--space", "clip_head", "--set", "lr=[1e-4, 1e-2]", "--data", "folder:/a b")
    assert code == 0, out
    values = parsed(job.words("lungtune"))
    assert (values["space"], values["set_"], values["data"]) == ("clip_head", ["lr=[1e-4, 1e-2]"], "folder:/a b")


@pytest.mark.parametrize(
    ("slurm", "cpus", "gpus"),
    [
        ({}, 8, 0),
        ({"SLURM_CPUS_PER_TASK": "6", "SLURM_GPUS_ON_NODE": "2"}, 6, 2),
        ({"SLURM_GPUS_PER_NODE": "a100:4", "SLURM_GPUS_ON_NODE": "2"}, 8, 4),
    ],
)
def test_ray_gets_the_devices_of_a_node(job: Job, slurm: dict[str, str], cpus: int, gpus: int) -> None:
    job.environment |= {**slurm, "SLURM_JOB_NUM_NODES": "3"}
    code, out = job.run()
    assert code == 0, out
    assert {"--nodes=3", "--ntasks=3", "--ntasks-per-node=1", f"--cpus-per-task={cpus}"} <= set(job.words("srun"))
    words = job.words("ray")
    flags = words[: words.index("--")]
    assert flags[:5] == ["symmetric-run", "--address", f"127.0.0.1:{PORT}", "--min-nodes", "3"]
    for own in (["--head"], ["--address", f"127.0.0.1:{PORT}", "--block"]):  # as symmetric-run starts a node
        values = start.make_context("start", [*own, *flags[5:]]).params
        assert (values["num_cpus"], values["num_gpus"]) == (cpus, gpus)
        assert values["include_dashboard"] is None, "a flag of the head only: the other nodes would not start"


def test_slurm_job_goes_on_with_its_study(job: Job) -> None:
    job.begin_study("lungtune-77")
    code, out = job.run()
    assert code == 0, out
    assert job.words("lungtune") == ["search", "--resume", "--study", "lungtune-77", "--budget", "23h"]
    assert parsed(job.words("lungtune"))["resume"]


def test_study_without_its_first_event_begins_anew(job: Job) -> None:
    path = job.home / "studies" / "lungtune-77" / "journal.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"event":"st')
    code, out = job.run()
    assert code == 0, out
    assert not parsed(job.words("lungtune"))["resume"]


def test_search_without_budget_runs_until_the_signal(job: Job) -> None:
    job.environment["LUNGTUNE_BUDGET"] = ""
    assert job.run()[0] == 0
    assert parsed(job.words("lungtune"))["budget"] is None


def test_signal_before_the_limit_stops_and_requeues(job: Job) -> None:
    job.environment |= {"SEARCH": "long", "SLURM_JOB_NUM_NODES": "2"}
    code, out = job.signalled(signal.SIGUSR1, "searches")
    assert code == 3, out
    assert job.words("scontrol") == ["requeue 77"]


def test_signal_before_the_search_requeues(job: Job) -> None:
    job.environment["HANG"] = "yes"
    code, out = job.signalled(signal.SIGUSR1, "hangs")
    assert code > 128, out
    assert job.words("scontrol") == ["requeue 77"]


def test_cancelled_job_stops_and_is_not_requeued(job: Job) -> None:
    job.environment["SEARCH"] = "long"
    code, out = job.signalled(signal.SIGTERM, "searches")
    assert code == 3, out
    assert not (job.record / "scontrol").exists()


@pytest.mark.parametrize("nodes", ["1", "2"])
@pytest.mark.parametrize("code", ["0", "1", "2", "3"])
def test_ended_search_is_not_requeued(job: Job, code: str, nodes: str) -> None:
    """3 without a signal: the budget is spent."""
    job.environment |= {"SEARCH": code, "SLURM_JOB_NUM_NODES": nodes}
    assert job.run()[0] == int(code)
    assert not (job.record / "scontrol").exists()


def test_budget_ends_before_signal_and_limit() -> None:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", SCRIPT.read_text(), re.MULTILINE))
    hours, minutes, seconds = map(int, options["time"].split(":"))
    limit = hours * 3600 + minutes * 60 + seconds
    to, _, rest = options["signal"].partition(":")
    name, _, before = rest.partition("@")
    assert (to, name) == ("B", "USR1")
    (budget,) = re.findall(r"LUNGTUNE_BUDGET-(\w+)", SCRIPT.read_text())
    assert parsed(["search", "--budget", budget])["budget"] < limit - int(before)


def test_commands_of_the_readme_parse() -> None:
    flags = re.findall(r"slurm\.sh +(--[^#\n]*)", README)
    assert flags
    for words in flags:
        assert parsed(["search", *shlex.split(words)])["space"]
    (words,) = re.findall(r"lungtune:cpu lungtune ([^#\n]*)", README)
    assert parsed(shlex.split(words))["space"]


NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")
"""`ray symmetric-run` stops all Rays it sees: here it sees its own processes only."""

FLAGS = ("--space", "clip_head", "--profile", "demo", "--trials", "2", "--data", "phantom,n=84,test=36,size=32")
FLAGS += ("--set", "fidelity.min=0.3", "--set", "fidelity.max=1")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: Ray's sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="lt", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.alone  # ray stop
def test_slurm_job_searches_through_symmetric_run(tmp_path: Path, short: Path) -> None:
    """One node with a real Ray: the search joins it and ends; the same job again goes on with the finished study."""
    if not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("needs process namespaces (unshare)")
    job = Job(tmp_path, {"srun": SRUN, "scontrol": SCONTROL}, RAY_TMPDIR=str(short), SLURM_CPUS_PER_TASK="1")
    command = [*NAMESPACE, "bash", "-c", 'bash "$@"; exit $?', "init", SCRIPT, *FLAGS]  # the outer one reaps orphans
    outs = []
    for _ in range(2):
        done = subprocess.run(command, env=job.environment, capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, done.stdout + done.stderr
        outs.append(done.stdout)
    assert "Head node started." in outs[0]
    assert len(list(short.glob("ray/session_2*"))) == 2, "a Ray for each job, none of the search's own"
    events = journal.read(job.home / "studies" / "lungtune-77" / "journal.jsonl")
    assert [event["index"] for event in events if event["event"] == "host"] == [0], "the one CPU that Ray was given"
    ends = [event["state"] for event in events if event["event"] == "end"]
    assert (len(ends), [event["why"] for event in events if event["event"] == "stop"]) == (2, ["done", "done"])
    assert "the study has all its trials" in outs[1]


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    """The documents of ``rayjob.yaml``."""
    return list(YAML(typ="safe", pure=True).load_all((FOLDER / "rayjob.yaml").read_text()))


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pod specs of a RayJob: the head's, then those of the groups of workers."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all("rayStartParams" in group for group in groups)
    return [group["template"]["spec"] for group in groups]


def test_rayjob_has_the_fields_kuberay_requires(documents: list[dict[str, Any]]) -> None:
    job, claim = documents
    assert (job["apiVersion"], job["kind"], claim["kind"]) == ("ray.io/v1", "RayJob", "PersistentVolumeClaim")
    assert re.fullmatch(r"[a-z0-9-]{1,47}", job["metadata"]["name"])
    spec = job["spec"]
    known = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"}
    assert set(spec) == known
    assert spec["shutdownAfterJobFinishes"] is True, "a time to live needs it"
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"].split(".")[:2] == ray.__version__.split(".")[:2]
    for group in cluster["workerGroupSpecs"]:
        assert group["groupName"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert all(isinstance(value, str) for value in cluster["headGroupSpec"]["rayStartParams"].values())


def test_pods_share_volume_image_and_environment(documents: list[dict[str, Any]]) -> None:
    job, claim = documents
    head, *workers = [pod["containers"][0] for pod in pods(job)]
    for pod in pods(job):
        container, volumes = pod["containers"][0], {volume["name"]: volume for volume in pod["volumes"]}
        assert (container["image"], container["env"]) == (head["image"], head["env"])
        (mount,) = container["volumeMounts"]
        assert volumes[mount["name"]]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        env = {each["name"]: each["value"] for each in container["env"]}
        for name in ("LUNGTUNE_HOME", "LUNGTUNE_CACHE", "HF_HOME"):
            assert env[name].startswith(f"{mount['mountPath']}/")
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["resources"]["limits"] == container["resources"]["requests"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert all("nvidia.com/gpu" in worker["resources"]["limits"] for worker in workers)


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
def test_rayjob_entrypoint_is_a_search(job: Job, documents: list[dict[str, Any]], begun: bool) -> None:
    entrypoint = documents[0]["spec"]["entrypoint"]
    assert not set(entrypoint) & set("'\"$;&|<>*?\\"), "KubeRay hands it through a shell without quotes"
    name, *flags = shlex.split(entrypoint)
    assert f"/usr/local/bin/{name}" in {line.split()[-1] for _, line in instructions("COPY")}
    env = {each["name"]: each["value"] for each in pods(documents[0])[0]["containers"][0]["env"]}
    if begun:
        job.begin_study(env["LUNGTUNE_STUDY"])
    environment = job.environment | env | {"LUNGTUNE_HOME": str(job.home)}
    subprocess.run(["bash", FOLDER / "search.sh", *flags], env=environment, check=True, timeout=20)
    values = parsed(job.words("lungtune"))
    assert (values["study"], values["resume"]) == (env["LUNGTUNE_STUDY"], begun)
    assert values["budget"] == 23 * 3600
    assert values["space"] == (None if begun else "clip_lora")


def instructions(*kinds: str) -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions as (name, rest), of these kinds; all without any."""
    text = re.sub(r"^\s*#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.partition(" ") for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in lines if not kinds or name in kinds]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the Dockerfile's instructions by stage, ``FROM`` first."""
    result: dict[str, list[tuple[str, str]]] = {}
    for name, rest in instructions():
        if name == "FROM":
            result[rest.split()[-1]] = []
        if result:
            result[list(result)[-1]].append((name, rest))
    return result


def copied() -> list[str]:
    """Return what the Dockerfile copies from the repository."""
    words = [[word for word in shlex.split(rest) if not word.startswith("--")] for _, rest in instructions("COPY")]
    return sorted({source for sources in words for source in sources[:-1]})


def test_dockerfile_has_known_instructions_only() -> None:
    known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}
    assert {name for name, _ in instructions()} == known
    assert instructions()[0][0] == "ARG"
    built = stages()
    assert list(built) == ["wheel", "system", "cpu", "cuda"]
    for stage in built.values():
        source = stage[0][1].split()
        assert source[1:2] == ["AS"]
        assert source[0] in built or source[0].startswith("python:${PYTHON}")
    for name, rest in instructions("RUN"):
        script = re.sub(r"^(--\S+ )+", "", rest)
        assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0, (name, rest)
    assert all(isinstance(json.loads(rest), list) for _, rest in instructions("CMD"))


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_images_run_as_a_user_that_is_not_root(target: str) -> None:
    built = stages()
    users = [rest for name, rest in built[target] if name == "USER"]
    assert users == ["lungtune"]
    (made,) = [rest for name, rest in built["system"] if name == "RUN"]
    assert "useradd --create-home --uid 1000 lungtune" in made
    assert "wget" in made, "KubeRay's probes call it"
    (installed,) = [rest for name, rest in built[target] if name == "RUN"]
    assert "ray[default]" in installed, "jobs need Ray's dashboard"
    assert f"--target {target} " in README or f"--target {target} " in (FOLDER / "Dockerfile").read_text()


def test_dockerfile_copies_what_git_has() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *copied()]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = listed.stdout.splitlines()
    for source in copied():
        assert (ROOT / source).exists()
        assert any(name == source or name.startswith(f"{source}/") for name in tracked), source


def test_wheel_is_built_from_what_is_copied(tmp_path: Path) -> None:
    """Only what the stage ``wheel`` copies, links as links, as Docker does."""
    context = tmp_path / "source"
    context.mkdir()
    for name, rest in stages()["wheel"]:
        for source in rest.split()[:-1] if name == "COPY" else ():
            path = ROOT / source
            if path.is_dir():
                shutil.copytree(path, context / source, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, context / source)
    build = [UV, "build", "--wheel", "--offline", "--quiet", "--out-dir", tmp_path / "dist"]
    done = subprocess.run(build, cwd=context, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"lungtune/trainables/clip_lora.py", "lungtune/search_spaces/clip_lora.yaml"} <= set(names)


def test_torch_backends_are_known_to_uv() -> None:
    told = subprocess.run([UV, "pip", "install", "--help"], capture_output=True, text=True, check=True).stdout
    (listed,) = re.findall(r"--torch-backend <.*?\[possible values: ([^\]]*)\]", " ".join(told.split()))
    known = set(listed.split(", "))
    named = re.findall(r"(?:TORCH_BACKEND=|torch-backend=)(\w+)", (FOLDER / "Dockerfile").read_text() + README)
    assert set(named) >= {"cpu", "cu130"}
    assert set(named) <= known
