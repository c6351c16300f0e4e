#!/usr/bin/env bash
# Build the image of every stage family and convert it to the file that the rules name, containers/<family>-<version>.sif.
#   containers/build.sh [family ...]   with Python 3.11 as $PYTHON (make images: that of .venv), and
#   BASE=<image>        base image; default: the Dockerfile's. BASE=debootstrap: made from Debian's packages, for machines
#                       that reach no registry (needs root and debootstrap)
#   TORCH_INDEX=<url>   where torch comes from, e.g. https://download.pytorch.org/whl/cpu; default: as pip is configured
# Wheels are collected once, in .cache/wheels: all images, and the machine that builds them, get the same files.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3.11}"
version="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"
families=("$@")
[ $# -gt 0 ] || families=(search score train)
wheels=".cache/wheels${TORCH_INDEX:+-${TORCH_INDEX##*/}}"

for builder in buildah podman docker none; do
    if command -v $builder > /dev/null; then break; fi
done
missing=""
[ $builder != none ] || missing="buildah, podman or docker"
command -v apptainer > /dev/null || missing="${missing:+$missing; }apptainer"
if [ -n "$missing" ]; then
    echo "error: missing on this machine: $missing" >&2
    exit 1
fi

build() { # options of `docker build`; without a daemon nothing but chroot isolation is needed
    case $builder in
    buildah) buildah build --isolation chroot "$@" ;;
    podman) podman build --isolation chroot "$@" ;;
    docker) docker build "$@" ;;
    esac
}

archive() { # image file: prints what apptainer reads the image from
    case $builder in
    buildah) buildah push --quiet "$1" "oci-archive:$2" && echo "oci-archive:$2" ;;
    podman) podman save --quiet --format oci-archive --output "$2" "$1" && echo "oci-archive:$2" ;;
    docker) docker save --output "$2" "$1" && echo "docker-archive:$2" ;;
    esac
}

echo "collecting wheels in $wheels"
mkdir -p $wheels
collect=("$python" -m pip wheel --quiet --disable-pip-version-check --constraint envs/constraints.txt --wheel-dir $wheels
    --find-links $wheels)
"${collect[@]}" --requirement envs/build.txt
if [ "${families[*]}" != search ]; then "${collect[@]}" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch; fi
if [[ " ${families[*]} " == *" train "* ]]; then DS_BUILD_OPS=0 "${collect[@]}" --no-build-isolation --no-deps deepspeed; fi
"${collect[@]}" $(printf -- '--requirement envs/%s.txt ' "${families[@]}")

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
base=()
if [ "${BASE:-}" = debootstrap ]; then
    echo "making the base image"
    debootstrap --variant=minbase --include=python3,python3-venv,libgomp1 bookworm "$scratch/base" > "$scratch/log" ||
        { tail "$scratch/log" >&2 && exit 1; }
    rm -rf "$scratch"/base/var/cache/apt/archives/*.deb "$scratch"/base/var/lib/apt/lists/*
    mkdir "$scratch/context"
    tar --directory "$scratch/base" --create --file "$scratch/context/base.tar" --exclude './dev/*' .
    printf 'FROM scratch\nADD base.tar /\n' > "$scratch/context/Dockerfile"
    build --quiet --tag localhost/llama-nas-base "$scratch/context" > /dev/null
    rm -rf "$scratch/base" "$scratch/context"
    base=(--build-arg BASE=localhost/llama-nas-base)
elif [ -n "${BASE:-}" ]; then
    base=(--build-arg "BASE=$BASE")
fi

for family in "${families[@]}"; do
    image="llama-nas-$family:$version"
    file="containers/$family-$version.sif"
    echo "building $image"
    build --quiet --file containers/Dockerfile "${base[@]}" --build-arg FAMILY="$family" --build-arg VERSION="$version" \
        --build-arg PIP_OPTIONS="--no-index --find-links /context/$wheels" --tag "$image" . > /dev/null
    source="$(archive "$image" "$scratch/$family.tar")"
    # Faster to make and to read than with the default, gzip.
    apptainer --quiet build --mksquashfs-args "-comp zstd -Xcompression-level 3" --force "$file.new" "$source"
    mv "$file.new" "$file"
    rm "$scratch/$family.tar"
    echo "$file: $(du -m "$file" | cut -f 1) MB"
done
