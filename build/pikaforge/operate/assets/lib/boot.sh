# shellcheck shell=sh disable=SC2034,SC2154
# Let instances start at the boot of a host without systemd, by an init script for all of them. Sourced after common.sh.
#
# sysvinit, insserv, chkconfig and OpenRC know scripts with the header of LSB; each has a tool that switches them on.

boot=$init/$product
boot_mark='# Written by deploy.sh.'

# Print the tool; nothing if there is none. That of Debian knows OpenRC, too.
boot_tool() (
    for each in update-rc.d rc-update chkconfig; do
        if [ -d "$init" ] && command -v "$each" >/dev/null 2>&1; then
            printf '%s\n' "$each"
            exit 0
        fi
    done
)

# Whether the init script of that name is of something else.
boot_foreign() { [ -e "$boot" ] && ! grep -Fqx -e "$boot_mark" "$boot"; }

boot_on() {
    case $(boot_tool) in
    update-rc.d) update-rc.d "$product" defaults >/dev/null ;;
    rc-update) rc-update -q add "$product" default ;;
    chkconfig) chkconfig --add "$product" ;;
    esac
}

# Switch the script off, and remove it.
boot_off() {
    if [ ! -f "$boot" ] || boot_foreign; then return 0; fi
    case $(boot_tool) in
    rc-update) rc-update -q del "$product" default || : ;;
    chkconfig) chkconfig --del "$product" || : ;;
    esac
    rm -f "$boot"
    # That of Debian wants the script to be gone.
    [ "$(boot_tool)" != update-rc.d ] || update-rc.d "$product" remove >/dev/null || :
}
