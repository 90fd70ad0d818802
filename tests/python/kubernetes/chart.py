"""The chart: where it is, the values that the tests render it with, and what comes of them."""

import os
import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
KUBERNETES = ROOT / "scripts/kubernetes"
CHART = KUBERNETES / "chart"
MANIFESTS = KUBERNETES / "manifests"
VALUES = ROOT / "tests/data/kubernetes"
# Whose rendering is kept, for those who have no Helm.
KEPT = "plain"


def cases():
    """The names of all values."""
    return sorted(path.stem for path in VALUES.glob("*.yaml"))


def helm(*arguments, **options):
    """Runs Helm without its user's settings."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "HELM_NO_PLUGINS": "1"}
    return subprocess.run(["helm", *arguments], env=environment, capture_output=True, text=True, timeout=120, **options)


def render(case, *flags):
    """What `helm template` makes of a case, as text."""
    done = helm("template", "linkspan", CHART, "--namespace", "linkspan", "--values", VALUES / f"{case}.yaml", *flags)
    if done.returncode != 0:
        raise SystemExit(f"helm template of {case} failed: {done.stderr}")
    return done.stdout


def documents(case, *flags):
    """The same as objects."""
    return [document for document in yaml.safe_load_all(render(case, *flags)) if document]


def pods(objects):
    """The pod templates among objects, by the names of what makes pods of them."""
    return {o["metadata"]["name"]: o["spec"]["template"] for o in objects if "template" in o.get("spec", {})}


def containers(template):
    """All containers of a pod template."""
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]
