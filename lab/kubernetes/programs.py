"""The programs of Kubernetes and etcd, built by Go from their modules.

Kubernetes' module takes its libraries from a folder that a module does not carry (`staging/`); the same libraries are
modules of their own, v0.X.Y for Kubernetes 1.X.Y.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path

from keyturn.lab.stack.go import build_once, run_go

VERSION = "1.36.3"
_KUBERNETES = "k8s.io/kubernetes"
# By program, its package; etcd is of the version that Kubernetes' module asks for.
PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": f"{_KUBERNETES}/cmd/kube-apiserver",
    "kube-controller-manager": f"{_KUBERNETES}/cmd/kube-controller-manager",
}
# Of operators that the chart has parts for: by the module and its version, the definitions that are taken from it.
DEFINITIONS = {
    "github.com/kedacore/keda/v2@v2.21.0": ["config/crd/bases/keda.sh_scaledobjects.yaml"],
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": [
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ],
}
_STAGED = re.compile(r"^\s*(\S+) => \./staging/", re.MULTILINE)
_NAME = f"kubernetes-{VERSION}"


def build_kubernetes() -> Path:
    """Return the folder of the programs and definitions, built where they are not there yet; raises StackNotStarted."""
    definitions = [Path(file).name for files in DEFINITIONS.values() for file in files]
    return build_once(_NAME, [*PROGRAMS, *definitions], _build)


def _build(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        module = Path(name)
        _write_module(module)
        # Without the version, the server calls itself v0.0.0-master, for which Helm refuses charts.
        major, minor, _ = VERSION.split(".")
        set_version = " ".join(
            f"-X k8s.io/component-base/version.{variable}={value}"
            for variable, value in {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}.items()
        )
        missing = {name: package for name, package in PROGRAMS.items() if not (folder / name).exists()}
        for program, package in missing.items():
            part = folder / f"{program}.part"  # who is killed here leaves no program that is half written
            arguments = ["build", "-trimpath", "-ldflags", f"-s -w {set_version}", "-o", str(part), package]
            run_go(arguments, folder=module, variables={"GOFLAGS": "-mod=mod"})
            part.rename(folder / program)
        for source, files in DEFINITIONS.items():
            downloaded = json.loads(run_go(["mod", "download", "-json", source], folder=module))
            for file in files:
                shutil.copyfile(Path(downloaded["Dir"]) / file, folder / Path(file).name)


def _write_module(folder: Path) -> None:
    """Write a module that requires Kubernetes', with the libraries of its version."""
    downloaded = json.loads(run_go(["mod", "download", "-json", f"{_KUBERNETES}@v{VERSION}"], folder=folder))
    of_kubernetes = Path(downloaded["GoMod"]).read_text()
    replaced = []
    for library in _STAGED.findall(of_kubernetes):
        if "/sample-" in library:  # examples, which no program uses and which are not all published
            empty = folder / library.rpartition("/")[2]
            empty.mkdir()
            (empty / "go.mod").write_text(f"module {library}\n")
            replaced.append(f"\t{library} => ./{empty.name}")
        else:
            replaced.append(f"\t{library} => {library} v0.{VERSION.partition('.')[2]}")
    lines = ["module keyturn.internal/kubernetes", f"require {_KUBERNETES} v{VERSION}", "replace (", *replaced, ")", ""]
    (folder / "go.mod").write_text("\n".join(lines))
