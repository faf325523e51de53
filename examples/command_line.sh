#!/usr/bin/env bash
# How do I get from files of text to tested results and a page about them, with the command line alone?
#
#     bash command_line.sh [FOLDER]
#
# The model and the task files are made here, by make_model.py and make_tasks.py beside this file; put a name on the hub, or a
# folder, and your own files in their place. Everything lands in FOLDER, or in a temporary one that is removed.
#
# Each step prints what it found. The last ones compare the run with one of the same settings from a file, bit for bit, and end
# this script with their status if it is another.
set -euo pipefail

qkov() { "${PYTHON:-python}" -m qkov "$@"; }  # as installed, `qkov` is a command; take this line out

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$(mktemp -d)}
[ $# -gt 0 ] || trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"
"${PYTHON:-python}" "$here/make_model.py" "$folder/model"
"${PYTHON:-python}" "$here/make_tasks.py" "$folder"
cd "$folder"

echo; echo "=== Where does every head live? Shown by experiment."
qkov inspect model --prove

echo; echo "=== Do the laws of the metric hold on this model?"
qkov check model --task prose=prose.jsonl --task code=code.jsonl --samples 3 --tokens 12

echo; echo "=== What will it take?"
qkov plan model --samples-a 64 --samples-b 64 --tokens 64 --timing skip

echo; echo "=== Collect, score and predict: what does code change that prose depends on? Sums are the reference."
qkov run --model model --task prose=prose.jsonl --task code=code.jsonl --task sums=sums.jsonl --reference sums \
    --no-statistics --out by-flags
qkov store info by-flags/store

echo; echo "=== Which heads are real?"
qkov test by-flags --rows 5

echo; echo "=== A page to look at, with pictures beside it."
qkov report by-flags
test -s by-flags/report.html

echo; echo "=== The same from a file of settings. Is it the same?"
cat > run.yaml <<'YAML'
model: {name: model}
tasks:
  prose: {path: prose.jsonl}
  code: {path: code.jsonl}
  sums: {path: sums.jsonl}
source: prose
target: code
reference: sums
statistics: {run: false}
YAML
qkov run run.yaml --dry-run
qkov run run.yaml --out by-file
qkov compare by-flags by-file --expect D1
