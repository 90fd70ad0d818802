"""Runs the containers of a pod with docker, with the rights, files and limits that the pod template gives them.

What a kubelet does with the parts of a template that the chart uses, and nothing else: a field that is not known is an error.
"""

import os
import pathlib
import re
import shutil
import subprocess
import time

LIMIT = 180  # seconds for anything to come true

POD_FIELDS = {
    "serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "imagePullSecrets", "hostNetwork",
    "dnsPolicy", "hostPID", "priorityClassName", "terminationGracePeriodSeconds", "securityContext", "initContainers",
    "containers", "volumes", "nodeSelector", "tolerations", "affinity",
}  # fmt: skip
CONTAINER_FIELDS = {
    "name", "image", "imagePullPolicy", "command", "args", "env", "envFrom", "ports", "startupProbe", "livenessProbe",
    "readinessProbe", "resources", "securityContext", "volumeMounts",
}  # fmt: skip
RIGHTS = {
    "runAsUser", "runAsGroup", "runAsNonRoot", "readOnlyRootFilesystem", "allowPrivilegeEscalation", "capabilities",
    "seccompProfile", "appArmorProfile", "privileged", "seLinuxOptions",
}  # fmt: skip


def docker(*arguments, check=True, timeout=LIMIT):
    """Runs docker's client."""
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise SystemExit(f"docker {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
    return done


def until(what, look):
    """Waits until `look` returns something true, and returns that."""
    end = time.monotonic() + LIMIT
    while not (seen := look()):
        if time.monotonic() > end:
            raise SystemExit(f"waited {LIMIT} s for {what}")
        time.sleep(0.1)
    return seen


def known(fields, allowed, where):
    """Fails for what this file would leave out."""
    if unknown := set(fields) - allowed:
        raise SystemExit(f"{where} has fields that the tests do not carry out: {sorted(unknown)}")


class Pod:
    """A pod on this machine. Its files are below `folder`."""

    def __init__(self, name, template, folder, *, images, host_paths, secrets=None, config_maps=None):
        known(template["spec"], POD_FIELDS, name)
        self.name, self.spec, self.folder = name, template["spec"], pathlib.Path(folder)
        self.images, self.host_paths, self.extra = images, host_paths, []
        self.secrets, self.config_maps = secrets or {}, config_maps or {}
        self.group = self.spec["securityContext"]["fsGroup"]
        self.volumes = {volume["name"]: self._volume(volume) for volume in self.spec["volumes"]}
        self.started = []

    def _volume(self, volume):
        """Makes a volume, and returns its folder."""
        if path := volume.get("hostPath"):
            return self.host_paths[path["path"]]
        folder = self.folder / volume["name"]
        folder.mkdir(parents=True)
        if "emptyDir" in volume:
            os.chown(folder, 0, self.group)
            folder.chmod(0o2777)
        elif source := volume.get("secret"):
            self._files(folder, source, self.secrets[source["secretName"]], 0o440, self.group)
        elif source := volume.get("configMap"):
            self._files(folder, source, self.config_maps[source["name"]], 0o644, 0)
        else:
            raise SystemExit(f"the volume {volume} is of no known kind")
        return folder

    @staticmethod
    def _files(folder, source, contents, mode, group):
        """The keys of a Secret or a ConfigMap as files; with a group of the pod's, that group may read them."""
        names = {item["key"]: item["path"] for item in source.get("items", [{"key": k, "path": k} for k in contents])}
        for key, name in names.items():
            path = folder / name
            path.write_text(contents[key])
            path.chmod(mode)
            os.chown(path, 0, group)

    def flags(self, container):
        """The flags of `docker run` for a container."""
        known(container, CONTAINER_FIELDS, container["name"])
        rights = container["securityContext"]
        known(rights, RIGHTS, container["name"])
        flags = ["--group-add", self.group, "--network", "host"]
        if "runAsUser" in rights:
            flags += ["--user", f"{rights['runAsUser']}:{rights['runAsGroup']}"]
        if rights.get("runAsNonRoot") and not rights["runAsUser"]:
            raise SystemExit(f"{container['name']} must not be root, and is")
        if rights.get("privileged"):
            flags += ["--privileged"]
        if rights.get("readOnlyRootFilesystem"):
            flags += ["--read-only"]
        if rights.get("allowPrivilegeEscalation") is False:
            flags += ["--security-opt", "no-new-privileges"]
        for what, flag in (("drop", "--cap-drop"), ("add", "--cap-add")):
            for capability in rights.get("capabilities", {}).get(what, []):
                flags += [flag, capability]
        for kind in ("seccomp", "appArmor"):
            if rights.get(f"{kind}Profile", {}).get("type") == "Unconfined":
                flags += ["--security-opt", f"{kind.lower()}=unconfined"]
        if self.spec.get("hostPID"):
            flags += ["--pid", "host"]
        memory = container["resources"]["limits"]["memory"]
        flags += ["--memory", memory.removesuffix("i").lower()]
        for variable in container.get("env", []):
            flags += ["--env", f"{variable['name']}={variable['value']}"]
        for source in container.get("envFrom", []):
            for key, value in self.secrets[source["secretRef"]["name"]].items():
                flags += ["--env", f"{key}={value}"]
        for mount in container["volumeMounts"]:
            # Propagation is left out: docker refuses it where this machine's folders are not shared mounts.
            known(mount, {"name", "mountPath", "readOnly", "mountPropagation"}, mount["name"])
            mode = ":ro" if mount.get("readOnly") else ""
            flags += ["--volume", f"{self.volumes[mount['name']]}:{mount['mountPath']}{mode}"]
        if command := container.get("command"):
            flags += ["--entrypoint", command[0]]
        return [*flags, *self.extra]

    def container(self, name):
        """The part of the template for a container."""
        everything = self.spec.get("initContainers", []) + self.spec["containers"]
        return next(container for container in everything if container["name"] == name)

    def _run(self, name, *flags, check=True):
        container = self.container(name)
        # Without its tag or digest.
        image = self.images[re.split("[@:]", container["image"])[0]]
        rest = [*container.get("command", [])[1:], *container.get("args", [])]
        self.started.append(f"{self.name}_{name}")
        return docker("run", *flags, "--name", self.started[-1], *self.flags(container), image, *rest, check=check)

    def run(self, name, check=True):
        """Runs a container to its end."""
        return self._run(name, check=check)

    def start(self, name):
        """Starts a container, and waits for its startup probe."""
        self._run(name, "--detach")

        def up():
            if docker("inspect", "--format", "{{.State.Running}}", f"{self.name}_{name}").stdout.strip() != "true":
                raise SystemExit(f"{name} ended: {self.logs(name)}")
            return self.probe(name, "startupProbe").returncode == 0

        until(f"the startup probe of {name}", up)

    def probe(self, name, kind):
        """Runs a probe of a container once."""
        return self.exec(name, *self.container(name)[kind]["exec"]["command"])

    def exec(self, name, *command):
        """Runs a command in a container."""
        return docker("exec", f"{self.name}_{name}", *command, check=False)

    def logs(self, name):
        """All that a container has printed."""
        done = docker("logs", f"{self.name}_{name}")
        return done.stdout + done.stderr

    def stop(self, name):
        """Ends a container as a kubelet does, and returns its exit code."""
        docker("stop", "--time", self.spec["terminationGracePeriodSeconds"], f"{self.name}_{name}", timeout=600)
        return int(docker("inspect", "--format", "{{.State.ExitCode}}", f"{self.name}_{name}").stdout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in self.started:
            docker("rm", "--force", "--volumes", name, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
