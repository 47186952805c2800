# Print samples as Prometheus' text format has them: those of a metric together, with its help and type, each once.
#
#   awk -f exposition.awk -v prefix=NAME TABLE stage=own OWN stage=samples SAMPLES
#
# TABLE is utils/operate/metrics.tsv; OWN has metric, type and help of those that metrics.sh makes itself. SAMPLES are
# sorted by metric. Sources: prometheus.io/docs/instrumenting/exposition_formats.

BEGIN { FS = "\t" }

stage == "" && NF >= 8 { type[prefix "_" $3] = $4; help[prefix "_" $3] = $8; next }
stage == "own" && NF == 3 { type[prefix "_" $1] = $2; help[prefix "_" $1] = $3; next }
stage != "samples" || NF != 3 || !($1 in type) { next }

$1 != last {
    last = $1
    printf "# HELP %s %s\n# TYPE %s %s\n", $1, help[$1], $1, type[$1]
}

# The same labels twice would make the whole file invalid.
!(($1, $2) in seen) {
    seen[$1, $2] = 1
    printf "%s%s %s\n", $1, ($2 == "" ? "" : "{" $2 "}"), $3
}
