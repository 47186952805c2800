#!/bin/sh
# Write the metrics of this host's instances for the textfile collector of Prometheus' node-exporter.
#
#   metrics.sh [--folder DIR] [--host NAME]    write DIR/PRODUCT.prom once
#   metrics.sh --stdout [--host NAME]          print the metrics instead
#   metrics.sh --enable [--folder DIR]         do it twice a minute from now on: by a systemd timer, or by cron
#   metrics.sh --disable                       end that, and remove the file
#   metrics.sh --dry-run --enable | --disable  say what would be done
#
# DIR is one of /var/lib/prometheus/node-exporter and /var/lib/node_exporter/textfile_collector, if it is there. NAME is
# how this host is called in the label `addr`. Metrics are named in utils/operate/metrics.tsv.
set -eu
utils=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
# shellcheck source=lib/common.sh
. "$utils/lib/common.sh"
# shellcheck source=lib/service.sh
. "$utils/lib/service.sh"
# shellcheck disable=SC2034 # read by ask: one server that hangs must not hold up the others for long
ask_seconds=5
# shellcheck source=lib/resp.sh
. "$utils/lib/resp.sh"
# shellcheck source=lib/memory.sh
. "$utils/lib/memory.sh"
# shellcheck source=lib/info.sh
. "$utils/lib/info.sh"
table=$utils/operate/metrics.tsv
remembered=$etc/metrics.folder
most=1048576 # bytes of a reply
# Where things are on a host. Tests put other folders here.
collectors="/var/lib/prometheus/node-exporter /var/lib/node_exporter/textfile_collector"
cron=/etc/cron.d

usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" | sed "s/PRODUCT/$product/g"
}

# Print the value of a line of the table that is about no metric.
setting() {
    sed -n "s/^$1$tab//p" "$table" | head -n 1
}

# Make lines of printable ASCII of anything, with backslashes and quotes as the value of a label has them.
cleaned() {
    # All of a reply is taken, or else what sends it would seem to fail.
    { head -c "$most" && cat >/dev/null; } | tr -c '\11\12\15\40-\176' '?' | tr -d '\15' | tr '\11' ' ' | cut -b 1-2048 |
        sed -e 's/\\/\\\\/g' -e 's/"/\\"/g'
}

# Print seconds since the host started, in hundredths.
uptime_now() {
    read -r seconds _ <"$proc/uptime"
    printf '%s\n' "$seconds"
}

# Print a sample of this script's own: metric, value, further labels.
own() {
    case $2 in
    '' | *[!0-9.]*) return 0 ;;
    esac
    printf '%s_%s\t%s%s\t%s\n' "$prefix" "$1" "$labels" "${3:-}" "$2"
}

process_metrics() {
    process=$(service_pid "$port" 2>/dev/null) || return 0
    case $process in
    '' | 0 | *[!0-9]*) return 0 ;;
    esac
    [ -d "$proc/$process" ] || return 0
    resident=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB$/\1/p' "$proc/$process/status" 2>/dev/null) || resident=
    [ -z "$resident" ] || own process_resident_memory_bytes $((resident * 1024))
    own process_open_fds "$(find "$proc/$process/fd" -mindepth 1 2>/dev/null | wc -l | tr -d ' ')"
    own process_max_fds "$(sed -n 's/^Max open files *\([0-9]*\) .*/\1/p' "$proc/$process/limits" 2>/dev/null)"
}

# Size and room of the file system with the data. `df` may wait for ever for a server of files that is gone.
disk_metrics() {
    timeout 5 df -Pk -- "$data" 2>/dev/null | sed -n '$p' >"$scratch/$port.df" || return 0
    while read -r _ size _ room _; do
        case $size$room in
        '' | *[!0-9]*) continue ;;
        esac
        own filesystem_size_bytes $((size * 1024))
        own filesystem_avail_bytes $((room * 1024))
    done <"$scratch/$port.df"
}

