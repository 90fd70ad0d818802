"""What can be said of the chart without running anything.

usage: static.py kept [--write]    the manifests for those who have no Helm are what the chart renders
       static.py schemas           every object is valid in all versions of Kubernetes that the chart allows
       static.py refusals          values that cannot work are refused, with their names
       static.py pods DIRECTORY    writes every pod template as JSON, for the check by Pod Security
       static.py mistakes          what no schema finds
"""

import json
import pathlib
import re
import sys
import tomllib

import kubernetes_validate
import yaml

from chart import CHART, KEPT, KUBERNETES, MANIFESTS, ROOT, VALUES, cases, containers, documents, helm, pods, render

GOOD = [
    "image.repository=linkspan", "node.registry.tlsSecret=tls", "node.registry.clientCASecret=ca",
]  # fmt: skip
BUILDER = [*GOOD, "builder.enabled=true", "builder.allowNames={a/*}", "builder.buildkit.image=buildkit"]
HOSTS = [*GOOD, "node.hostsToml.enabled=true", "node.hostsToml.image=busybox"]
# What an API server lets an upgrade change of a StatefulSet's spec; the rest of it, and a Service's address, never.
CHANGEABLE = {"replicas", "template", "updateStrategy", "minReadySeconds", "ordinals", "persistentVolumeClaimRetentionPolicy"}
# Values that cannot work, and what the refusal names.
REFUSED = [
    (["node.enabled=false"], "image"),
    (["node.enabled=false", "image.repository=Not A Name"], "/image/repository"),
    (["image.repository=linkspan"], "/node/registry/tlsSecret"),
    (["image.repository=linkspan", "node.registry.tlsSecret=tls"], "/node/registry/clientCASecret"),
    ([*GOOD, "node.registry.writable=true"], "/node/registry/allowNames"),
    ([*GOOD, "node.registry.port=0"], "/node/registry/port"),
    ([*GOOD, "node.registry.acces=tls"], "acces"),
    ([*GOOD, "node.unpack=root"], "/node/unpack"),
    ([*GOOD, "engine.kind=object"], "/engine/object/address"),
    ([*GOOD, "engine.kind=docker"], "/engine/kind"),
    ([*GOOD, "engine.containerd.socket=../docker.sock"], "/engine/containerd/socket"),
    (HOSTS, "/node/hostsToml/endpoints"),
    ([*HOSTS, "node.hostsToml.endpoints={https://a},node.hostsToml.registries={$(reboot)}"], "/hostsToml/registries/0"),
    ([*HOSTS, "node.hostsToml.endpoints={https://a\"]}"], "/node/hostsToml/endpoints/0"),
    ([*GOOD, "builder.enabled=true", "builder.buildkit.image=buildkit"], "/builder/allowNames"),
    ([*GOOD, "builder.enabled=true", "builder.allowNames={a/*}"], "/builder/buildkit/image"),
    ([*BUILDER, "builder.service.enabled=true", "builder.service.tlsSecret=tls"], "/builder/service/clientCASecret"),
    ([*BUILDER, "builder.service.clients[0].matchLabels.ci=x"], "/builder/service/clients/0"),
    ([*BUILDER, *(f"builder.service.clients[0].{peer}" for peer in ("podSelector.a=b", "ipBlock.cidr=10.0.0.0/8"))], "/clients/0"),
    ([*BUILDER, "builder.buildkit.storage.size=much"], "/builder/buildkit/storage/size"),
    ([*GOOD, "networkPolicy.nodeCIDRs={10.0.0.1}"], "/networkPolicy/nodeCIDRs/0"),
]


def kept(write=False):
    """The kept manifests, byte for byte."""
    path, text = MANIFESTS / "linkspan.yaml", render(KEPT)
    if write:
        path.write_text(text)
    elif path.read_text() != text:
        raise SystemExit(f"{path} is not what the chart renders; hint: linkspan-python {__file__} kept --write")
    base = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    assert base["resources"] == ["namespace.yaml", "linkspan.yaml"], base
    images = {c["image"].rpartition(":")[0] for template in pods(documents(KEPT)).values() for c in containers(template)}
    assert [image["name"] for image in base["images"]] == ["linkspan"] and "linkspan" in images, (base, images)


