#!/bin/sh
# Refuse a machine whose CPUs cannot run the package, before anything is changed: on an upgrade the old package stays.
# The CPU gate and its lists travel in this script, because the files of the package are not there yet. Nothing is
# written, and no program of the package is started.
set -eu

gate() (
#@GATE@
)
# Not in a condition, where the gate's own -e would not hold.
set +e
gate --quiet
status=$?
set -e
[ "$status" -eq 0 ] || {
    echo '@PRODUCT@: error: this machine does not run this package (see above); nothing was changed' >&2
    exit 1
}
