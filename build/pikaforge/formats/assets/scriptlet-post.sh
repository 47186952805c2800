#!/bin/sh
# The service user, the folder in /run, and systemd's knowledge of the units; each where the system has what it takes.
# Nothing is started or restarted. Nothing here is worth a failure: a package that is half installed helps nobody, and
# deploy.sh makes the user, too.
set -u
user=@PRODUCT@

if ! id "$user" >/dev/null 2>&1; then
    if [ -f /usr/lib/sysusers.d/@PRODUCT@.conf ] && command -v systemd-sysusers >/dev/null 2>&1; then
        systemd-sysusers /usr/lib/sysusers.d/@PRODUCT@.conf >/dev/null 2>&1 || : # it tells what it made
    fi
fi
if ! id "$user" >/dev/null 2>&1 && command -v useradd >/dev/null 2>&1; then
    group=--user-group
    ! getent group "$user" >/dev/null 2>&1 || group=--gid=$user
    shell=/sbin/nologin
    [ -x "$shell" ] || shell=/usr/sbin/nologin
    useradd --system "$group" --home-dir / --no-create-home --shell "$shell" --comment '@PRODUCT@ server' "$user" || :
fi
id "$user" >/dev/null 2>&1 ||
    echo "@PRODUCT@: warning: the user $user could not be made; @TOP@/utils/deploy.sh will try again" >&2

if [ -f "/etc/systemd/system/@PRODUCT@@.service" ]; then
    echo "@PRODUCT@: warning: /etc/systemd/system/@PRODUCT@@.service, of a tarball or wheel, hides the unit of this package" >&2
    echo "  hint: to move an instance here: rm that file; sh @TOP@/utils/deploy.sh PORT BASE; systemctl restart @PRODUCT@@PORT" >&2
fi

if command -v systemd-tmpfiles >/dev/null 2>&1; then
    systemd-tmpfiles --create /usr/lib/tmpfiles.d/@PRODUCT@.conf || :
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -gt 1 ] && systemctl --quiet is-active '@PRODUCT@@*.service' 2>/dev/null; then
        echo "@PRODUCT@: running instances go on with the old program until: systemctl try-restart '@PRODUCT@@*'"
    fi
fi
exit 0