def schemas():
    """Strictly: a field that a version does not know is an error."""
    oldest = int(re.search(r"1\.(\d+)\.", (CHART / "Chart.yaml").read_text().partition("kubeVersion")[2])[1])
    newest = int(kubernetes_validate.latest_version().split(".")[1])
    assert oldest < newest
    count = 0
    for case in cases():
        for document in documents(case):
            for minor in range(oldest, newest + 1):
                try:
                    kubernetes_validate.validate(document, f"1.{minor}", strict=True)
                except kubernetes_validate.ValidationError as error:
                    place = "/".join(map(str, error.path))
                    name = f"{document['kind']} {document['metadata']['name']}"
                    raise SystemExit(f"{case}: {name} is not valid in 1.{minor}: {place}: {error.message}") from error
                count += 1
    # A schema that accepts everything would not be one.
    broken = documents(KEPT)
    next(d for d in broken if d["kind"] == "DaemonSet")["spec"]["template"]["spec"]["hostNetworks"] = True
    refused = 0
    for document in broken:
        try:
            kubernetes_validate.validate(document, f"1.{oldest}", strict=True)
        except kubernetes_validate.ValidationError:
            refused += 1
    assert refused == 1, refused
    print(f"{count} objects valid, 1.{oldest} to 1.{newest}")


def refusals():
    """Each by itself; and what they are made of is accepted."""
    everything = [*BUILDER, *HOSTS, "node.hostsToml.endpoints={https://a}"]
    for values, name in [(everything, None), *REFUSED]:
        sets = [part for value in values for part in ("--set", value)]
        done = helm("template", "linkspan", CHART, *sets)
        if name is None:
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode != 0 and name in done.stderr, (values, name, done.stderr)
    # An old cluster is told so before anything is made.
    sets = [part for value in GOOD for part in ("--set", value)]
    done = helm("template", "linkspan", CHART, *sets, "--kube-version", "1.29.0")
    assert done.returncode != 0 and "1.30" in done.stderr, done.stderr
    for case in cases():
        done = helm("lint", "--strict", CHART, "--values", VALUES / f"{case}.yaml")
        assert done.returncode == 0, done.stdout + done.stderr


def write_pods(folder):
    """One file a pod template."""
    for case in cases():
        for name, template in pods(documents(case)).items():
            (pathlib.Path(folder) / f"{case}.{name}.json").write_text(json.dumps(template))


def mistakes():
    """References that lead nowhere, rights beyond those that are documented, images of registries, and chance."""
    for case in cases():
        assert render(case) == render(case), case
        objects = documents(case)
        made = {(o["kind"], o["metadata"]["name"]) for o in objects}
        assert len(made) == len(objects), case
        assert all(o["metadata"]["namespace"] == "linkspan" for o in objects), case
        for name, template in pods(objects).items():
            check_pod(f"{case}: {name}", template, made)
        check_selectors(case, objects)
    check_clients()
    check_upgrades()
    check_readme()
    check_versions()


def check_upgrades():
    """The builder's port comes and goes by an upgrade: no object has to change what cannot be changed."""
    port = ["enabled=true", "tlsSecret=linkspan-tls", "clientCASecret=linkspan-ca", "clients[0].podSelector.matchLabels.a=b"]
    sets = [part for value in port for part in ("--set", f"builder.service.{value}")]
    for case in (KEPT, "bucket"):
        without, having = ({(o["kind"], o["metadata"]["name"]): o for o in documents(case, *flags)} for flags in ([], sets))
        assert set(having) - set(without) == {("Service", "linkspan-builder")} and set(without) <= set(having), case
        for kind, name in without:
            old, new = without[kind, name].get("spec"), having[kind, name].get("spec")
            if kind == "StatefulSet":
                assert {k: v for k, v in old.items() if k not in CHANGEABLE} == {
                    k: v for k, v in new.items() if k not in CHANGEABLE
                }, (case, name)
                governing = without["Service", old["serviceName"]]["spec"]
                assert governing["clusterIP"] == "None", (case, governing)
            if kind == "Service":
                assert old == new, (case, name)
        assert "clusterIP" not in having["Service", "linkspan-builder"]["spec"], case


def check_clients():
    """Clients of the builder's port are let in from other namespaces than the builder's, which has nothing else in it."""
    policies = [o for o in documents("builder-mtls") if o["kind"] == "NetworkPolicy"]
    (rule,) = (rule for policy in policies for rule in policy["spec"]["ingress"])
    assert rule["ports"] == [{"port": "buildkit"}], rule
    namespace, pod = {"kubernetes.io/metadata.name": "ci"}, {"builds": "true"}
    assert rule["from"] == [
        {"namespaceSelector": {"matchLabels": namespace}, "podSelector": {"matchLabels": pod}},
        {"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.9.0/24"]}},
    ], rule


