#!/usr/bin/env bash
# build.sh [cpu|cuda]: the three images, by docker where it runs, else by buildah; `make images` is this.
# BUILD_OPTIONS goes to the builder as it stands, for instance --build-arg TORCH_CPU_INDEX=... or --volume ... .
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${1:-cpu}
registry=docker.io/library/python:3.11-slim-bookworm
made_here=localhost/brie-base:bookworm
read -ra options <<<"${BUILD_OPTIONS:-}"

if docker info >/dev/null 2>&1; then
  build=(env DOCKER_BUILDKIT=1 docker build)  # the older builder would make CUDA's stages, too
else
  for tool in buildah debootstrap; do
    command -v $tool >/dev/null || { echo "images: no docker runs here; apt-get install buildah debootstrap" >&2; exit 1; }
  done
  build=(buildah bud --isolation chroot --network host --format docker --layers)
  if ! buildah inspect --type image $made_here >/dev/null 2>&1 && ! timeout 60 buildah pull --quiet $registry; then
    tests/images/base.sh $made_here
  fi
  buildah inspect --type image $made_here >/dev/null 2>&1 && options+=(--build-arg BASE=$made_here)
fi

make_image() {
  local dockerfile=$1 tag=$2
  shift 2
  "${build[@]}" --file "$dockerfile" --target "$target" --tag "$tag:$target" "$@" "${options[@]}" .
}
make_image server/Dockerfile brie-api
make_image trainer/Dockerfile brie-worker
make_image server/Dockerfile brie --build-arg EXTRAS=all
