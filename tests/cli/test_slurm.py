"""Batch scripts are filled in, are sound, and run: on two "nodes" that a stand-in for srun starts."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hftrain.cli import main
from hftrain.report.history import read_history
from tests import ROOT
from tests.train.exact_worker import two_hosts

WORKER = ROOT / "tests" / "train" / "resume_worker.py"
SCRIPTS = sorted((ROOT / "scripts" / "slurm").glob("*.sbatch"))


def script_of(capsys, *words: str) -> str:
    assert main(["slurm", *words]) == 0
    return capsys.readouterr().out


def check(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--requeue" in script and "--signal=" in script and "--resume_from_checkpoint auto" in script


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_templates_are_sound(path):
    check(path.read_text())


def test_options_of_slurm_the_launcher_and_the_recipe_come_to_their_places(tmp_path, capsys):
    (tmp_path / "own.py").write_text("import sys\n")  # whatever it takes
    words = [f"{tmp_path}/own.py", "--nodes", "4", "--gpus_per_node", "2", "--time", "2:00:00", "--partition", "a100"]
    words += ["--config_file", f"{ROOT}/ds_configs/zero3.yaml", "--", "--output_dir", "my run", "--time", "not slurm's"]
    script = script_of(capsys, *words)
    check(script)
    for line in (
        "#SBATCH --nodes=4", "#SBATCH --gpus-per-node=2", "#SBATCH --time=2:00:00", "#SBATCH --partition=a100",
        "#SBATCH --job-name=own", "gpus_per_node=2", f"recipe={tmp_path}/own.py",
        f"launch=(--config_file {ROOT}/ds_configs/zero3.yaml)",
    ):  # fmt: skip
        assert re.search(rf"^{re.escape(line)}( |$)", script, re.MULTILINE), line
    assert """options=(--output_dir 'my run' --time 'not slurm'"'"'s' --resume_from_checkpoint auto)""" in script


def test_a_run_gets_the_cores_and_the_memory_of_its_nodes(capsys):
    for nodes in ("1", "2"):
        whole = script_of(capsys, "translate", "--nodes", nodes)
        assert re.search(r"^#SBATCH --exclusive\b.*\n#SBATCH --mem=0\b", whole, re.MULTILINE)
        part = script_of(capsys, "translate", "--nodes", nodes, "--cpus_per_task", "24", "--mem", "200G")
        assert "--exclusive" not in part and "#SBATCH --mem=200G" in part and "#SBATCH --cpus-per-task=24\n" in part
        assert "--mem=0" not in part + script_of(capsys, "translate", "--nodes", nodes, "--cpus_per_task", "24")
        for script, cores in ((whole, "96"), (part, "24")):
            tools = 'srun() { echo "$SRUN_CPUS_PER_TASK"; }; scontrol() { echo node-0; }\n'
            environment = os.environ | {"SLURM_CPUS_ON_NODE": "96", "SLURM_JOB_NUM_NODES": nodes, "SLURM_JOB_ID": "1"}
            environment |= {"SLURM_CPUS_PER_TASK": "24"} if script == part else {}
            done = subprocess.run(
                ["bash"], input=tools + script, text=True, capture_output=True, env=os.environ | environment
            )
            assert (done.returncode, done.stdout) == (0, f"{cores}\n"), done.stderr


def test_one_node_needs_no_rendezvous_and_options_may_come_first(capsys):
    script = script_of(capsys, "--time", "1:00:00", "translate", "--max_steps", "5", "--resume_from_checkpoint", "x")
    check(script.replace("resume_from_checkpoint x", "resume_from_checkpoint auto"))
    assert "#SBATCH --nodes=1\n" in script and "main_process_ip" not in script and "#SBATCH --time=1:00:00" in script
    assert "options=(--max_steps 5 --resume_from_checkpoint x)" in script


def test_mistakes_are_named(capsys, tmp_path, monkeypatch):
    assert main(["slurm", "no_such_recipe"]) == 2
    assert "no recipe 'no_such_recipe'" in capsys.readouterr().err
    assert main(["slurm", "translate", "--time", "24h"]) == 2
    assert "--time 24h: write minutes, hours:minutes:seconds, or days-hours" in capsys.readouterr().err
    (tmp_path / "short.py").write_text("from hftrain.config import TrainConfig, parse\nparse(TrainConfig)")
    assert main(["slurm", f"{tmp_path}/short.py", "--max_step", "5"]) == 2
    assert "max_step: unknown; did you mean max_steps?" in capsys.readouterr().err
    (tmp_path / "long.py").write_text("from hftrain.config import parse\nwhile True: pass")
    assert main(["slurm", f"{tmp_path}/long.py", "--max_step", "5"]) == 0  # who knows what it reads
    assert main(["slurm", "translate", "--config_file", "zero9.yaml", "--", "--max_steps", "5"]) == 2
    assert "--config_file zero9.yaml: the file does not exist" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["slurm", f"{tmp_path}/long.py", "--submit"]) == 2
    assert "sbatch was not found" in capsys.readouterr().err


# What Slurm's own commands do for a script: srun starts the task once a node, passes signals on and returns the highest
# exit code; scontrol lists hosts, and notes what is put back into the queue.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
pids=()
trap 'kill -USR1 "${pids[@]}"' USR1
for ((i = 0; i < SLURM_JOB_NUM_NODES; i++)); do SLURM_NODEID=$i "$(dirname "$0")/host-$i" "$@" & pids+=($!); done
code=0
for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2> /dev/null; do wait "$pid"; found=$?; done
    ((found > code)) && code=$found
done
exit "$code"
"""
SCONTROL = """#!/bin/bash
case $1 in
    show) echo host-0; echo host-1 ;;
    requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and iproute2")
def test_a_script_for_two_nodes_saves_before_the_limit_and_goes_on(tmp_path, capsys):
    tools = {"srun": SRUN, "scontrol": SCONTROL, "hftrain": f'#!/bin/bash\nexec {sys.executable} -m hftrain.cli "$@"\n'}
    with two_hosts() as hosts:
        tools |= {f"host-{i}": f'#!/bin/bash\nexec {shlex.join(hosts[i])} "$@"\n' for i in (0, 1)}
        for name, text in tools.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        run_script(tmp_path, capsys)


def run_script(tmp_path: Path, capsys) -> None:
    out, requeued = tmp_path / "out", tmp_path / "requeued"
    words = [str(WORKER), "--nodes", "2", "--gpus_per_node", "1", "--output_dir", str(out), "--logging_steps", "1"]
    script = tmp_path / "job.sbatch"
    main(["slurm", *words, "--max_steps", "12", "--seconds_per_step", "0.5", "--output", str(script)])
    assert f"wrote {script}; submit it with: sbatch {script}" in capsys.readouterr().out
    environment = os.environ | {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "2", "REQUEUED": str(requeued)}
    environment |= {
        "SLURM_JOB_NODELIST": "here[0-1]",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "GLOO_SOCKET_IFNAME": "cable",
    }

    def submit(name: str) -> tuple[subprocess.Popen, Path]:
        log = tmp_path / name
        with open(log, "w") as file:
            return subprocess.Popen(["bash", script], env=environment, stdout=file, stderr=file, process_group=0), log

    job, log = submit("first")
    deadline = time.monotonic() + 250
    while "did step 3" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    srun = next(pid for pid in children(job.pid) if "srun" in Path(f"/proc/{pid}/cmdline").read_text())
    os.kill(srun, signal.SIGUSR1)  # as --signal has it
    assert job.wait(250) == 75, log.read_text()
    assert requeued.read_text() == f"{os.getpid()}\n"
    job, log = submit("second")
    assert job.wait(250) == 0, log.read_text()
    assert "resumed from" in log.read_text()
    assert [row["step"] for row in read_history(out / "metrics.jsonl") if "loss" in row] == list(range(1, 13))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_kubernetes_files_have_what_kubeflow_trainer_requires():
    folder = ROOT / "scripts" / "kubernetes"
    runtime, job = (yaml.safe_load((folder / name).read_text()) for name in ("runtime.yaml", "trainjob.yaml"))
    for document, kind in ((runtime, "TrainingRuntime"), (job, "TrainJob")):
        assert (document["apiVersion"], document["kind"]) == ("trainer.kubeflow.org/v1alpha1", kind)
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
    assert job["spec"]["runtimeRef"] == {
        "name": runtime["metadata"]["name"], "kind": runtime["kind"], "apiGroup": "trainer.kubeflow.org",
    }  # fmt: skip
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node"
    assert node["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    pod = node["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["name"] == "node"
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    trainer = job["spec"]["trainer"]
    gpus = {entry["name"]: entry["value"] for entry in trainer["env"]}["GPUS_PER_NODE"]
    assert int(gpus) == trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    (shell,) = trainer["args"]
    assert trainer["command"] == ["bash", "-c"]
    place = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "node-0", "PET_MASTER_PORT": "29400"}
    said = subprocess.run(
        ["bash", "-c", shell.replace("exec hftrain", "echo")], env=os.environ | place | {"GPUS_PER_NODE": gpus},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "--num_machines 2 --machine_rank 1 --num_processes 16 --main_process_ip node-0 --main_process_port" in said


def test_an_option_that_nobody_knows_is_refused_before_the_queue(capsys):
    assert main(["slurm", "translate", "--tme", "3", "--", "--output_dir", "out"]) == 2
    assert "--tme: not an option of hftrain slurm or accelerate launch" in capsys.readouterr().err
    assert main(["slurm", "translate", "out", "--"]) == 2
    assert "out: not an option" in capsys.readouterr().err
