# shellcheck shell=sh disable=SC2015,SC2034,SC2154,SC2317
# shellcheck source=conf-merge.sh
. "$utils/lib/conf-merge.sh"
# shellcheck source=trees.sh
. "$utils/lib/trees.sh"
# shellcheck source=switch.sh
. "$utils/lib/switch.sh"
verb_about='run another version, and go back if it does not serve'

verb_help() {
    printf '%s\n' "usage: instance.sh PORT upgrade [PACKAGE | FOLDER | VERSION] [OPTION...]" '' \
        'Let the instance run another version: snapshot, switch, restart, and wait until it answers. If it does not, the' \
        'version before serves again by itself, with the same data. The old version is kept: instance.sh PORT rollback.' '' \
        "  PACKAGE          a tarball, unpacked to $main-VERSION-RELEASE-MODEL; or an .rpm or .deb" \
        "  FOLDER           a tree that is unpacked already" \
        "  VERSION          one that lies beside; else what yum, dnf or apt has" \
        "  nothing          the tree of this command: $top" '' \
        '  --sha256 SUM     what a package must be; else SHA256SUMS beside it says so' \
        '  --port PORT      another instance, after this one; may be given again' \
        '  --all            all instances of this host, one after the other' \
        "  --within SECONDS how long the new version has to answer ($start_seconds)" \
        '  --settle SECONDS how long it must then go on to answer (5)' \
        '  --no-snapshot    take none; the only way for an instance that does not answer' \
        "  --keep           only keep $main under its version's name, for before yum, dnf or apt replace it" \
        '  --dry-run        check all, and say what would be done' '' \
        'Several instances: the first that fails ends it. Exit status: 0 done; 1 failed, the old version serves; 2 wrong use.'
}

options_of_upgrade() {
    what='' sha256='' ports=$port within=$start_seconds settle=5 snapshot=yes dry=no keep=no
    while [ $# -gt 0 ]; do
        case $1 in
        --dry-run) dry=yes ;;
        --no-snapshot) snapshot=no ;;
        --keep) keep=yes ;;
        --all)
            for each in $(instances); do
                ports_add "$each"
            done
            ;;
        --port | --sha256 | --within | --settle)
            [ $# -gt 1 ] || misused "$1 needs a value"
            case $1 in
            --port) ports_add "$2" ;;
            --sha256)
                sha256=$2
                case $sha256 in
                *[!0-9a-f]*) misused "--sha256 takes 64 hexadecimal digits, not '$2'" ;;
                esac
                [ ${#sha256} -eq 64 ] || misused "--sha256 takes 64 hexadecimal digits, not '$2'"
                ;;
            --within) seconds_of "$1" "$2" && within=$2 ;;
            --settle) seconds_of "$1" "$2" && settle=$2 ;;
            esac
            shift
            ;;
        -*) misused "unknown argument '$1'" ;;
        '') misused "the version to upgrade to is empty" ;;
        *)
            [ -z "$what" ] || misused "one version at a time, not '$what' and '$1'"
            what=$1
            ;;
        esac
        shift
    done
    need_root "$port" upgrade
}

