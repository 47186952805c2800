# The arithmetic of memory.sh, whose human() goes before it: what a configuration may take, and values below a budget.
#
# Input is the table operate/memory.tsv, then lines about one configuration:
#   value KEY TEXT     what the configuration says
#   pinned KEY         a value that the plan must not change
# Variables: mode is "plan" or "show"; budget is in bytes (0: none, with "show").
# Output are lines of fields between tabs:
#   set KEY VALUE · term NAME BYTES FORMULA WHY · reserve BYTES FORMULA WHY · total BYTES · budget BYTES ·
#   error TEXT HINT
#
# Numbers are doubles: whole numbers are exact up to 2^53. No number here is above 2^50; a product is checked before it
# is used.

BEGIN {
    FS = "\t"
    OFS = "\t"
    limit = 1125899906842624
    terms = 0
    bad = ""
    advice = ""
}
$1 == "reserve" { percent = $2 + 0; floor_ = size($3); why_reserve = $4 }
$1 == "set" && mode == "plan" { sets[++set_count] = $2; wanted[$2] = $3 }
$1 == "term" {
    terms++
    name[terms] = $2; key[terms] = $3; preset[terms] = $4; share[terms] = $5 + 0
    least[terms] = size($6); most[terms] = $7 == "-" ? limit : size($7); step[terms] = size($8)
    lower[terms] = $9 == "lower"; unbounded[terms] = $10; why[terms] = $11
}
$1 == "times" { n = ++times[$2]; factor_key[$2, n] = $3; factor[$2, n] = $4; when[$2, n] = $5 }
$1 == "value" { given[$2] = $3; is_given[$2] = 1 }
$1 == "pinned" { pinned[$2] = 1 }
END {
    for (i = 1; i <= set_count; i++) {
        if (!(sets[i] in pinned)) { given[sets[i]] = wanted[sets[i]]; is_given[sets[i]] = 1 }
    }
    for (i = 1; i <= terms; i++) take(i)
    if (mode == "plan" && bad == "") plan()
    if (bad != "") { print "error", bad, advice; exit 0 }
    report()
}

# Return a size in bytes, or -1. A unit is a power of 1024, which is the larger reading.
function size(text,    number, unit, by) {
    if (text !~ /^[0-9]+([kKmMgGtT][bB]?|[bB])?$/) return -1
    number = text
    gsub(/[^0-9]/, "", number)
    sub(/^0+/, "", number)
    if (length(number) > 16) return -1
    gsub(/[0-9]/, "", text)
    unit = tolower(substr(text, 1, 1))
    by = unit == "k" ? 1024 : unit == "m" ? 1048576 : unit == "g" ? 1073741824 : unit == "t" ? 1099511627776 : 1
    number += 0
    return product(number, by)
}

# Return a product, or -1 where it is above the limit or one of the two is no number.
function product(a, b) {
    if (a < 0 || b < 0) return -1
    if (a > 0 && b > limit / a) return -1
    return a * b
}

function refuse(text, hint) {
    if (bad == "") { bad = text; advice = hint }
}

# Return the text of a key: as it is given, else a preset.
function text_of(what, otherwise) {
    return (what in is_given) && given[what] != "" ? given[what] : otherwise
}

# Return whether a condition holds: KEY=VALUE, KEY!=VALUE, or - for always.
function holds(condition,    at, what) {
    if (condition == "-" || condition == "") return 1
    at = index(condition, "!=")
    if (at) return text_of(substr(condition, 1, at - 1), "") != substr(condition, at + 2)
    at = index(condition, "=")
    what = substr(condition, 1, at - 1)
    return text_of(what, "") == substr(condition, at + 1)
}

