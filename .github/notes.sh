#!/bin/sh
# The section of CHANGELOG.md on a version, without its heading: sh .github/notes.sh 0.4.0
set -eu
cd "$(dirname "$0")/.."
notes=$(awk -v version="$1" '/^## / { found = ($2 == version); next } found' CHANGELOG.md)
[ -n "$notes" ] || { echo "CHANGELOG.md says nothing of $1" >&2; exit 1; }
printf '%s\n' "$notes"
