#!/usr/bin/env bash
# backup.sh [postgresql|sqlite]: the commands under "Backup" of docs/operations.md, as they stand there.
#
# A model with two names, an export and a run that goes on are saved, then thrown away; in the new volumes all of it
# must be there and answer as before, and the run must come to its end. Needs docker compose and the images.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD variant=${1:-postgresql}
case $variant in
  postgresql) file=docker-compose.yml service=api save=1 restore=2 ;;
  sqlite) file=compose.sqlite.yml service=brie save=3 restore=4 ;;
esac
work=$(mktemp --directory /tmp/brie-backup-XXXX)
ln --symbolic "$here/$file" "$work/"
cd "$work"
BRIE_PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export BRIE_PORT
began=$SECONDS

compose() { docker compose --file "$file" "$@"; }
inside() { compose exec -T "$service" "$@"; }
told() { echo "backup: $* after $((SECONDS - began)) s"; }
waiting_for() { until "$@" >/dev/null 2>&1; do ((SECONDS - began < ${LIMIT:-3000})) || return 1; sleep 5; done; }
answering() { waiting_for inside brie models list; }
has_model() { inside brie models list --json | grep "$1" >/dev/null; }  # which reads to the end, or pipefail calls it failed
holdings() { inside python - <"$here/tests/images/holdings.py"; }

documented() { # N: the Nth block of commands under "Backup"
  awk -v want="$1" '/^## / { on = $0 == "## Backup" }
    on && /^    / { n += !held; held = 1; if (n == want) print substr($0, 5); next }
    { held = 0 }' "$here/docs/operations.md" >"commands.$1"
  [[ -s commands.$1 ]] && bash -euxo pipefail "commands.$1"
}

end() {
  for project in "brie-saved-$variant" "brie-restored-$variant"; do
    compose --project-name "$project" logs --no-color >"$project.log" 2>&1 || true
    compose --project-name "$project" down --volumes >/dev/null 2>&1 || true
  done
  echo "backup: files and logs are in $work"
}
trap end EXIT

export COMPOSE_PROJECT_NAME=brie-saved-$variant
compose up --detach
answering
head -n 8 "$here/clients/examples/data/philosophy.jsonl" >rows.jsonl
inside sh -c 'cat >/tmp/rows.jsonl' <rows.jsonl
inside brie train /tmp/rows.jsonl --suffix saved --epochs 1 --follow
inside brie models point second saved
inside sh -c 'cd /tmp && brie export saved --quantization q8_0'
holdings >before.json
told "a model, its second name and an export are there"
inside brie train /tmp/rows.jsonl --suffix running --epochs "${EPOCHS:-8}"
waiting_for has_model 'running.*ckpt-step'
inside brie jobs list
documented $save
told "saved"
ls -l
compose down --volumes

export COMPOSE_PROJECT_NAME=brie-restored-$variant
from=$SECONDS
documented $restore
answering
echo "backup: restored and answering $((SECONDS - from)) s after the first command"
inside brie jobs list
waiting_for has_model '"running"'
told "the run has come to its end"
inside brie jobs list
holdings >after.json
python3 - <<'END'
import json

before, after = (json.load(open(f"{name}.json")) for name in ("before", "after"))
lost = [name for name in before if before[name] != after.get(name)]
print(f"backup: {len(before) - len(lost)} of {len(before)} things are as they were", *lost, sep="\n")
raise SystemExit(bool(lost) or not before)
END
