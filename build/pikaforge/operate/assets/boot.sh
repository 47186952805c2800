#!/bin/sh
### BEGIN INIT INFO
# Provides:          @PRODUCT@
# Required-Start:    $remote_fs $network
# Required-Stop:     $remote_fs $network
# Should-Start:      $named $syslog $time
# Should-Stop:       $named $syslog
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: all instances of @PRODUCT@ on this host
### END INIT INFO
# chkconfig: 2345 85 15
# description: all instances of @PRODUCT@ on this host
#
# Start or stop all instances of a host without systemd: each by the scripts of the tree that it runs.
# Written by deploy.sh.
set -u
etc=/etc/@PRODUCT@
runtime=/run
PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin

one() { # SCRIPT WORD
    if [ -x "$tree/utils/$1" ]; then
        "$tree/utils/$1" "$port" "$2"
        return
    fi
    echo "${0##*/}: the program of instance $port is missing: see $env" >&2
    return 1
}

# Run a script of each instance's tree, all at the same time. Status 1: one has failed.
all() { # SCRIPT WORD
    processes=
    for env in "$etc"/[0-9]*.env; do
        [ -f "$env" ] || continue
        port=${env##*/}
        port=${port%.env}
        tree=$(sed -n 's/^TREE=//p' "$env" | tail -n 1)
        one "$1" "$2" &
        processes="$processes $!"
    done
    failed=0
    for process in $processes; do
        wait "$process" || failed=1
    done
    return $failed
}

case ${1-} in
start | stop | restart | force-reload | status) ;;
*)
    echo "usage: $0 start | stop | restart | force-reload | status" >&2
    exit 2
    ;;
esac
if [ -d "$runtime/systemd/system" ]; then
    echo "${0##*/}: systemd runs: systemctl $1 '@PRODUCT@@*'" >&2
    exit 1
fi
case $1 in
start) all run.sh --daemon ;;
status) all instance.sh check ;;
stop) all instance.sh stop ;;
*) all instance.sh restart ;;
esac
