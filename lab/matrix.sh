#!/usr/bin/env bash
# Run the core's tests with each Python that is named, in an environment of its own. `make matrix`.
set -euo pipefail
# Behind a company's proxy the certificates that count are the system's; uv would bring its own.
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
cd "$(dirname "$0")/.."
uv=$(command -v uv || echo .venv/bin/uv)
failed=()
for version in "$@"; do
  if ! python=$("$uv" python find --no-project "$version" 2>/dev/null); then
    echo "Python $version: not on this machine (uv python install $version)"
    failed+=("$version")
    continue
  fi
  echo "Python $version: $python"
  UV_PROJECT_ENVIRONMENT=".venv-matrix/$version" "$uv" sync --quiet --locked --python "$python" &&
    ".venv-matrix/$version/bin/pytest" -q -n 2 -p no:cacheprovider -m "not integration and not alone" tests/keyturn tests/activities ||
    failed+=("$version")
done
test "${#failed[@]}" = 0 || { echo "not passed: ${failed[*]}" >&2; exit 1; }
