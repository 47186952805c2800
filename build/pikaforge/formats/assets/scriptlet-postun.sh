#!/bin/sh
# systemd forgets the units. The user stays, because files of data may be its own.
set -u
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" -eq 0 ] && [ -d /run/@PRODUCT@ ]; then
    rmdir /run/@PRODUCT@ 2>/dev/null || :
fi
exit 0
