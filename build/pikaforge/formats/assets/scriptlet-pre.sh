#!/bin/sh
# Refuse a machine whose CPUs cannot run the package, before anything is changed: on an upgrade the old package stays.
# The CPU gate and its lists travel in this script, because the files of the package are not there yet. Nothing is
# written, and no program of the package is started.
set -eu

gate() (
: @GATE@
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

# Package managers follow a link in the place of a folder. So the files would go into the folder of another build, such
# as that of a wheel, whose `deploy` makes @TOP@ a link; and with the package they would go from there, too. A link to
# another disk, for the package alone, is the operator's right.
if [ -L @TOP@ ]; then
    top=@TOP@
    beside=$(cd -P "${top%/*}/" && pwd)
    to=$(cd -P "$top" 2>/dev/null && pwd) || to=
    other=
    case $to in
    '' | "$beside/${top##*/}-"*) other=yes ;;
    *)
        if [ ! -e "/usr/lib/systemd/system/@PRODUCT@@.service" ] && [ ! -e "/lib/systemd/system/@PRODUCT@@.service" ]; then
            # A build, and not the confs that a package has left when it was removed.
            if [ -e "$to/bin" ] || [ -e "$to/manifest.json" ]; then other=yes; fi
        fi
        ;;
    esac
    if [ -n "$other" ]; then
        echo "@PRODUCT@: error: $top is a link to ${to:-nothing}, which is not of this package; nothing was changed" >&2
        echo "  hint: rm $top, and install again; what runs from ${to:-there} goes on until it is restarted" >&2
        exit 1
    fi
fi
