#!/bin/sh
# shellcheck disable=SC2034,SC2154
# Set up one instance on this host.
#
#   deploy.sh PORT BASE [OPTION…]
#
# One instance per port: its conf, data and logs are in BASE/PRODUCT_PORT, owned by the service user; the program itself
# is root's. All is checked before anything is changed. What fails later is undone. Run again with the same arguments it
# changes nothing: a conf that is there is kept.
set -eu
utils=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
# shellcheck source=lib/common.sh
. "$utils/lib/common.sh"
for name in checks conf host; do
    # shellcheck source=/dev/null
    . "$utils/lib/deploy-$name.sh"
done
if [ -n "$protocol" ]; then
    # shellcheck source=lib/service.sh
    . "$utils/lib/service.sh"
    # shellcheck source=lib/resp.sh
    . "$utils/lib/resp.sh"
fi

usage() {
    printf '%s\n' 'usage: deploy.sh PORT BASE [OPTION...]' '' \
        "Set up an instance of $product $version: conf, data and logs in BASE/${product}_PORT." '' \
        '  --set KEY=VALUE       set KEY in its configuration; may be given again' \
        '  --from FILE           begin with this configuration, instead of the one that is shipped' \
        '  --password-file FILE  the password of the administrator, and what replicas send: one line of a file that only' \
        '                        root can read; if FILE is not there, a password is made and written to it' \
        '  --memory SIZE         set sizes so that the instance needs at most this much memory: 8G, 512M' \
        '  --no-start            set it up, and do not start it' \
        '  --dry-run             check all, say what would be done, and change nothing' \
        '  --help                print this' '' \
        'All is checked before anything is changed; a failure after that is undone. Exit status: 0 the instance' \
        'answers; 1 failed, nothing was changed; 2 wrong arguments.'
}

wrong() { misused "$1" "${2:-for example: deploy.sh $default_port /data}"; }

# Words with a value, in $word and $value: --set KEY=VALUE or --set=KEY=VALUE.
arguments() {
    sets='' from='' password_file='' memory='' dry=no begins=yes port='''' base='' given=0
    while [ $# -gt 0 ]; do
        word=$1
        shift
        case $word in
        --help | -h)
            usage
            exit 0
            ;;
        --dry-run)
            dry=yes
            continue
            ;;
        --no-start)
            begins=no
            continue
            ;;
        --set=* | --from=* | --password-file=* | --memory=*)
            value=${word#*=}
            word=${word%%=*}
            ;;
        --set | --from | --password-file | --memory)
            [ $# -gt 0 ] || wrong "$word needs a value"
            value=$1
            shift
            ;;
        -?*) wrong "unknown argument '$word'" "$help" ;;
        *)
            given=$((given + 1))
            case $given in
            1) port=$word ;;
            2) base=$word ;;
            esac
            continue
            ;;
        esac
        [ -n "$value" ] || wrong "$word needs a value"
        case $word in
        --set) sets=$sets$value$nl ;;
        --from) from=$value ;;
        --password-file) password_file=$value ;;
        --memory) memory=$value ;;
        esac
        case $value in
        *"$nl"*) wrong "the value of $word has more than one line" ;;
        esac
    done
    [ "$given" -eq 2 ] || wrong 'usage: deploy.sh PORT BASE [OPTION...]'
}

# Say what would be done.
plan() {
    say "would set up instance $port of $product in $data${found:+, which is there}"
    [ -z "$user_missing" ] || say "would make the user $user"
    show_conf
    if [ "$begins" = no ]; then
        say "would not start it"
    elif by_systemd; then
        say "would enable and start $product@$port.service"
    elif [ -n "$protocol" ]; then
        say "would start it by run.sh"
    fi
}

# Start it and wait until it answers. A server that is not operated is not asked.
start() {
    what=${conf:+conf $conf}
    what=${what:-data $data}
    if ! by_systemd && [ -z "$protocol" ]; then
        say "deploy: no systemd here; the instance is ready to be started with $what"
        return
    fi
    ! by_systemd || systemctl daemon-reload
    ! by_systemd || systemctl is-enabled --quiet "$product@$port.service" 2>/dev/null || mended=yes
    enabled=yes
    if by_systemd && [ -z "$protocol" ] && [ "$begins" = yes ]; then
        if unchanged && systemctl is-active --quiet "$product@$port.service"; then
            say "deploy: $product@$port.service runs: nothing to do"
            return
        fi
        systemctl enable --now "$product@$port.service"
        say "deploy: $product@$port.service is enabled and started"
        return
    fi
    ! by_systemd || systemctl --quiet enable "$product@$port.service"
    if [ "$begins" = yes ]; then
        answers
    elif unchanged; then
        say "deploy: instance $port is set up: nothing to do"
    else
        say "deploy: instance $port is ready to be started with $what${protocol:+: instance.sh $port start}"
    fi
}

# Whether all was there already.
unchanged() { [ -n "$found" ] && [ -z "$made$user_made$written$changed$mended${password_written:-}" ]; }

answers() {
    if service_active "$port" && healthy "$port"; then
        nothing=
        ! unchanged || nothing=': nothing to do'
        say "deploy: instance $port answers$nothing"
        [ -z "$changed" ] || say "deploy: its configuration was changed: instance.sh $port restart"
        return
    fi
    started=yes
    service_start "$port" || die "the service of instance $port does not start" "$(service_log "$port" 5)"
    wait_healthy "$port" "$start_seconds" || die "instance $port does not answer (see above)" \
        "mend that, and run it again as before"
    say "deploy: instance $port answers${made:+; it is new, in $data}"
}

nl='
'
arguments "$@"
check_arguments
check_host
check_tree
check_instance
[ -z "$protocol" ] || locked "$port"
compose_conf
check_limits
if [ "$dry" = yes ]; then
    plan
    exit 0
fi
begin
make_user
own_tree
make_folders
write_conf
write_host
start
done=yes
