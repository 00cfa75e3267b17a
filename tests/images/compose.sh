#!/usr/bin/env bash
# compose.sh [FILE]: the walk through Compose, in the API's own container: up, health, train, ask, export, restart, down.
#
# COMPOSE is the command ("docker compose"), UP_OPTIONS what `up` gets besides, as --no-build. Its volumes are the project
# brie-walk's, and go with it.
set -euo pipefail
cd "$(dirname "$0")/../.."
file=${1:-docker-compose.yml}
read -ra compose <<<"${COMPOSE:-docker compose}"
compose+=(--project-name brie-walk --project-directory "$PWD" --file "$file")
read -ra options <<<"${UP_OPTIONS:-}"
[[ $file == *sqlite* ]] && service=brie || service=api
began=$SECONDS
trap '"${compose[@]}" logs --no-color >"${LOGS:-/dev/null}" 2>&1; "${compose[@]}" down --volumes' EXIT

brie() { "${compose[@]}" exec -T "$service" brie "$@"; }
told() { echo "compose: $* after $((SECONDS - began)) s"; }

"${compose[@]}" up --detach "${options[@]}"
until brie models list >/dev/null 2>&1; do ((SECONDS - began < 600)) || exit 1; sleep 1; done
told "the API answers"
"${compose[@]}" ps
head -n "${ROWS:-8}" clients/examples/data/philosophy.jsonl |
  "${compose[@]}" exec -T "$service" sh -c 'cat >/tmp/rows.jsonl && brie train /tmp/rows.jsonl --suffix walked --epochs 2 --follow'
told "trained"
brie chat walked "Who was Spinoza?"
"${compose[@]}" exec -T "$service" sh -c 'cd /tmp && brie export walked --quantization q8_0 && brie verify walked-q8_0.gguf'
told "exported and verified"
"${compose[@]}" ps
"${compose[@]}" exec -T "$service" sh -c 'id; ! touch /anywhere; grep -E "^(CapEff|NoNewPrivs)" /proc/self/status'
restarted=$SECONDS
"${compose[@]}" restart
echo "compose: restarted in $((SECONDS - restarted)) s"
until brie chat walked "Who was Spinoza?" 2>/dev/null; do ((SECONDS - restarted < 600)) || exit 1; sleep 1; done
told "the adapter answers again"
