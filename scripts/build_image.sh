#!/bin/sh
# Builds the container's image with podman or docker, whichever works here. Usage: build_image.sh NAME [OPTION ...]
set -eu

name=${1:?give the name of the image}
shift
cd "$(dirname "$0")/.."
if command -v podman >/dev/null 2>&1; then
    # Podman's own image format has no HEALTHCHECK.
    exec podman build --format docker --file docker/Dockerfile --tag "$name" "$@" .
fi
if command -v docker >/dev/null 2>&1; then
    if ! docker info >/dev/null 2>&1; then
        echo "error: docker is here, but its daemon does not answer: start it, or install podman" >&2
        exit 2
    fi
    exec docker build --file docker/Dockerfile --tag "$name" "$@" .
fi
echo "error: no builder of images is here: install podman or docker" >&2
exit 2