# Find what to upgrade to; bring it where that is needed. Sets $new, or $later: what a dry run does not bring.
find_new() {
    new='' later=''
    case $what in
    '') new=$top ;;
    */*) [ -e "$what" ] || die "there is no $what" "a package, a folder, or a version" ;;
    esac
    if [ -d "$what" ]; then
        new=$(tree_real "$what") || die "$what cannot be entered"
    elif [ -f "$what" ]; then
        case $what in
        /*) ;;
        *) what=$(pwd -P)/$what ;;
        esac
        case $what in
        *.rpm | *.deb)
            is_plain_path "$what" || misused "the path of a package must be plain, not '$what'"
            by_manager "$what"
            ;;
        *)
            tar_option "$what" >/dev/null || misused "$what is no package that is known here" "a tarball, .rpm or .deb"
            if [ "$dry" = yes ]; then later="unpack $what beside $top"; else tree_unpack "$what"; fi
            ;;
        esac
    elif [ -z "$new" ]; then
        case $what in
        [!A-Za-z0-9]* | *[!A-Za-z0-9.+~:_-]*) misused "'$what' is no version, and no package that is there" ;;
        esac
        new=$(tree_of_version "$what")
        [ -n "$new" ] || by_manager "$what"
    fi
    [ -n "$later" ] || tree_check "$new"
}

# Let the package manager bring the new tree, after the old one was kept.
by_manager() { # WHAT
    brought=$(manager_of "$main")
    [ -n "$brought" ] || die "no version $1 lies beside $top, and no package manager has brought $main" \
        "give the package: instance.sh $port upgrade /path/to/package.tar.gz"
    if [ "$dry" = yes ]; then
        later="keep $main, and let the package manager install $1"
        return
    fi
    [ ! -f "$1" ] || digest_check "$1" "$1"
    locked trees
    tree_keep
    manager_install "${brought% *}" "${brought#* }" "$1" ||
        die "the package manager does not install $1 (see above)" "all instances go on with $kept"
    new=$main
    [ -f "$main/utils/instance.sh" ] || die "the package has not brought $main" "all instances go on with $kept"
    # Each for itself: this script may be gone, and the new one knows the new tree.
    utils=$kept/utils
}

verb_main() {
    options_of_upgrade "$@"
    if [ "$keep" = yes ]; then
        [ -n "$(manager_of "$main")" ] || die "no package manager has brought $main" "there is nothing to keep"
        [ "$dry" = no ] || { say "would keep $main as $main-$(tree_name "$main")" && return 0; }
        locked trees
        tree_keep
        return 0
    fi
    find_new
    if [ -n "$later" ]; then
        say "would $later, and upgrade these instances: $ports"
        return 0
    fi
    if [ "$ports" = "$port" ]; then
        upgrade_one
        return
    fi
    set -- "$new" --within "$within" --settle "$settle"
    [ "$snapshot" = yes ] || set -- "$@" --no-snapshot
    [ "$dry" = no ] || set -- "$@" --dry-run
    each_port "$@"
}

upgrade_one() {
    switch_paths
    temporary
    if [ "$dry" = no ]; then
        locked "$port"
        switch_sweep
    fi
    # Again: another tree may be its own since this began.
    load_instance "$port"
    [ "${data##*/}" = "${product}_$port" ] || die "instance $port was set up by an older package, in $data" \
        "sh $new/utils/deploy.sh $port BASE"
    if [ -d "$next" ] && [ "$dry" = no ]; then
        say "an upgrade of instance $port was interrupted; its version before is put back first"
        [ "$(cat "$next/fresh" 2>/dev/null)" != "$new" ] || fresh=$new
        go_back || die "the version before does not serve (see above)" "instance.sh $port rollback"
        load_instance "$port"
    fi
    tree=$(tree_real "$tree") || die "the program of instance $port, $tree, is missing" "see $env"
    serves=no
    ! healthy "$port" || serves=yes
    was=$(tree_name "$tree")
    upgrade_settled
    [ "$settled" = no ] || return 0
    [ "$serves" = yes ] || [ "$snapshot" = no ] || die "instance $port does not answer, so no snapshot can be taken" \
        "instance.sh $port start; or --no-snapshot"
    [ -f "$utils/operate/snapshot.tsv" ] || snapshot=no
    # The CPU gate of the new tree, its glibc, room, limits: all that its deploy.sh checks.
    deploy_of "$new" --dry-run || die "the new program cannot run here (see above); nothing was changed"
    if [ "$dry" = yes ]; then
        shown
        say "would upgrade instance $port from $was to $(tree_name "$new"), in $new"
        return 0
    fi
    if [ "$snapshot" = yes ]; then
        "$utils/instance.sh" "$port" backup --no-count || die "no snapshot was taken; nothing was changed" \
            "mend that, or --no-snapshot"
    fi
    undo() {
        rm -f "$reserve" && rm -rf "$next.new"
        tree_forget "$1"
    }
    reserve_take
    switch_record "$new"
    undo() {
        go_back_at_end
        tree_forget "$1"
    }
    switch_to "$new"
    switch_start "$new" "$within" "$settle" || die "instance $port does not serve with $new (see above)"
    undo() { :; }
    rm -f "$reserve"
    [ ! -d "$before" ] || record_remove "$before"
    mv "$next" "$before"
    tree_link "$new"
    say "instance $port runs $(tree_name "$new") in $new; before: $was. To go back: instance.sh $port rollback"
}

# Find out whether the instance runs the new version already, and say so; the answer is in $settled.
upgrade_settled() {
    settled=yes
    if [ "$tree" = "$new" ] && { [ "$serves" = no ] || runs_tree "$new"; }; then
        [ "$serves" = yes ] || die "instance $port is set to $new already, and does not answer" "instance.sh $port start"
        say "instance $port runs $was in $new: nothing to do"
        [ "$dry" = yes ] || tree_link "$new"
        return 0
    fi
    # Kept for a package manager that had nothing newer: the same program under another name.
    if [ "$dry" = no ] && [ "$serves" = yes ] && runs_tree "$new" && cmp -s "$tree/manifest.json" "$new/manifest.json"; then
        tree_put "$port" "$new"
        say "instance $port runs $was in $new: nothing to do"
        return 0
    fi
    settled=no
}

# Serve again with the version before.
go_back() {
    back=$(cat "$next/tree")
    running=no
    # Where the new one was never started, the old one runs on.
    [ -f "$next/conf.after" ] || ! runs_tree "$back" || running=yes
    [ "$running" = yes ] || service_stop "$port" >&2 || warn "instance $port does not stop"
    switch_back "$next"
    [ "$running" = yes ] || switch_start "$back" "$start_seconds" 0 || return 1
    record_remove "$next"
}

go_back_at_end() {
    printf '%s: going back to the version before, %s\n' "$tool" "$was" >&2
    if go_back; then
        printf '%s: instance %s serves again with %s; its data is as it was\n' "$tool" "$port" "$was" >&2
    else
        printf '%s: error: instance %s does not serve with %s either\n' "$tool" "$port" "$was" >&2
        hint "instance.sh $port logs; when the cause is mended: instance.sh $port rollback; snapshots: instance.sh $port backup --list"
    fi
}
