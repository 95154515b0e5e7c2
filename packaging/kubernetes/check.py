"""Holds manifests against the schemas of Kubernetes and against what those do not state.

usage: check.py MODELFS MANIFEST...
"""

import copy
import subprocess
import sys

import kubernetes_validate
import yaml

KUBERNETES = "1.34"
"""The version whose schemas count: what is valid there has stayed valid since 1.29, which brought sidecars."""


def pod_specs(document):
    spec = document.get("spec", {})
    if document["kind"] == "Pod":
        yield spec
    elif "template" in spec:
        yield spec["template"]["spec"]


def containers_of(spec):
    return spec.get("initContainers", []) + spec["containers"]


def is_modelfs(container):
    return container.get("command") == ["modelfs"]


def complaints(document, options):
    """What is wrong with one document, given the options that `modelfs mount` has."""
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{document.get('kind')}: {error.message} at {'.'.join(map(str, error.path))}"
    for spec in pod_specs(document):
        volumes = {volume["name"] for volume in spec["volumes"]}
        containers = containers_of(spec)
        for container in containers:
            name = container["name"]
            privileged = container.get("securityContext", {}).get("privileged", False)
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{name}: there is no volume {mount['name']}"
                if mount.get("mountPropagation") == "Bidirectional" and not privileged:
                    yield f"{name}: Bidirectional is for privileged containers only"
            if is_modelfs(container):
                unknown = [word for word in container["args"] if word.startswith("--") and word not in options]
                if container["args"][0] != "mount" or unknown:
                    yield f"{name}: modelfs mount does not know {unknown}"
                points = [mount["mountPath"] for mount in container["volumeMounts"] if "mountPropagation" in mount]
                if points != container["args"][-1:]:
                    yield f"{name}: it mounts on {container['args'][-1]}, and passes on {points}"
        if not any(map(is_modelfs, containers)):
            mounts = [mount for container in containers for mount in container["volumeMounts"]]
            if not any(mount.get("mountPropagation") == "HostToContainer" for mount in mounts):
                yield f"{document['kind']}: nothing of modelfs is in it"


def able_to_fail(document, options):
    """Whether each rule finds what is planted."""
    spec = next(pod_specs(document))
    modelfs = next(filter(is_modelfs, containers_of(spec)))
    plants = [
        lambda: modelfs.update(imagePullPolice="Always"),
        lambda: modelfs["securityContext"].update(privileged=False),
        lambda: modelfs["args"].insert(1, "--alow-other"),
        lambda: spec["volumes"].pop(),
        lambda: modelfs["args"].append("/elsewhere"),
    ]
    good = copy.deepcopy(modelfs), list(spec["volumes"])
    for plant in plants:
        plant()
        if not list(complaints(document, options)):
            return False
        modelfs.clear()
        modelfs.update(copy.deepcopy(good[0]))
        spec["volumes"][:] = good[1]
    return not list(complaints(document, options))


def main():
    modelfs, *manifests = sys.argv[1:]
    shown = subprocess.run([modelfs, "mount", "--help"], check=True, text=True, capture_output=True).stdout
    options = {word.rstrip(",") for word in shown.split() if word.startswith("--")}
    found, served = [], 0
    for manifest in manifests:
        for document in yaml.safe_load_all(open(manifest, encoding="utf-8")):
            found += [f"{manifest}: {complaint}" for complaint in complaints(document, options)]
            if any(is_modelfs(container) for spec in pod_specs(document) for container in containers_of(spec)):
                served += 1
                if not found and not able_to_fail(document, options):
                    found.append(f"{manifest}: the check does not find what is planted")
    if not served:
        found.append("no manifest runs modelfs")
    print("\n".join(found) or f"kubernetes: {len(manifests)} manifests, valid for Kubernetes {KUBERNETES}")
    sys.exit(bool(found))


main()
