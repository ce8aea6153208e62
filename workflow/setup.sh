#!/bin/sh
# Set up what the pipeline runs in. `make` calls this; by hand:
#   sh workflow/setup.sh python   .venv, exactly as requirements.lock says
#   sh workflow/setup.sh tex      a LaTeX that can typeset the report
#   sh workflow/setup.sh browser  a Chromium that tests of the pages drive; they are skipped without
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
TEX_DEBIAN="latexmk texlive-latex-base texlive-latex-recommended texlive-fonts-recommended lmodern"
TEX_STYLES="lmodern.sty microtype.sty booktabs.sty natbib.sty"

say() { printf '%s\n' "$*"; }
fail() { say "setup: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
can_apt() { [ "$(id -u)" = 0 ] && have apt-get; }
apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@"; } >/dev/null
}

setup_python() {
    have "$PYTHON" || fail "Python 3.11 or newer is needed and '$PYTHON' is not on PATH (another one: make PYTHON=...)."
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed; '$PYTHON' is $("$PYTHON" -V 2>&1) (another one: make PYTHON=...)."
    if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null && can_apt; then
        say "Installing python3-venv (about 10 seconds)"
        apt_install python3-venv || fail "apt-get could not install python3-venv (its message is above)."
    fi
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "'$PYTHON' cannot create virtual environments; on Debian or Ubuntu: apt-get install python3-venv"

    # .venv/.ready is the mark of a complete set-up; what an interrupted one left is thrown away.
    if [ -e .venv/.ready ] && .venv/bin/uv --version >/dev/null 2>&1; then
        say "Updating .venv"
        rm .venv/.ready
    else
        say "Creating .venv (about 1-3 minutes, 5.5 GB with CUDA libraries on Linux)"
        "$PYTHON" -m venv --clear .venv
        # uv, too, comes at the version and with the hashes of the lock
        sed -n '/^uv==/,/[^\\]$/p' requirements.lock >.venv/uv.txt
        .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r .venv/uv.txt ||
            fail "pip could not install uv (its message is above)."
    fi
    export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}"
    .venv/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
    touch .venv/.ready
}

tex_works() {
    # kpsewhich fails if one of the styles is missing
    # shellcheck disable=SC2086
    have latexmk && have pdflatex && kpsewhich $TEX_STYLES >/dev/null 2>&1
}

setup_tex() {
    tex_works && return
    if can_apt; then
        say "Installing LaTeX (about 1 minute)"
        # shellcheck disable=SC2086
        apt_install $TEX_DEBIAN || fail "apt-get could not install LaTeX (its message is above)."
    fi
    tex_works ||
        fail "the report needs LaTeX with latexmk. Debian, Ubuntu: apt-get install $TEX_DEBIAN; macOS: brew install --cask mactex-no-gui; conda: install TinyTeX or TeX Live outside conda (see environment.yml)."
}

has_browser() { have chromium || have chromium-browser || have google-chrome; }

setup_browser() {
    if ! has_browser && can_apt; then
        say "Installing Chromium (about half a minute)"
        apt_install chromium || true
    fi
    has_browser || say "No Chromium here: the tests of the pages are skipped (Debian: apt-get install chromium)."
}

case "${1-}" in
    python) setup_python ;;
    tex) setup_tex ;;
    browser) setup_browser ;;
    *) fail "say 'python', 'tex' or 'browser'." ;;
esac
