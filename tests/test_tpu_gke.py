"""scripts/tpu_gke.yaml: Kubernetes takes it, and its command runs as two processes here."""

import re

import mimic_store
import pytest
import running

from cxr_embeddings.input_pipeline.synthetic.mimic_folder import write_mimic

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
SERVICE, JOB = yaml.safe_load_all((running.REPOSITORY / "scripts/tpu_gke.yaml").read_text())


def test_kubernetes_takes_the_manifest():
    schemas = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed (100 MB of schemas)"
    )
    for one in (SERVICE, JOB):
        schemas.validate(one, schemas.latest_version(), strict=True)
    with pytest.raises(schemas.ValidationError):
        schemas.validate(JOB | {"spec": JOB["spec"] | {"completion": 16}}, "1.33", strict=True)
    assert SERVICE["spec"]["selector"] == {"job-name": JOB["metadata"]["name"]}
    assert JOB["spec"]["template"]["spec"]["subdomain"] == SERVICE["metadata"]["name"]
    workers, [container] = JOB["spec"]["completions"], JOB["spec"]["template"]["spec"]["containers"]
    assert JOB["spec"]["parallelism"] == workers
    [topology] = re.findall(r"gke-tpu-topology': '(\d+)x(\d+)'", str(JOB))
    assert (
        int(topology[0]) * int(topology[1])
        == workers * container["resources"]["limits"]["google.com/tpu"]
    )


@pytest.mark.slow
def test_the_command_of_every_worker_runs_as_two_processes(save_bundle, environment, tmp_path):
    write_mimic(tmp_path / "mimic", films=20, seed=3, damaged=0, laterals=0, size_range=(48, 64))
    mimic_store.make(tmp_path / "mimic", tmp_path / "mimic_cxr/1.0.0", size=32, films_per_shard=2)
    [container] = JOB["spec"]["template"]["spec"]["containers"]
    here = {"gs://BUCKET": str(tmp_path), "bundles/cxr-l2": str(save_bundle("native", 32))}
    words = container["command"][2:]
    for said, path in here.items():
        words = [word.replace(said, path) for word in words]
    commands = [running.command("embed", *words)] * 2
    processes = running.start_hosts(commands, environment, devices=4)
    said = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert f"{'embedded':13}{20:8}" in said[0][0]
    assert running.is_intact(tmp_path / "embeddings")
