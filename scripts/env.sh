# Sourced by the other scripts: goes to the repository's root and sets PYTHON to an environment with everything installed.
#
#   source "$(dirname "${BASH_SOURCE[0]}")/env.sh" requirements.txt          what the project needs to run
#   source "$(dirname "${BASH_SOURCE[0]}")/env.sh" requirements-dev.txt      and what its tests need
#
# The environment is .venv in the repository. A stamp, written last, says what was installed there: the next call has nothing to
# do if it matches, and repairs the environment if an earlier call was cut off or the requirements changed.
# SIGMA_PYTHON names the interpreter to make the environment with (default: python3 if it is 3.10 to 3.13, else the newest found).

CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

_fail() {
    echo "error: $*" >&2
    exit 1
}

_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

_find_python() {
    local candidate
    if [ -n "${SIGMA_PYTHON:-}" ]; then
        _supported "$SIGMA_PYTHON" || _fail "SIGMA_PYTHON=$SIGMA_PYTHON is not a Python 3.10 to 3.13"
        command -v "$SIGMA_PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if _supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    _fail "no Python 3.10 to 3.13 found; install one (apt-get install python3 python3-venv) or set SIGMA_PYTHON"
}

_make_venv() {
    local python
    python=$(_find_python) || exit 1
    echo "making .venv with $("$python" --version) ($python)"
    # Debian and Ubuntu keep the part of Python that puts pip into an environment in a package of its own.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        local package
        package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || _fail "Python lacks venv: run 'sudo apt-get install $package'"
        apt-get update -q && apt-get install -q -y --no-install-recommends "$package" || _fail "cannot install $package"
    fi
    "$python" -m venv --clear .venv || _fail "cannot make .venv with $python"
}

_pip_install() {
    .venv/bin/python -m pip install --retries 5 --progress-bar off -q -r "$1" -c constraints.txt ||
        _fail "the installation failed (its reason is above); run the same command again to continue it"
}

_works() {
    .venv/bin/python -c 'import sigma_video.compat, torch, torchvision, timm, einops, av, matplotlib, torch.utils.tensorboard'
}

_install() {
    local requirements=$1 stamp wanted
    stamp=.venv/installed-$requirements
    if ! _supported .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        _make_venv
    fi
    wanted=$(cat requirements.txt "$requirements" constraints.txt | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    rm -f "$stamp"
    echo "installing $requirements into .venv (1 to 2 GB with a CPU build of torch, several with a CUDA build; minutes)"
    _pip_install "$requirements"
    if ! _works 2>/dev/null; then
        # pip takes a package whose folder was lost or cut off for installed: only a new environment repairs that.
        echo "the installed packages do not work together; making .venv anew"
        _make_venv
        _pip_install "$requirements"
        _works || _fail "the installed packages do not work together (see above)"
    fi
    echo "$wanted" >"$stamp"
}

# One installation at a time: a second call waits for the first.
exec 9>.venv.lock
command -v flock >/dev/null && { flock -n 9 || { echo "waiting for another installation"; flock 9; }; }
_install "$@"
exec 9>&-
PYTHON=$PWD/.venv/bin/python
export PYTHON PYTHONUNBUFFERED=1
