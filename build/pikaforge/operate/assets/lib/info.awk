# Read the reply of INFO; print its samples: metric, labels and value, separated by tabs.
#
#   awk -f info.awk -v prefix=NAME -v labels='addr="…",alias="…"' TABLE stage=info REPLY
#
# TABLE is utils/operate/metrics.tsv (config/operate_metrics.py): kind, place, metric, type, value, labels, scale, help.
# REPLY has one line of printable ASCII each, with backslashes and quotes escaped as a label's value has them
# (metrics.sh, `cleaned`); so whatever part of it gets into a label is valid there.
# What the table does not have is kept: PREFIX_field_value has numbers, PREFIX_field_info has texts.

BEGIN {
    FS = "\t"
    MOST = 1000 # samples of one kind: a server that answers nonsense must not fill the disk of Prometheus
    unknown = 0
}

function trimmed(text) {
    sub(/^ +/, "", text)
    sub(/ +$/, "", text)
    return text
}

# Print a sample of a metric, unless its value is no number.
function sample(metric, more, value) {
    if (value == "" || ++printed[metric] > MOST) return
    printf "%s_%s\t%s%s\t%s\n", prefix, metric, labels, more, value
}

# Return a number as Prometheus reads it: states are 0 and 1; "" for all that is neither.
# Long numbers and large exponents are refused: a value beyond a double's range makes the whole file invalid.
function number(text, scale, word) {
    word = tolower(text)
    if (word ~ /^(yes|up|online|true|ok)$/) return 1
    if (word ~ /^(no|down|offline|false|null|err|fail)$/) return 0
    if (length(word) > 40 || word !~ /^[-+]?[0-9]+([.][0-9]+)?(e[-+]?[0-9][0-9]?)?$/) return ""
    sub(/^[+]/, "", text)
    return scale == 1 ? text : sprintf("%.9g", text * scale)
}

# Return the text that a source names: a field, or FIELD[N], its Nth word; words end at commas, or else at blanks.
function text_of(source, values, at, words, count) {
    at = index(source, "[")
    if (!at) return values[source]
    count = substr(source, at + 1) + 0
    source = substr(source, 1, at - 1)
    split(values[source], words, index(values[source], ",") ? "," : " ")
    return trimmed(words[count])
}

