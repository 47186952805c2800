#!/bin/sh
# Refuse a machine whose CPUs cannot run the package, before anything is changed: on an upgrade the old package stays.
# The gate's files travel in this script, because those of the package are not there yet. No program of it is started.
set -eu

here=$(mktemp -d "/var/tmp/@PRODUCT@.XXXXXX") || {
    echo '@PRODUCT@: error: no folder can be made in /var/tmp, so the CPUs cannot be judged; nothing was changed' >&2
    exit 1
}
trap 'rm -rf "$here"' EXIT
trap 'exit 1' HUP INT TERM
#@FILES@
sh "$here/cpu-gate.sh" --quiet || {
    echo '@PRODUCT@: error: this machine does not run this package (see above); nothing was changed' >&2
    exit 1
}
