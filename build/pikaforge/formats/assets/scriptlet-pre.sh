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
