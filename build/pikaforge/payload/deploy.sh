#!/bin/sh
# Set up one instance of @PRODUCT@ @VERSION@ on this host.
#
#   bash deploy.sh PORT BASE
#
# One instance per port: its conf, data and logs are in BASE/@PRODUCT@_PORT, owned by the service user; the program
# itself stays root's. Run again with the same arguments it changes nothing: a conf that is there is kept.
set -eu

die() {
    printf 'deploy: error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  hint: %s\n' "$2" >&2
    exit 1
}

[ $# -eq 2 ] || die "usage: deploy.sh PORT BASE" "for example: deploy.sh @PORT@ /data"
port=$1
base=$2
case $port in
'' | *[!0-9]* | 0*) die "PORT must be a number, not '$port'" ;;
esac
[ "$port" -le 65535 ] || die "PORT must be at most 65535, not $port"
case $base in
/*) ;;
*) die "BASE must be an absolute path, not '$base'" ;;
esac
[ "$(id -u)" -eq 0 ] || die "only root can set an instance up" "sudo bash deploy.sh $port $base"

utils=$(cd "$(dirname "$0")" && pwd -P)
top=$(dirname "$utils")
user=@PRODUCT@
data=$base/@PRODUCT@_$port
conf=$data/conf/$(basename "@CONF@")
tab=$(printf '\t')

if ! id "$user" >/dev/null 2>&1; then
    useradd --system --home-dir "$base" --no-create-home --shell /sbin/nologin "$user"
fi
mkdir -p "$data/conf" "$data/log" "$data/db" "$data/dump" "$data/dbsync"

# The conf that is shipped, with this instance's settings in place of those of the same name.
if [ ! -f "$conf" ]; then
    beside=$conf.new.$$
    trap 'rm -f "$beside"' EXIT
    cp "$top/@CONF@" "$beside"
    while IFS=$tab read -r key value; do
        value=$(printf '%s\n' "$value" | awk -v port="$port" -v data="$data" \
            '{ gsub(/[{]port[}]/, port); gsub(/[{]data[}]/, data); print }')
        awk -v key="$key" -v value="$value" -v separator="@SEPARATOR@" '
            { line = $0; sub(/^[ \t]+/, "", line); word = line; sub(/[ \t:].*/, "", word) }
            word == key && line !~ /^#/ { if (!done) print key separator value; done = 1; next }
            { print }
            END { if (!done) print key separator value }' "$beside" >"$beside.next"
        mv "$beside.next" "$beside"
    done <"$utils/settings.tsv"
    mv "$beside" "$conf"
    trap - EXIT
fi
chown -R "$user:" "$data"

if [ -d /run/systemd/system ]; then
    mkdir -p "/etc/@PRODUCT@"
    printf 'CONF=%s\n' "$conf" >"/etc/@PRODUCT@/$port.env"
    sed "s|@TOP@|$top|g" "$top/systemd/@PRODUCT@@.service" >"/etc/systemd/system/@PRODUCT@@.service"
    systemctl daemon-reload
    systemctl enable --now "@PRODUCT@@$port.service"
    printf 'deploy: @PRODUCT@@%s.service is enabled and started\n' "$port"
else
    printf 'deploy: no systemd here; the instance is ready to be started with conf %s\n' "$conf"
fi