# Print all samples of one instance.
instance_metrics() {
    load_instance "$1"
    labels="addr=\"$host:$port\",alias=\"${product}_$port\""
    asked=$(uptime_now)
    reason=
    # shellcheck disable=SC2086 # words of the table
    { ask "$port" $command 2>/dev/null || printf '%s\n' $? >"$scratch/$port.status"; } | cleaned >"$scratch/$port.info"
    if [ -s "$scratch/$port.status" ]; then
        read -r status <"$scratch/$port.status"
        case $status in
        1) reason=refused ;;
        3) reason=timeout ;;
        *) reason=connection ;;
        esac
    elif ! [ -s "$scratch/$port.info" ]; then
        reason=empty
    fi
    if [ -n "$reason" ]; then
        own up 0
        own scrape_failed 1 ",reason=\"$reason\""
    else
        own up 1
        awk -f "$utils/lib/info.awk" -v prefix="$prefix" -v labels="$(escaped "$labels")" "$table" stage=info "$scratch/$port.info"
    fi
    own scrape_duration_seconds "$(awk -v a="$asked" -v b="$(uptime_now)" 'BEGIN { printf "%.2f", b - a }')"
    package=
    for name in version release model target image; do
        package="$package,$name=\"$(fact_of "$tree" "$name")\""
    done
    own package_info 1 "$package,tree=\"$tree\""
    passed=1
    sh "$tree/utils/cpu-gate.sh" --quiet >/dev/null 2>&1 || passed=0
    own cpu_gate_passed "$passed"
    process_metrics
    disk_metrics
    own memory_budget_bytes "$(memory_budget "$conf" 2>/dev/null)"
    snapshot=$(last_snapshot 2>/dev/null) || snapshot=
    own last_snapshot_timestamp_seconds "${snapshot%% *}"
}

# awk takes backslashes in the value of -v for escapes.
escaped() {
    printf '%s\n' "$1" | sed 's/\\/\\\\/g'
}

