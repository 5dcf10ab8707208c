#!/bin/sh
# Builds by Go, in the folder $1, what checks the files in deploy/: promtool, and Helm for the chart.
set -eu
command -v go >/dev/null || { echo "Go is not installed here (https://go.dev/doc/install)" >&2; exit 1; }
PROMTOOL=v0.305.0 # of Prometheus 3.5, which docker-compose.yml names
HELM=v3.22.0
mkdir -p "$1"
# Of a module of our own: promtool's has replacements, which `go install` refuses.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=-mod=mod
go mod init keyturn.internal/tools >/dev/null 2>&1
build() {
  [ -x "$1/$2" ] && return
  go get "$3@$4"
  go build -o "$1/$2" "$3"
}
build "$1" promtool github.com/prometheus/prometheus/cmd/promtool "$PROMTOOL"
GOBIN="$1" go install "helm.sh/helm/v3/cmd/helm@$HELM"
