# Shared by the scripts of this folder and by tests/run; sourced, never run.
# shellcheck shell=bash

# Without this, bash goes on after a Ctrl-C whose running command ends well in spite of it, as docker's client may.
trap 'exit 130' INT

# Under sudo, PATH is root's own: Rust is usually that of the person who called.
find_rust() {
    command -v cargo >/dev/null && return
    local home dir
    for home in "${HOME:-/root}" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
        dir=$home/.cargo/bin
        if [[ -x $dir/cargo ]]; then
            export PATH=$dir:$PATH
            # rustup's cargo finds its toolchain in its owner's home.
            export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup} CARGO_HOME=${CARGO_HOME:-$home/.cargo}
            return
        fi
    done
    return 1
}

# Whether this pid runs a command line that holds this text: pids are used again.
runs() { # runs PID TEXT
    [[ -n ${1:-} ]] && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF -- "$2"
}