# Print the metrics of all instances. They are asked at the same time: each may need the whole time-out.
all_metrics() {
    prefix=$(setting prefix)
    command=$(setting command | tr '\11' ' ')
    found=$(instances)
    for each in $found; do
        (instance_metrics "$each" >"$scratch/$each.samples") </dev/null 2>"$scratch/$each.errors" &
    done
    wait
    count=0
    for each in $found; do
        count=$((count + 1))
        [ -s "$scratch/$each.samples" ] || warn "instance $each: $(head -n 3 "$scratch/$each.errors")"
    done
    labels=
    own instances "$count" >"$scratch/all"
    cat "$scratch"/*.samples >>"$scratch/all" 2>/dev/null || :
    sort -s -t "$tab" -k 1,1 "$scratch/all" |
        awk -f "$utils/lib/exposition.awk" -v prefix="$prefix" "$table" stage=samples -
}

# Print the folder of node-exporter, with links followed.
collector() {
    if [ -z "$folder" ] && [ -f "$remembered" ]; then
        read -r folder <"$remembered" || :
        is_plain_path "$folder" || die "there is no plain path in $remembered" "metrics.sh --enable --folder DIR"
    fi
    for place in ${folder:-$collectors}; do
        if [ -d "$place" ]; then
            (cd -- "$place" && pwd -P)
            return
        fi
        [ -z "$folder" ] || die "$place is no folder" "name that of node-exporter's --collector.textfile.directory"
    done
    die "there is no folder for node-exporter here" "install it (apt-get install prometheus-node-exporter), or: --folder DIR"
}

# Write the file beside and rename it: node-exporter never reads half of it, nor names that do not end in .prom. The
# folder may be another user's, so a file that is there already is not written through (noclobber opens with O_EXCL).
publish() {
    beside=$1/.$product.prom.$$
    [ ! -d "$1/$product.prom" ] || die "$1/$product.prom is a folder" "move it away"
    if ! (set -C && cat "$scratch/text" >"$beside") 2>/dev/null; then
        rm -f -- "$beside"
        die "cannot write into $1" "is the disk full, or the folder read-only?"
    fi
    mv -f -- "$beside" "$1/$product.prom"
}

# Return whether systemd finds a unit that a package has brought.
packaged() {
    for place in $packaged_units; do
        [ ! -f "$place/$product-metrics.timer" ] || return 0
    done
    return 1
}

# Write a file, unless it is there with the same text; return 1 if it was.
installed() {
    if [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; then
        return 1
    fi
    [ "$dry" = no ] || return 0
    mkdir -p "${1%/*}"
    printf '%s\n' "$2" >"$1.new.$$"
    mv -f -- "$1.new.$$" "$1"
}

enable() {
    where=$(collector)
    changed=no
    if [ -n "$folder" ] && installed "$remembered" "$where"; then
        changed=yes
    fi
    if by_systemd; then
        packaged || for unit in service timer; do
            text=$(sed "s|@TOP@|$top|g" "$top/systemd/$product-metrics.$unit")
            ! installed "$units/$product-metrics.$unit" "$text" || changed=yes
        done
        if [ "$changed" = no ] && systemctl is-enabled --quiet "$product-metrics.timer" &&
            systemctl is-active --quiet "$product-metrics.timer"; then
            say "nothing to do: $product-metrics.timer is enabled"
            return
        fi
        if [ "$dry" = yes ]; then
            say "would enable $product-metrics.timer, which writes $where/$product.prom"
            return
        fi
        systemctl daemon-reload
        systemctl enable --now "$product-metrics.timer"
        say "$product-metrics.timer is enabled; it writes $where/$product.prom"
    else
        [ -d $cron ] || die "there is neither systemd nor $cron here" "call this once a minute: sh $utils/metrics.sh"
        if installed "$cron/$product-metrics" "* * * * * root sh $utils/metrics.sh >/dev/null 2>&1"; then
            [ "$dry" = no ] || would="would write "
            say "${would:-}$cron/$product-metrics, which writes $where/$product.prom each minute"
        elif [ "$changed" = no ]; then
            say "nothing to do: $cron/$product-metrics is there"
        fi
    fi
}

disable() {
    where=$(collector 2>/dev/null) || where=
    did=
    if by_systemd && systemctl is-enabled --quiet "$product-metrics.timer" 2>/dev/null; then
        [ "$dry" = yes ] || systemctl disable --now "$product-metrics.timer"
        did=yes
    fi
    for file in "$cron/$product-metrics" "$remembered" ${where:+"$where/$product.prom"} \
        "$units/$product-metrics.timer" "$units/$product-metrics.service"; do
        [ -f "$file" ] || continue
        [ "$dry" = yes ] || rm -f -- "$file"
        did=yes
    done
    [ "$dry" = yes ] || ! by_systemd || systemctl daemon-reload
    if [ -n "$did" ] && [ "$dry" = yes ]; then
        say "would write no metrics any more"
    elif [ -n "$did" ]; then
        say "no metrics are written any more"
    else
        say "nothing to do: no metrics are written"
    fi
}

action="write"
folder=
dry=no
host=$(uname -n)
while [ $# -gt 0 ]; do
    case $1 in
    --folder | --host)
        [ $# -ge 2 ] || misused "$1 needs a value"
        [ "$1" = --folder ] && folder=$2 || host=$2
        shift
        ;;
    --stdout | --enable | --disable) action=${1#--} ;;
    --dry-run) dry=yes ;;
    -h | --help) usage && exit 0 ;;
    *) misused "unknown argument '$1'" ;;
    esac
    shift
done
[ -z "$folder" ] || is_plain_path "$folder" ||
    misused "--folder must be a plain absolute path, not '$folder'" "letters, digits, / . _ @ + -"
case $host in
'' | *[!A-Za-z0-9.:_-]*) misused "--host must be a plain name" "letters, digits, . : _ -" ;;
esac
[ -f "$table" ] || die "$table is missing" "unpack the package again"
[ "$action" = stdout ] || [ "$dry" = yes ] || need_root "$0"
case $action in
enable | disable)
    "$action"
    exit 0
    ;;
esac
temporary
[ "$action" = stdout ] || where=$(collector)
all_metrics >"$scratch/text"
if [ "$action" = stdout ]; then
    cat "$scratch/text"
else
    publish "$where"
fi
