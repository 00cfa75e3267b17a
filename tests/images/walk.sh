#!/usr/bin/env bash
# walk.sh [ENGINE]: README's walk between two containers that share two folders: an API and a worker, on SQLite.
#
# ENGINE is podman or docker (read-only root, no capabilities, no new privileges) or buildah (a chroot, and none of
# these); it may have options ("podman --runtime runc"), and its `run` has those in RUN_OPTIONS ("--ulimit nofile=4096:4096
# --ulimit nproc=4096:4096" where podman may not raise limits). All is bound to 127.0.0.1.
# It leaves the GGUF file and the logs in WALK (a folder of its own by default). ROWS and EPOCHS say how much is learnt.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra engine <<<"${1:-podman}"
read -ra more <<<"${RUN_OPTIONS:-}"
[[ ${engine[0]} == docker ]] && prefix='' || prefix=localhost/
api=${prefix}brie-api:${TAG:-cpu} worker=${prefix}brie-worker:${TAG:-cpu}
walk=${WALK:-$(mktemp --directory /tmp/brie-walk-XXXX)}
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir -p "$walk"/{data,models,out}
head -n "${ROWS:-8}" clients/examples/data/philosophy.jsonl >"$walk/out/rows.jsonl"
chown -R 10001:10001 "$walk"/{data,models,out}
chmod 755 "$walk"
settings=(BRIE_HOST=127.0.0.1 "BRIE_PORT=$port")
confined=(--network host --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges)
mounts=(--volume "$walk/data:/data" --volume "$walk/models:/models")
names=()

container() { # NAME IMAGE COMMAND...: in the foreground, with the settings
  local name=$1 image=$2
  shift 2
  if [[ ${engine[0]} == buildah ]]; then
    local made
    made=$(buildah from --name "$name" "$image")
    buildah run --isolation chroot --network host --user 10001:10001 --workingdir /out --volume "$walk/out:/out" \
      "${mounts[@]}" "${settings[@]/#/--env=}" "$made" -- sh -c 'echo $$ >"$0.pid"; exec tini -- brie "$@"' "$name" "$@"
  else
    "${engine[@]}" run "${more[@]}" --name "$name" --rm "${confined[@]}" "${mounts[@]}" --volume "$walk/out:/out" --workdir /out \
      "${settings[@]/#/--env=}" "$image" "$@"
  fi
}

service() { # NAME IMAGE COMMAND...: in the background, its output in NAME.log
  container "$@" >"$walk/$1.log" 2>&1 &
  names+=("$1")
}

stop() {
  local name=$1 from=$SECONDS
  if [[ ${engine[0]} == buildah ]]; then
    kill -TERM "$(<"$walk/out/$name.pid")"
    tail --pid="$(<"$walk/out/$name.pid")" --follow /dev/null
  else
    "${engine[@]}" stop --time 30 "$name" >/dev/null
  fi
  echo "walk: $name took $((SECONDS - from)) s to stop"
}

end() {
  for name in "${names[@]}"; do stop "$name" || true; done
  wait
  [[ ${engine[0]} == buildah ]] && buildah rm "${names[@]}" asks >/dev/null 2>&1
  echo "walk: logs and files are in $walk"
}

trap end EXIT
began=$SECONDS
service brie-walk-api "$api" serve --no-worker
for _ in $(seq 1200); do
  curl --silent --fail "http://127.0.0.1:$port/health/ready" >/dev/null && break
  kill -0 $! 2>/dev/null || { cat "$walk/brie-walk-api.log" >&2; exit 1; }
  sleep 0.5
done
curl --silent --show-error --fail "http://127.0.0.1:$port/health/ready"
echo " after $((SECONDS - began)) s"
service brie-walk-worker "$worker" worker

ask() {
  container asks "$api" "$@"
  [[ ${engine[0]} == buildah ]] && buildah rm asks >/dev/null
  return 0
}
ask chat smollm2-135m-instruct "Who was Spinoza?"
ask train rows.jsonl --suffix walked --epochs "${EPOCHS:-2}" --follow
ask chat walked "Who was Spinoza?"
ask export walked --quantization q8_0
ask verify walked-q8_0.gguf
ls -l "$walk/out"
echo "walk: done in $((SECONDS - began)) s"
