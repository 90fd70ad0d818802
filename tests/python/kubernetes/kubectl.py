"""What stands in for kubectl where there is no cluster: Secrets become files, and `exec` goes to docker."""

import os
import pathlib
import sys


def secret(kind, name, *flags):
    """`create secret tls|generic NAME …`."""
    folder = pathlib.Path(os.environ["KUBECTL_FOLDER"]) / name
    folder.mkdir(parents=True)
    for flag in flags:
        option, _, value = flag.removeprefix("--").partition("=")
        if kind == "tls":
            key, source = {"cert": "tls.crt", "key": "tls.key"}[option], value
        elif option == "from-file":
            key, _, source = value.rpartition("=")
            key = key or pathlib.Path(source).name
        else:
            raise SystemExit(f"unknown: {flag}")
        (folder / key).write_text(pathlib.Path(source).read_text())


match sys.argv[1:]:
    case ["create", "namespace", "linkspan"] | ["label", "namespace", "linkspan", "pod-security.kubernetes.io/enforce=privileged"]:
        pass
    case ["--namespace=linkspan" | "-nlinkspan", "create", "secret", kind, name, *flags]:
        secret(kind, name, *flags)
    # As BuildKit's client says it.
    case ["--context=", "--namespace=linkspan", "exec", container, "-i", pod, "--", *command] if container.startswith("--container="):
        os.execvp("docker", ["docker", "exec", "-i", f"{pod}_{container.removeprefix('--container=')}", *command])
    case unknown:
        raise SystemExit(f"kubectl: nobody should ask for {unknown}")
