# shellcheck shell=sh disable=SC2015,SC2034,SC2154
# shellcheck source=conf-merge.sh
. "$utils/lib/conf-merge.sh"
# shellcheck source=trees.sh
. "$utils/lib/trees.sh"
# shellcheck source=switch.sh
. "$utils/lib/switch.sh"
verb_about='run the version before the last upgrade again'

verb_help() {
    printf '%s\n' "usage: instance.sh PORT rollback [OPTION...]" '' \
        'Let the instance run the version that it ran before its last upgrade, with the data that it has now. Settings that' \
        'the upgrade has added go; others stay. If that version cannot read its data any more: stop, and restore of the' \
        'snapshot that the upgrade has taken (instance.sh PORT backup --list).' '' \
        '  --port PORT      another instance, after this one; may be given again' \
        '  --all            all instances of this host, one after the other' \
        "  --within SECONDS how long it has to answer ($start_seconds)" \
        '  --dry-run        say what would be done'
}

options_of_rollback() {
    ports=$port within=$start_seconds dry=no
    while [ $# -gt 0 ]; do
        case $1 in
        --dry-run) dry=yes ;;
        --all)
            for each in $(instances); do
                ports_add "$each"
            done
            ;;
        --port | --within)
            [ $# -gt 1 ] || misused "$1 needs a value"
            case $1 in
            --port) ports_add "$2" ;;
            --within) seconds_of "$1" "$2" && within=$2 ;;
            esac
            shift
            ;;
        *) misused "unknown argument '$1'" ;;
        esac
        shift
    done
    need_root "$port" rollback
}

verb_main() {
    options_of_rollback "$@"
    if [ "$ports" = "$port" ]; then
        rollback_one
        return
    fi
    set -- --within "$within"
    [ "$dry" = no ] || set -- "$@" --dry-run
    each_port "$@"
}

rollback_one() {
    switch_paths
    temporary
    if [ "$dry" = no ]; then
        locked "$port"
        switch_sweep
    fi
    record=$next
    [ -d "$record" ] || record=$before
    if [ ! -d "$record" ]; then
        # An upgrade that was killed before it had begun has left no more.
        [ "$dry" = yes ] || rm -f "$reserve"
        say "instance $port was not upgraded: nothing to do"
        return 0
    fi
    back=$(tree_real "$(cat "$record/tree")") || die "the version before is gone: $(cat "$record/tree")" \
        "unpack its package there, or: instance.sh $port upgrade PACKAGE"
    tree_check "$back"
    if [ "$dry" = yes ]; then
        say "would go back from $(tree_name "$tree") to $(tree_name "$back"), in $back"
        return 0
    fi
    service_stop "$port" || die "instance $port does not stop" "instance.sh $port logs"
    fresh=''
    [ "$record" != "$next" ] || fresh=$(cat "$next/fresh" 2>/dev/null) || fresh=''
    switch_back "$record"
    switch_start "$back" "$within" 0 || die "instance $port does not serve with $(tree_name "$back") (see above)" \
        "instance.sh $port logs; rollback tries again; snapshots: instance.sh $port backup --list"
    tree_link "$back"
    record_remove "$record"
    # The upgrade was killed, and so has not removed it. While the record is there, the tree counts as in use.
    tree_forget 1
    say "instance $port runs $(tree_name "$back") in $back again"
}
