#!/bin/sh
# Set up one instance of @PRODUCT@ @VERSION@ on this host.
#
#   bash deploy.sh PORT BASE
#
# One instance per port: its conf, data and logs are in BASE/@PRODUCT@_PORT, owned by the service user; the program
# itself is root's. Run again with the same arguments it changes nothing: a conf that is there is kept.
# A host whose CPUs cannot run the program is refused before anything is changed (utils/cpu-gate.sh).
set -eu
umask 022

die() {
    printf 'deploy: error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  hint: %s\n' "$2" >&2
    exit 1
}

[ $# -eq 2 ] || die "usage: deploy.sh PORT BASE" "for example: deploy.sh @PORT@ /data"
port=$1
base=${2%/}
case $port in
'' | *[!0-9]* | 0* | ??????*) die "PORT must be a number, not '$port'" ;;
esac
highest=@HIGHEST@ # each instance uses further ports above its own
[ "$port" -le "$highest" ] || die "PORT must be at most $highest, not $port"
# The path goes into a unit, an environment file and the conf: what any of them takes for syntax is refused.
case $base in
/*) ;;
*) die "BASE must be an absolute path other than /, not '$2'" ;;
esac
case $base/ in
*[!A-Za-z0-9/._@+-]* | */./* | */../* | *//*) die "BASE must be a plain path, not '$2'" "letters, digits, / . _ @ + -" ;;
esac

utils=$(cd "$(dirname "$0")" && pwd -P)
top=$(dirname "$utils")
case $top in
*[!A-Za-z0-9/._@+-]*) die "the folder of the program must have a plain name, not '$top'" "letters, digits, / . _ @ + -" ;;
esac
case $base/ in
"$top"/*) die "BASE must be outside of the program's folder $top, not '$2'" ;;
esac
[ "$(id -u)" -eq 0 ] || die "only root can set an instance up" "sudo sh $0 $port $base"

sh "$utils/cpu-gate.sh" --quiet || die "this host's CPUs do not run the program (see above); nothing was changed"

user=@PRODUCT@
data=$base/@PRODUCT@_$port
conf=$data/conf/$(basename "@CONF@")
tab=$(printf '\t')

# The service user owns these folders and could point them elsewhere.
for folder in "$data" "$data/conf" "$conf"; do
    [ ! -L "$folder" ] || die "$folder is a symbolic link" "move it away; the data folder itself must be here"
done

if ! id "$user" >/dev/null 2>&1; then
    shell=/sbin/nologin
    [ -x "$shell" ] || shell=/usr/sbin/nologin
    useradd --system --user-group --home-dir "$base" --no-create-home --shell "$shell" "$user"
fi
chown -R 0:0 "$top"
chmod -R go-w "$top"

mkdir -p "$data"
[ "$(stat -c %u "$data")" -eq "$(id -u "$user")" ] && known=yes || known=no
mkdir -p "$data/conf" "$data/log" "$data/db" "$data/dump" "$data/dbsync"

# The conf that is shipped, with this instance's settings in place of those of the same name.
if [ ! -f "$conf" ]; then
    beside=$conf.new.$$
    trap 'rm -f "$beside" "$beside.next"' EXIT
    cp "$top/@CONF@" "$beside"
    while IFS=$tab read -r key value; do
        # By the environment, because awk takes backslashes in -v for escapes.
        KEY=$key VALUE=$value PORT=$port DATA=$data awk -v separator="@SEPARATOR@" '
            BEGIN {
                key = ENVIRON["KEY"]; value = ENVIRON["VALUE"]
                gsub(/[{]port[}]/, ENVIRON["PORT"], value); gsub(/[{]data[}]/, ENVIRON["DATA"], value)
            }
            { line = $0; sub(/^[ \t]+/, "", line); word = line; sub(/[ \t:=].*/, "", word) }
            word == key && line !~ /^#/ { if (!done) print key separator value; done = 1; next }
            { print }
            END { if (!done) print key separator value }' "$beside" >"$beside.next"
        mv "$beside.next" "$beside"
    done <"$utils/settings.tsv"
    mv "$beside" "$conf"
    trap - EXIT
fi
# All of it where the folder is new or came from elsewhere. Else only the folders: a running server removes files.
if [ "$known" = no ]; then
    chown -R "$user:" "$data"
else
    chown -h "$user:" "$data" "$data/conf" "$data/log" "$data/db" "$data/dump" "$data/dbsync" "$conf"
fi

if [ -d /run/systemd/system ]; then
    env=/etc/@PRODUCT@/$port.env
    mkdir -p "/etc/@PRODUCT@"
    [ -f "$env" ] || : >"$env"
    {
        printf 'CONF=%s\n' "$conf"
        grep -v '^CONF=' "$env" || : # lines of the operator
    } >"$env.new"
    # The variable's old name works as well (cpu-gate.sh).
    skip=${PIKAFORGE_SKIP_CPU_GATE:-${FORGE_SKIP_CPU_GATE:-}}
    if [ "$skip" = 1 ] && ! grep -qx -e 'PIKAFORGE_SKIP_CPU_GATE=1' -e 'FORGE_SKIP_CPU_GATE=1' "$env.new"; then
        # Else the unit would refuse what was overridden here.
        echo 'PIKAFORGE_SKIP_CPU_GATE=1' >>"$env.new"
        printf 'deploy: warning: the service overrides the CPU gate too, by %s\n' "$env" >&2
    fi
    mv "$env.new" "$env"
    unit=/etc/systemd/system/@PRODUCT@@.service
    # Where a package has brought the unit of this tree, one in /etc would hide it, and its later versions, too.
    if ! grep -Fqs "ExecStart=$top/" "/usr/lib/systemd/system/@PRODUCT@@.service" \
        "/lib/systemd/system/@PRODUCT@@.service"; then
        sed "s|@TOP@|$top|g" "$top/systemd/@PRODUCT@@.service" >"$unit.new"
        mv "$unit.new" "$unit"
    fi
    systemctl daemon-reload
    systemctl enable --now "@PRODUCT@@$port.service"
    printf 'deploy: @PRODUCT@@%s.service is enabled and started\n' "$port"
else
    printf 'deploy: no systemd here; the instance is ready to be started with conf %s\n' "$conf"
fi
