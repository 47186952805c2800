# shellcheck shell=sh disable=SC2034,SC2154
verb_about='start it, and wait until it answers'

verb_help() {
    printf '%s\n' "usage: instance.sh PORT start [--no-wait] [--dry-run]" '' \
        "Start the instance, and wait until it answers: $start_seconds seconds at most, as long as its process lives." ''  \
        '  --no-wait  do not wait' '  --dry-run  say what would be done'
}

# Options of start, stop and restart.
simple_options() {
    dry=no wait=yes
    for word; do
        case $word in
        --dry-run) dry=yes ;;
        --no-wait) wait=no ;;
        *) misused "unknown argument '$word'" ;;
        esac
    done
    [ "$dry" = yes ] || need_root "$port" "$verb"
}

answering() {
    [ "$wait" = yes ] || return 0
    wait_healthy "$port" "$start_seconds" || die "instance $port was $1 and does not answer" "instance.sh $port logs"
    say "instance $port answers"
}

verb_main() {
    simple_options "$@"
    if service_active "$port" && healthy "$port"; then
        say "instance $port runs and answers: nothing to do"
        return 0
    fi
    if [ "$dry" = yes ]; then
        say "would start instance $port"
        return 0
    fi
    locked "$port"
    service_start "$port" || die "instance $port cannot be started" "instance.sh $port logs"
    answering started
}
