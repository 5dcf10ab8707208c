#!/usr/bin/env bash
# Build, check and tag the version that pyproject.toml names; nothing is pushed or published. `make release`.
set -euo pipefail
# Behind a company's proxy the certificates that count are the system's; uv would bring its own.
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
uv=$(command -v uv || echo .venv/bin/uv)
test -z "$(git status --porcelain)" || { echo "There are changes that are not committed: a release is what git has." >&2; exit 1; }
grep -q "^## \[\?$version" CHANGELOG.md || { echo "CHANGELOG.md has no section for $version: name the release there first." >&2; exit 1; }
! git rev-parse -q --verify "refs/tags/v$version" >/dev/null || { echo "v$version is tagged already: raise the version in pyproject.toml." >&2; exit 1; }
test "${1:-}" = --without-tests || make check test docs
rm -rf dist
"$uv" build --quiet --out-dir dist
# The wheel as a user gets it: in an environment that has nothing of the checkout's.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$uv" venv --quiet "$scratch/venv"
"$uv" pip install --quiet --python "$scratch/venv/bin/python" dist/*.whl
(cd "$scratch" && venv/bin/keyturn --version | grep -q "$version" && venv/bin/keyturn rotate --help >/dev/null && venv/bin/keyturn policy list >/dev/null)
test "$("$scratch/venv/bin/python" -m zipfile -l dist/*.whl | awk 'NR > 1 {split($1, part, "/"); print part[1]}' | sort -u | grep -cv "^keyturn")" = 0 ||
  { echo "The wheel holds more than the package keyturn." >&2; exit 1; }
git tag -a "v$version" -m "Keyturn $version"
echo "dist/ holds keyturn $version, which is tagged v$version here. To publish: $uv publish, git push origin v$version"
