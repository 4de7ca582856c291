#!/usr/bin/env bash
# octavo in fresh environments of each Python named, as users install it: from the wheel, from the sdist, and editable. In each the demo
# and the fast part of the suite run.
#
#     tests/fresh_environments.sh python3.11 python3.12 ~/.pyenv/versions/3.13.0/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."
export SKBUILD_BUILD_DIR="build/{wheel_tag}"  # within the sources, wherever they lie, so that a compiler cache serves all builds
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

"$1" -m venv "$place/tools"
"$place/tools/bin/pip" install -q build
"$place/tools/bin/python" -m build --sdist --outdir "$place/dist" . >"$place/log" 2>&1 || { cat "$place/log"; exit 1; }
sdist=$(ls "$place"/dist/*.tar.gz)

# try PYTHON WHAT PIP ARGUMENTS...: a fresh environment, what is installed into it, and what then runs, away from the sources of the package.
try() {
  local python=$1 what=$2; shift 2
  rm -rf "$place/env"
  "$python" -m venv "$place/env"
  "$place/env/bin/pip" install -q "$@" >"$place/log" 2>&1 || { cat "$place/log"; exit 1; }
  printf '%s, %s: ' "$("$python" --version)" "$what"
  (cd "$place" && "$place/env/bin/octavo" demo >"$place/log" 2>&1) || { cat "$place/log"; exit 1; }
  "$place/env/bin/python" -m pytest -q -p no:cacheprovider -n auto -m "not slow" >"$place/log" 2>&1 || { cat "$place/log"; exit 1; }
  tail -1 "$place/log"
}

for python; do
  rm -f "$place"/dist/*.whl
  "$python" -m pip wheel -q --no-deps --wheel-dir "$place/dist" "$sdist" >"$place/log" 2>&1 || { cat "$place/log"; exit 1; }
  try "$python" "the wheel" "$(ls "$place"/dist/*.whl)[test,demo]"
  try "$python" "the sdist" "$sdist[test,demo]"
  try "$python" "editable" --editable ".[test,demo]"
done