function base_of(source) {
    sub(/\[.*/, "", source)
    return source
}

# Return the labels of a rule: NAME=SOURCE, separated by commas.
function labels_of(list, values, pairs, count, i, at, out) {
    count = list == "" ? 0 : split(list, pairs, ",")
    out = ""
    for (i = 1; i <= count; i++) {
        at = index(pairs[i], "=")
        out = out "," substr(pairs[i], 1, at - 1) "=\"" text_of(substr(pairs[i], at + 1), values) "\""
    }
    return out
}

function mark(list, pairs, count, i) {
    count = list == "" ? 0 : split(list, pairs, ",")
    for (i = 1; i <= count; i++) used[base_of(substr(pairs[i], index(pairs[i], "=") + 1))] = 1
}

stage != "info" {
    if ($1 == "prefix" || $1 == "command") next
    if ($1 == "drop") { drops[++dropped] = $2; next }
    rules++
    kind[rules] = $1; place[rules] = $2; metric_of[rules] = $3; source_of[rules] = $5
    list_of[rules] = $6; scale_of[rules] = $7
    if ($1 == "section") section_rule[$2] = rules
    next
}

{ line = trimmed($0) }
line == "" { next }
line ~ /^#/ {
    sub(/^#+ */, "", line)
    at = index(line, ":")
    if (at) { field(trimmed(substr(line, 1, at - 1)), trimmed(substr(line, at + 1))); next }
    sub(/ *[(].*/, "", line)
    section = line
    next
}
{
    at = index(line, ":")
    equals = index(line, "=")
    blank = index(line, " ")
    # `db0 Strings_keys=1, expires=0` has its name before a blank; `slave0:ip=…,port=…` before a colon.
    if (blank && equals > blank && (!at || at > equals)) record(substr(line, 1, blank - 1), trimmed(substr(line, blank + 1)))
    else if (!at) field("", line)
    else if (substr(line, at + 1) ~ /^ *[A-Za-z_][A-Za-z0-9_.]*=/) record(substr(line, 1, at - 1), trimmed(substr(line, at + 1)))
    else field(substr(line, 1, at - 1), trimmed(substr(line, at + 1)))
}

function field(name, value, rule, n) {
    if (section in section_rule) {
        rule = section_rule[section]
        n = number(value, scale_of[rule])
        if (n != "") { sample(metric_of[rule], "," list_of[rule] "=\"" name "\"", n); return }
    }
    if (!(name in values)) {
        if (unknown >= MOST) return
        order[++unknown] = name
    }
    values[name] = value
    section_of[name] = section
}

# A line with a name and KEY=VALUE pairs.
function record(head, text, count, pairs, i, at, rule, found, key, here, several) {
    count = split(text, pairs, ",")
    for (i = 1; i <= count; i++) {
        at = index(pairs[i], "=")
        key = trimmed(substr(pairs[i], 1, at - 1))
        if (!at || key in here) continue
        here[key] = trimmed(substr(pairs[i], at + 1))
        several[i] = key
    }
    here["@head"] = head
    found = 0
    for (rule = 1; rule <= rules; rule++)
        if (kind[rule] == "line" && head ~ ("^(" place[rule] ")$")) found += pair(rule, here, several, count)
    if (!found) field(head, text)
}

# Print the sample of one rule for a line; return whether there is one.
function pair(rule, here, several, count, source, i, end, text, n) {
    source = source_of[rule]
    if (source ~ /^[*]/) { # the first key with this end; what is before it is a label
        end = substr(source, 2)
        source = ""
        for (i = 1; i <= count && source == ""; i++)
            if ((i in several) && length(several[i]) > length(end) && \
                substr(several[i], length(several[i]) - length(end) + 1) == end) source = several[i]
        if (source == "") return 0
    }
    for (i = 1; i <= count; i++) # the part of the first key before its last underscore
        if (i in several) { here["@stem"] = several[i]; sub(/_[^_]*$/, "", here["@stem"]); break }
    i = index(source, "|") # the first of two that is there
    if (i) source = substr(source, 1, i - 1) in here ? substr(source, 1, i - 1) : substr(source, i + 1)
    if (!(base_of(source) in here)) return 0
    if (list_of[rule] ~ /=@each/) return each(rule, here, here[source])
    text = text_of(source, here)
    n = number(text, scale_of[rule])
    sample(metric_of[rule], labels_of(list_of[rule], here), n)
    return n != ""
}

# Print a sample for each (NAME:VALUE) of a text.
function each(rule, here, text, words, count, i, at, n, done) {
    count = split(text, words, /[)]/)
    done = 0
    for (i = 1; i <= count; i++) {
        at = index(words[i], ":")
        if (!at) continue
        here["@each"] = substr(words[i], 1, at - 1)
        sub(/^ *[(]/, "", here["@each"])
        n = number(substr(words[i], at + 1), scale_of[rule])
        sample(metric_of[rule], labels_of(list_of[rule], here), n)
        done += n != ""
    }
    return done > 0
}

function is_dropped(name, i) {
    for (i = 1; i <= dropped; i++) if (name ~ ("^(" drops[i] ")$")) return 1
    return 0
}

END {
    for (rule = 1; rule <= rules; rule++) {
        if (kind[rule] == "info") {
            if (unknown) sample(metric_of[rule], labels_of(list_of[rule], values), 1)
            mark(list_of[rule])
        }
        if (kind[rule] != "field" || !(base_of(source_of[rule]) in values)) continue
        n = number(text_of(source_of[rule], values), scale_of[rule])
        sample(metric_of[rule], labels_of(list_of[rule], values), n)
        if (n != "") used[base_of(source_of[rule])] = 1
        mark(list_of[rule])
    }
    for (i = 1; i <= unknown; i++) {
        name = order[i]
        if ((name in used) || is_dropped(name)) continue
        more = ",section=\"" section_of[name] "\",field=\"" name "\""
        n = number(values[name], 1)
        if (n != "" && values[name] ~ /[0-9]/) sample("field_value", more, n)
        else sample("field_info", more ",value=\"" values[name] "\"", 1)
    }
}
