# How an image is made out of a container: shared by `build` and by the builds of test images. Sourced, never run.
# shellcheck shell=bash

say() { echo "build: $*" >&2; }
die() { say "$*"; exit 1; }

have_image() { docker image inspect "$1" >/dev/null 2>&1; }

check_engine() {
    command -v docker >/dev/null ||
        die "the docker client is missing: apt-get install --no-install-recommends docker.io"
    docker info >/dev/null 2>&1 || die "the docker daemon does not answer (is it running, may you use it?)"
}

# Content hash of the named files in a folder: names and bytes, in a fixed order.
content_hash() { # content_hash FOLDER NAME…
    (cd "$1" && find -L "${@:2}" -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z |
        xargs -0 sha256sum | sha256sum | cut -c1-12)
}

# The bundle of certificate authorities that this host trusts, or nothing.
ca_bundle() {
    local file
    for file in "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt; do
        if [[ -n $file && -s $file ]]; then echo "$file"; return; fi
    done
}

# Settings of pip and of proxies, for the recipe to read. They may hold passwords
# and so travel in a file: `docker commit` would keep them as the image's environment.
settings() {
    local name
    for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT PIP_RETRIES \
        http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        if [[ -n ${!name:-} ]]; then printf "export %s='%s'\n" "$name" "${!name//\'/\'\\\'\'}"; fi
    done
}

# What every recipe wants in the folder $work: itself, the host's settings, the host's authorities.
stage_recipe() { # stage_recipe FILE
    install -m 755 "$1" "$work/recipe"
    (umask 077 && settings >"$work/settings")
    local bundle
    bundle=$(ca_bundle)
    if [[ -n $bundle ]]; then cp "$bundle" "$work/ca.crt"; fi
}

# Runs the recipe in a container of IMAGE and leaves it for a commit. The
# inputs go in through standard input: the engine may be on another machine.
in_container() { # in_container NAME IMAGE recipe-arguments…
    local name=$1 image=$2
    shift 2
    local -a blanked
    mapfile -t blanked < <(blanked)
    tar -C "$work" -c . | docker run --interactive --name "$name" --user 0 --entrypoint /bin/sh "${blanked[@]}" "$image" \
        -c 'set -e; dir=/tmp/hone-build; mkdir $dir; tar -C $dir -x; sh $dir/recipe "$@" $dir; rm -rf $dir' recipe "$@"
}

# What the docker client would add to a container from its own settings (proxies of
# its config.json), blanked: a commit keeps what a container was given, passwords
# included. The recipe has its proxies from the settings that are staged.
blanked() { # blanked: lines for `docker run`
    local name
    grep -qs '"proxies"' "${DOCKER_CONFIG:-${HOME:-}/.docker}/config.json" || return 0
    for name in http_proxy https_proxy ftp_proxy no_proxy all_proxy; do
        printf -- '--env=%s=\n--env=%s=\n' "$name" "${name^^}"
    done
}

built() { # built TAG
    say "built in $SECONDS s, $(($(docker image inspect --format '{{.Size}}' "$1") / 1000000)) MB"
    echo "$1"
}

clean_up() {
    if [[ -n ${container:-} ]]; then docker rm --force "$container" >/dev/null 2>&1 || true; fi
    if [[ -n ${work:-} ]]; then
        # What a broken stream left: an image without a tag.
        if [[ -s $work/image ]]; then docker rmi "$(cat "$work/image")" >/dev/null 2>&1 || true; fi
        rm -rf "$work"
    fi
}
