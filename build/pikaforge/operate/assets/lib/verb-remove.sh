# shellcheck shell=sh disable=SC2015,SC2034,SC2154
verb_about='stop it and forget it; its data stays, unless --purge'
verb_without_instance=yes

verb_help() {
    printf '%s\n' "usage: instance.sh PORT remove [--purge PORT] [--dry-run]" '' \
        'Stop the instance, and remove what ties it to this host: its service and its file in /etc. Its folder with' \
        'configuration, data and backups stays: deploy.sh with the same PORT and BASE takes it again.' '' \
        '  --purge PORT  remove the folder, too: for good. The port is typed again, so that it is the right one.' \
        '  --dry-run     say what would be done'
}

options_of_remove() {
    purge='' dry=no
    while [ $# -gt 0 ]; do
        case $1 in
        --dry-run) dry=yes ;;
        --purge)
            purge=${2-}
            [ "$purge" = "$port" ] ||
                misused "--purge removes all data of instance $port: type the port again" "instance.sh $port remove --purge $port"
            shift
            ;;
        *) misused "unknown argument '$1'" ;;
        esac
        shift
    done
}

verb_main() {
    options_of_remove "$@"
    if [ ! -f "$etc/$port.env" ]; then
        say "there is no instance $port: nothing to do"
        return 0
    fi
    load_instance "$port"
    if [ -n "$purge" ]; then
        # The name says whose folder it is: nothing else is ever removed.
        [ "${data##*/}" = "${product}_$port" ] && [ ! -L "$data" ] ||
            die "$data has not the name ${product}_$port, or is a link: it is not removed" "remove without --purge, then rm"
    fi
    if [ "$dry" = yes ]; then
        say "would stop instance $port and remove its service"
        [ -z "$purge" ] || say "would remove $data with all data"
        return 0
    fi
    need_root "$port" remove
    locked "$port"
    [ -n "$purge" ] || [ ! -f "$etc/$port.restore/had" ] ||
        die "a restore of instance $port was interrupted, and not all its data is in place" \
            "instance.sh $port restore $(cat "$etc/$port.restore/from"); or --purge"
    service_stop "$port" || die "instance $port cannot be stopped; nothing was removed" "instance.sh $port logs"
    dropin=$units/$(unit_of "$port").d
    if by_systemd; then
        systemctl --quiet disable "$(unit_of "$port")" || :
    fi
    rm -f "$dropin/10-instance.conf" "$etc/$port.shipped" "$etc/$port.clients" "$env" "$tmpfiles/$product-$port.conf"
    rm -rf "$etc/$port.before" "$etc/$port.next" "$etc/$port.next.new" "$etc/$port.restore" "$etc/$port.restore.new"
    rmdir "$dropin" 2>/dev/null || :
    # The unit of a tarball or wheel goes with the last instance.
    if [ -z "$(instances)" ]; then
        rm -f "$units/$product@.service"
        # shellcheck source=boot.sh
        . "$utils/lib/boot.sh"
        boot_off
    fi
    if by_systemd; then
        systemctl daemon-reload
        systemctl reset-failed "$(unit_of "$port")" 2>/dev/null || :
    fi
    if [ -n "$purge" ]; then
        rm -rf "$data"
        say "instance $port is removed with its data"
    else
        say "instance $port is removed; its data is kept in $data"
    fi
}
