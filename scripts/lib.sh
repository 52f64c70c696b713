# Shared by the scripts beside it; to be sourced. POSIX shell.
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
export ROOT

say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif have sudo; then sudo "$@"
    else fail "this needs root: $*"
    fi
}

# Debian packages that are not there yet.
need_packages() {
    have apt-get || { say "not a Debian system; these have to be there: $*"; return 0; }
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive sh -c "
        apt-get -qq update >/dev/null && apt-get -qq install -y --no-install-recommends $missing >/dev/null"
}

need_rust() {
    if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH="$HOME/.cargo/bin:$PATH"; export PATH; fi
    have cargo && return 0
    need_packages curl ca-certificates
    say "installing Rust with rustup"
    curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y -q --profile minimal -c clippy -c rustfmt
    PATH="$HOME/.cargo/bin:$PATH"
    export PATH
}

# A virtual environment with the given packages, made once; sets VENV.
need_venv() {
    VENV=$1
    shift
    stamp="$VENV/.herdsman-packages"
    if [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$*" ]; then return 0; fi
    python=${PYTHON:-python3}
    have "$python" || need_packages python3
    "$python" -c 'import ensurepip, venv' 2>/dev/null || need_packages python3-venv
    say "Python packages: $*"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
    "$VENV/bin/python" -m pip install -q --disable-pip-version-check "$@"
    printf '%s' "$*" >"$stamp"
}

# What the emulated clouds of tests and benchmarks need.
need_clouds_venv() {
    need_venv "$ROOT/target/clouds-venv" 'moto[server,ec2]' google-api-python-client cryptography apache-libcloud \
        openapi-schema-validator pyyaml jsonschema rfc3339-validator azure-mgmt-compute==39.0.0 azure-mgmt-network==33.1.0 \
        azure-mgmt-resource==26.0.0 azure-mgmt-resource-subscriptions==1.0.0 azure-mgmt-authorization==4.0.0
}
