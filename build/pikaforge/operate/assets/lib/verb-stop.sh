# shellcheck shell=sh disable=SC2034,SC2154
# shellcheck source=/dev/null
. "$utils/lib/verb-start.sh"
verb_about='stop it, and wait for its end'

verb_help() {
    printf '%s\n' "usage: instance.sh PORT stop [--dry-run]" '' \
        "Stop the instance: SIG$stop_signal, and after $stop_seconds seconds SIGKILL. It starts again at the next boot." '' \
        '  --dry-run  say what would be done'
}

verb_main() {
    simple_options "$@"
    if ! service_active "$port"; then
        say "instance $port does not run: nothing to do"
        return 0
    fi
    if [ "$dry" = yes ]; then
        say "would stop instance $port"
        return 0
    fi
    locked "$port"
    service_stop "$port" || die "instance $port cannot be stopped" "instance.sh $port logs"
    say "instance $port is stopped"
}
