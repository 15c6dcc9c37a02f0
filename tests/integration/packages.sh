#!/bin/sh
# Installs what the integration tests need from Debian, and only what is absent: a browser, its driver, LaTeX, and
# mounts that see files late.
set -eu

wanted=""
command -v chromium >/dev/null || wanted="$wanted chromium"
command -v chromedriver >/dev/null || wanted="$wanted chromium-driver"
command -v pdflatex >/dev/null || wanted="$wanted texlive-latex-base"
{ command -v kpsewhich >/dev/null && kpsewhich booktabs.sty >/dev/null; } || wanted="$wanted texlive-latex-recommended"
command -v bindfs >/dev/null || wanted="$wanted bindfs"
[ -n "$wanted" ] || exit 0

command -v apt-get >/dev/null || {
    echo "The integration tests need$wanted: install them, since this system has no apt-get." >&2
    exit 1
}
root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "The integration tests need$wanted: ask an administrator to install them with apt-get." >&2
        exit 1
    }
    root="sudo"
fi
$root apt-get update
# shellcheck disable=SC2086  # a list of words
$root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $wanted