def check_readme():
    """What the README and the notes say to type names what the chart makes, and the README's values are accepted."""
    text = (KUBERNETES / "README.md").read_text()
    (values,) = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S))
    sets = ["--set-json", f"builder.service={json.dumps(values['builder']['service'])}"]
    objects = {(o["kind"].lower(), o["metadata"]["name"]): o for o in documents(KEPT, *sets)}
    restarts = re.findall(r"kubectl -n linkspan rollout restart ([a-z]+)/(\S+)", text)
    assert {kind for kind, _ in restarts} == {"daemonset", "statefulset"} and set(restarts) <= set(objects), restarts
    (service, port), = re.findall(r"tcp://(\S+)\.linkspan:(\d+)", text)
    assert [p["port"] for p in objects["service", service]["spec"]["ports"]] == [int(port)], (service, port)
    values = VALUES / "builder-mtls.yaml"
    notes = helm("install", "linkspan", CHART, "--namespace", "linkspan", "--dry-run=client", "--values", values)
    assert notes.returncode == 0 and f"tcp://{service}.linkspan:{port}," in notes.stdout.partition("NOTES:")[2], notes
    assert re.search(rf"NODES:-[^}}]*DNS:{service}\.linkspan}}", text), "server.crt is for the Service's name"


def check_versions():
    """What is said in two places."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    assert chart["appVersion"] == chart["version"] == package["version"], chart
    recipe = (KUBERNETES / "Dockerfile").read_text()
    channel = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert f"FROM rust:{channel.rpartition('.')[0]}-" in recipe, (channel, recipe)
    probe = documents(KEPT)
    program = {c["readinessProbe"]["exec"]["command"][0] for t in pods(probe).values() for c in containers(t)} - {"buildctl"}
    assert recipe.rstrip().endswith(f"ENTRYPOINT {json.dumps(sorted(program))}"), (program, recipe)


def check_pod(where, template, made):
    """One pod."""
    spec = template["spec"]
    assert spec["automountServiceAccountToken"] is False, where
    assert ("ServiceAccount", spec["serviceAccountName"]) in made, where
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    used = {mount["name"] for container in containers(template) for mount in container["volumeMounts"]}
    # A StatefulSet's storage may be a claim's.
    assert used - {"storage"} <= set(volumes) <= used, (where, used, set(volumes))
    for volume in volumes.values():
        if config_map := volume.get("configMap"):
            assert ("ConfigMap", config_map["name"]) in made, (where, volume)
    for container in containers(template):
        check_container(f"{where}: {container['name']}", container, volumes)


def check_container(where, container, volumes):
    """One container."""
    registry, slash, _ = container["image"].partition("/")
    assert not (slash and re.search(r"[.:]", registry)), f"{where}: an image of a registry that nobody chose"
    assert {"requests", "limits"} <= set(container["resources"]) and "memory" in container["resources"]["limits"], where
    host_paths = {m["mountPath"] for m in container["volumeMounts"] if "hostPath" in volumes.get(m["name"], {})}
    rights = container["securityContext"]
    if container["name"] == "buildkitd":
        # Build steps run beside it: nothing of the node, and none of Linkspan's own.
        assert not host_paths and "probe" not in {m["name"] for m in container["volumeMounts"]}, where
        return
    assert rights["capabilities"]["drop"] == ["ALL"] and rights["readOnlyRootFilesystem"], where
    assert rights["allowPrivilegeEscalation"] is False and not rights.get("privileged"), where
    if container["name"] == "linkspan":
        assert host_paths <= {"/run/containerd"}, where
        assert all(m.get("readOnly") for m in container["volumeMounts"] if m["mountPath"] in host_paths), where


def check_selectors(case, objects):
    """What selects pods selects one kind of them."""
    templates = pods(objects)
    for o in objects:
        spec = o.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if selector is None:
            continue
        labels = selector.get("matchLabels", selector)
        found = [name for name, t in templates.items() if labels.items() <= t["metadata"]["labels"].items()]
        assert len(found) == 1, (case, o["kind"], o["metadata"]["name"], found)


match sys.argv[1:]:
    case ["kept", *write]:
        kept(write == ["--write"])
    case ["schemas"]:
        schemas()
    case ["refusals"]:
        refusals()
    case ["pods", folder]:
        write_pods(folder)
    case ["mistakes"]:
        mistakes()
    case _:
        raise SystemExit(__doc__)