# Set what a term takes for each unit of its key, and its value where that is given or fixed.
function take(i,    n, part, text) {
    per[i] = 1
    formula[i] = ""
    for (n = 1; n <= times[name[i]]; n++) {
        if (!holds(when[name[i], n])) continue
        text = factor_key[name[i], n] == "-" ? factor[name[i], n] : text_of(factor_key[name[i], n], factor[name[i], n])
        part = size(text)
        if (part < 0) refuse(factor_key[name[i], n] " is no number that can be planned with: " text, "")
        per[i] = product(per[i], part)
        formula[i] = formula[i] " * " (factor_key[name[i], n] == "-" ? text : factor_key[name[i], n] " " text)
    }
    free[i] = mode == "plan" && share[i] > 0 && !(key[i] in pinned)
    if (free[i]) {
        text = text_of(key[i], preset[i])
        if (lower[i] && size(text) > 0 && size(text) < most[i]) most[i] = size(text)
        if (least[i] > most[i]) least[i] = most[i]
        return
    }
    text = key[i] == "-" ? preset[i] : text_of(key[i], preset[i])
    open_ended[i] = text == unbounded[i] || text ~ /^-/
    value[i] = size(text)
    if (open_ended[i]) {
        if (mode == "plan") refuse(key[i] " is " text ", which is no bound", "leave it out, or give it a number")
        value[i] = 0
        return
    }
    if (value[i] < 0) refuse(key[i] " is no number that can be planned with: " text, "")
    if (product(value[i], per[i]) < 0) refuse(name[i] " is too much for any memory: " text formula[i], "")
}

function reserve_of(sum,    part) {
    part = int(sum / 100 * percent) + 1
    return part > floor_ ? part : floor_
}

# Return the least budget whose part without the reserve is at least this, rounded up to MiB.
function budget_for(need,    a, b) {
    a = need / (100 - percent) * 100 + 1
    b = need + floor_
    if (a < b) a = b
    return int((a + 1048576) / 1048576) * 1048576
}

# Give each free key its least, and of what is left its share, in the order of the table.
function plan(    i, need, left, shares, extra, more, fixed, culprit) {
    for (i = 1; i <= terms; i++) {
        amount = product(free[i] ? least[i] : value[i], per[i])
        if (amount < 0) { refuse(name[i] " is too much for any memory", ""); return }
        need += amount
        if (!free[i]) { fixed += amount; if (key[i] in pinned && amount > largest) { largest = amount; culprit = i } }
        else shares += share[i]
    }
    if (need > limit) { refuse("the terms are too much for any memory", ""); return }
    left = budget - reserve_of(budget) - need
    if (left < 0) {
        refuse(human(budget) " is too little: at least " mebibytes(budget_for(need)) " serve", \
            culprit ? name[culprit] " takes " human(largest) " of that: " key[culprit] " is set by hand" : "")
        return
    }
    for (i = 1; i <= terms; i++) {
        if (!free[i]) continue
        extra = left / shares * share[i]
        value[i] = least[i]
        if (per[i] > 0) {
            more = int((least[i] + extra / per[i]) / step[i]) * step[i]
            if (more > most[i]) more = most[i]
            if (more > least[i]) value[i] = more
        }
        left -= (value[i] - least[i]) * per[i]
        shares -= share[i]
        given[key[i]] = sprintf("%.0f", value[i]); is_given[key[i]] = 1
    }
}

# Return a size that `size` reads back as the same, or as a little more.
function mebibytes(bytes) {
    return sprintf("%.0fM", int((bytes + 1048575) / 1048576))
}

function report(    i, sum, amount, reserve, text) {
    for (i = 1; mode == "plan" && i <= set_count; i++) if (!(sets[i] in pinned)) print "set", sets[i], wanted[sets[i]]
    for (i = 1; i <= terms; i++) if (free[i]) print "set", key[i], sprintf("%.0f", value[i])
    for (i = 1; i <= terms; i++) {
        text = (key[i] == "-" ? "" : key[i] " ") sprintf("%.0f", value[i]) formula[i]
        if (open_ended[i]) {
            print "term", name[i], "-", key[i] " " text_of(key[i], preset[i]) " is no bound", why[i]
            unbound = 1
            continue
        }
        amount = product(value[i], per[i])
        sum += amount
        print "term", name[i], sprintf("%.0f", amount), text, why[i]
    }
    reserve = budget > 0 ? reserve_of(budget) : reserve_of(sum / (100 - percent) * 100)
    print "reserve", sprintf("%.0f", reserve), percent " percent, at least " human(floor_), why_reserve
    print "total", unbound ? "-" : sprintf("%.0f", sum + reserve)
    if (budget > 0) print "budget", sprintf("%.0f", budget)
}
