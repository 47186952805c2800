# shellcheck shell=sh disable=SC2034,SC2154
# shellcheck source=/dev/null
. "$utils/lib/verb-start.sh"
verb_about='stop and start it, and wait until it answers'

verb_help() {
    printf '%s\n' "usage: instance.sh PORT restart [--no-wait] [--dry-run]" '' \
        'Stop the instance and start it again, as stop and start do.' '' \
        '  --no-wait  do not wait until it answers' '  --dry-run  say what would be done'
}

verb_main() {
    simple_options "$@"
    if [ "$dry" = yes ]; then
        say "would restart instance $port"
        return 0
    fi
    locked "$port"
    service_restart "$port" || die "instance $port cannot be restarted" "instance.sh $port logs"
    answering restarted
}
