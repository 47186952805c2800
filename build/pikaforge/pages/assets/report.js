/* The page of a build report. The upper half is pure: node's tests load it without a document. */
(function () {
  "use strict";

  const { words, matches, link, counted, make: plainMake, copyButton, replaceHash, begin } =
    typeof module === "object" && module.exports ? require("./shared.js") : Shared;

  const CHOICES = ["state", "model", "image", "allocator"];
  const LONG = 20000; // letters of a text that are shown
  const ROWS = 300; // rows of a table that are drawn at once; more on demand
  const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
  const SIGNS = {
    passed: ["✓", "passed"], partly: ["◐", "passed with remarks"], failed: ["✗", "failed"], absent: ["·", "not built"],
    skipped: ["–", "skipped"], done: ["✓", "done"], cached: ["✓", "cached"], blocked: ["–", "blocked"],
  };

  /* A text as it is shown: what would control other text is an escape, and it has an end. */
  function visible(text) {
    const cut = text.length > LONG ? text.slice(0, LONG) + " … and " + (text.length - LONG) + " more letters" : text;
    return cut.replace(CONTROLS, (letter) => "\\u" + letter.charCodeAt(0).toString(16).padStart(4, "0"));
  }

  /* Give each cell the text in which it is searched; once, before the first search. */
  function prepare(data) {
    for (const cell of data.cells) {
      // The line ends keep a word from matching across two of them.
      cell.text = [
        cell.id, cell.target, cell.wanted, SIGNS[cell.state][1], cell.error, cell.finished, ...cell.files,
      ].join("\n").toLowerCase();
    }
    return data;
  }

  /* The cells that a state {q, state, model, image, allocator, changed} finds. */
  function search(data, asked) {
    const wanted = words(asked.q);
    return data.cells.filter(
      (cell) =>
        CHOICES.every((name) => !asked[name] || asked[name] === cell[name]) &&
        (!asked.changed || cell.changed > 0) &&
        matches(wanted, cell.text, cell.sha256),
    );
  }

  /* Where a URL's hash leads: {cell}, or {asked} for the overview with a search. */
  function readHash(hash, ids) {
    let text = hash.replace(/^#/, "");
    try {
      text = decodeURIComponent(text);
    } catch (error) {
      // A stray percent sign is one.
    }
    if (ids.has(text)) return { cell: text };
    const told = new URLSearchParams(hash.replace(/^#/, ""));
    const asked = { q: told.get("q") || "", changed: told.get("changed") === "1" };
    for (const name of CHOICES) asked[name] = told.get(name) || "";
    if (text !== "" && !text.includes("=")) asked.q = text;
    return { asked };
  }

  /* The hash of an overview with a search; empty for all cells. */
  function writeHash(asked) {
    const told = new URLSearchParams();
    if (asked.q.trim()) told.set("q", asked.q.trim());
    for (const name of CHOICES) if (asked[name]) told.set(name, asked[name]);
    if (asked.changed) told.set("changed", "1");
    const text = told.toString();
    return text ? "#" + text : "";
  }

  function told(found, all) {
    if (found === 0) return "No cell matches.";
    return found === all ? "" : found + " of " + counted(all, "cell", "cells");
  }

  function seconds(number) {
    if (number < 0.05) return "0 s";
    if (number < 60) return number.toFixed(1) + " s";
    const whole = Math.round(number);
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
    return (hours ? hours + " h " : "") + minutes + " min" + (hours ? "" : " " + rest + " s");
  }

  function size(bytes) {
    let amount = bytes;
    for (const unit of ["B", "KiB", "MiB"]) {
      if (amount < 1024) return unit === "B" ? bytes + " B" : amount.toFixed(1) + " " + unit;
      amount /= 1024;
    }
    return amount.toFixed(1) + " GiB";
  }

  /* An address that may be followed: of the web, and nothing that a browser would run. */
  function webAddress(text) {
    try {
      const url = new URL(text);
      return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
    } catch (error) {
      return null;
    }
  }

  if (typeof module === "object" && module.exports) {
    module.exports = { prepare, search, readHash, writeHash, told, visible, seconds, size, webAddress };
    return;
  }

  // ---- From here on there is a document. ----

  function make(tag, attributes, ...children) {
    return plainMake(tag, attributes, ...children.map((child) => (typeof child === "string" ? visible(child) : child)));
  }

  function badge(state, text) {
    const [sign, title] = SIGNS[state];
    const tone = { done: "passed", cached: "passed", blocked: "skipped" }[state] || state;
    return make("span", { class: "badge " + tone }, make("span", { "aria-hidden": "true" }, sign), " " + (text || title));
  }

  function code(text) {
    return make("code", text.length < 40 ? { class: "short" } : {}, text);
  }

  /* Codes in a row, with blanks between them. */
  function codes(texts) {
    return texts.flatMap((text, index) => [...(index ? [" "] : []), code(text)]);
  }

  function quiet(text) {
    return make("span", { class: "quiet" }, text);
  }

  /* What may be wider than the page: it can be scrolled, also by the keyboard. */
  function block(text, label) {
    return make("pre", { tabindex: "0", role: "group", "aria-label": label }, text);
  }

  function address(text) {
    const url = webAddress(text);
    return url === null ? text : make("a", { href: url, rel: "noreferrer noopener" }, text);
  }

  /* A list of names and values; what has no value is left out. */
  function pairs(...entries) {
    const list = make("dl", { class: "pairs" });
    for (const [name, value] of entries) {
      const parts = (Array.isArray(value) ? value : [value]).filter((part) => part !== "" && part !== null && part !== undefined);
      if (parts.length > 0) list.append(make("dt", {}, name), make("dd", {}, ...parts));
    }
    return list;
  }

  const UNNAMED = ["share", "notes"]; // parts that say by themselves what they are

  /* A table; a part of a row is a text, an element, or a list of them. The first one names the row. */
  function table(label, heads, rows, classes = {}) {
    const body = make("tbody", {});
    const cellOf = (value, index) => {
      const name = heads[index];
      const attributes = index === 0 ? { scope: "row" } : UNNAMED.includes(name) ? {} : { "data-label": name };
      if (classes[index]) attributes.class = classes[index];
      return make(index === 0 ? "th" : "td", attributes, ...(Array.isArray(value) ? value : [value]));
    };
    let drawn = 0;
    const more = make("button", { type: "button" });
    const draw = () => {
      for (const row of rows.slice(drawn, drawn + ROWS)) body.append(make("tr", {}, ...row.map(cellOf)));
      drawn = Math.min(rows.length, drawn + ROWS);
      more.textContent = "show more (" + (rows.length - drawn) + " left)";
      more.hidden = drawn === rows.length;
    };
    draw();
    more.addEventListener("click", draw);
    const head = make("thead", {}, make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name))));
    const whole = make("table", { class: "list" }, make("caption", { class: "unseen" }, label), head, body);
    return make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, whole, more);
  }

  /* A part that is made when somebody opens it. */
  function fold(title, makeIt) {
    const details = make("details", {}, make("summary", {}, title));
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) details.append(makeIt());
    });
    return details;
  }

  function plainList(texts) {
    return make("ul", { class: "plain" }, ...texts.map((text) => make("li", {}, text)));
  }

  function line(record) {
    return record.where + ": " + record.what + (record.do ? " → " + record.do : "");
  }

  // ---- the parts of a cell's page

  function packagesPart(cell, said) {
    if (cell.packages.length === 0) return null;
    const rows = cell.packages.map((file) => {
      const name = file.path.slice(file.path.lastIndexOf("/") + 1);
      const digest = code(file.sha256);
      const beside = file.beside || [];
      return [
        file.beside ? make("a", { href: link(file.path) }, name) : name,
        file.format + (file.role === "main" ? "" : ", " + file.role),
        size(file.bytes),
        [digest, " ", copyButton(digest, file.sha256, "the SHA-256 of " + name, said)],
        beside.flatMap(([label, path], index) => [
          ...(index ? [", "] : []), make("a", { href: link(path), "aria-label": label + " of " + name }, label),
        ]),
      ];
    });
    return [table("Packages", ["file", "kind", "size", "SHA-256", "beside it"], rows, { 1: "tight", 2: "number" })];
  }

  function stagesPart(cell, data, facts) {
    const nodes = cell.nodes.map((number) => data.nodes[number]);
    if (nodes.length === 0) return null;
    const longest = Math.max(0.001, ...nodes.map((node) => node.seconds));
    const rows = nodes.map((node) => {
      const bar = make("span", { class: node.status === "failed" ? "bar failed" : "bar" });
      bar.style.width = (100 * node.seconds) / longest + "%"; // the policy forbids it as an attribute
      const notes = [];
      if (node.cells > 1) notes.push(quiet("shared by " + node.cells + " cells"));
      if (node.cache) notes.push(quiet((notes.length ? ", " : "") + "compiler cache " + node.cache.slice(0, 12)));
      if (node.blocked_by) notes.push("needs " + node.blocked_by + ", which failed");
      if (node.error.length > 0) notes.push(fold("what failed", () => block(node.error.join("\n"), "What failed in " + node.stage)));
      const logs = node.logs.map((log) => fold("end of " + log.name.slice(log.name.indexOf("/") + 1), () => make("div", {},
        block(facts(log.end) || "(empty)", "The last lines of " + log.name),
        make("a", { href: link(log.path) }, "the whole log"))));
      if (logs.length > 2) notes.push(fold(logs.length + " logs", () => make("div", {}, ...logs)));
      else notes.push(...logs);
      return [
        [make("strong", {}, node.stage), " ", quiet(node.label)], badge(node.status), seconds(node.seconds),
        node.seconds > 0 ? make("span", { class: "track", "aria-hidden": "true" }, bar) : [], notes,
      ];
    });
    const total = nodes.reduce((sum, node) => sum + node.seconds, 0);
    return [
      make("p", {}, "Seconds are those of the run that did the work: " + seconds(total) + " in all."),
      table("Stages", ["stage", "state", "time", "share", "notes"], rows, { 1: "tight", 2: "number", 3: "wide" }),
    ];
  }

  function way(name, record) {
    const title = make("h3", {}, name + (record.cpu ? ", as " + record.cpu : record.machine ? ", ran on " + record.machine : ""));
    if (!record.ran) return [title, make("p", {}, badge("skipped", "not run"), " " + record.reason)];
    const rows = record.checks.map((check) => {
      const state = check.passed ? "passed" : check.skipped ? "skipped" : "failed";
      const notes = [];
      if (!check.required) notes.push(quiet("only advice "));
      if (check.skipped) notes.push(check.skipped);
      if (check.note) notes.push(check.note);
      if (check.detail) notes.push(block(check.detail, "What failed in " + check.name));
      const exchanges = check.exchanges || [];
      if (exchanges.length === 1 && exchanges[0].length < 100) {
        notes.push(code(exchanges[0]));
      } else if (exchanges.length > 0) {
        notes.push(fold(counted(exchanges.length, "exchange", "exchanges"), () => block(exchanges.join("\n"), "Exchanges of " + check.name)));
      }
      return [check.name, badge(state), seconds(check.seconds), notes];
    });
    const rest = Object.entries(record.rest).map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)]);
    return [
      title,
      ...(record.problem ? [make("p", { class: "why" }, record.problem)] : []),
      table("Checks, " + name, ["check", "state", "time", "what was asked and answered"], rows, { 1: "tight", 2: "number" }),
      ...(rest.length ? [fold("the server at rest", () => pairs(...rest))] : []),
    ];
  }

  function checksPart(cell, facts) {
    const parts = [];
    if (cell.tried) parts.push(make("p", {}, "Tried: the tree for " + cell.tried + "."));
    if (cell.native) parts.push(...way("natively", facts(cell.native)));
    if (cell.emulated) parts.push(...way("emulated", facts(cell.emulated)));
    return parts.length ? parts : null;
  }

  const LEVELS = {
    fail: ["failed", "refused"], dispatched: ["passed", "dispatched"], guarded: ["passed", "guarded"], harmless: ["passed", "harmless"], waived: ["partly", "waived"],
    unproven: ["partly", "not proven"], suspect: ["partly", "suspect"], warn: ["partly", "warning"],
  };

  function findingsTable(findings) {
    const rows = findings.map((found) => {
      const [state, word] = LEVELS[found.level] || ["partly", found.level];
      const why = [found.reason, ...(found.doubt ? [" " + found.doubt] : [])];
      if (found.level === "fail" && found.hints.length > 0) why.push(quiet(" (hint, no proof: " + found.hints.join("; ") + ")"));
      return [
        [code(found.function), " ", quiet(found.file)], badge(state, word),
        found.features.map(([name, count]) => name + " ×" + count).join(", "),
        code("0x" + found.address.toString(16) + "  " + found.text), why,
      ];
    });
    return table("Findings by function", ["function", "verdict", "features", "first instruction", "why"], rows, { 1: "tight" });
  }

  function auditPart(cell, facts) {
    if (!cell.audit) return null;
    const audit = facts(cell.audit);
    const parts = [make("p", {}, badge(audit.passed ? "passed" : "failed"),
      " " + audit.code_bytes.toLocaleString("en") + " bytes of code were decoded and compared with " + audit.allow_list + ".")];
    const open = new Set(audit.unproven.map(line)); // the audit warns of these, too
    for (const [title, records] of [
      ["What says no", audit.violations], ["Warnings", audit.warnings.filter((each) => !open.has(line(each)))], ["Not proven", audit.unproven], ["Not judged", audit.not_judged],
    ]) if (records.length > 0) parts.push(make("h3", {}, title), plainList(records.map(line)));
    if (audit.findings.length > 0) {
      parts.push(make("h3", {}, "Findings by function"), findingsTable(audit.findings));
      if (cell.leftOut) parts.push(make("p", {}, counted(cell.leftOut, "finding is", "findings are") + " not listed here; `nox -s audit` of the package shows all."));
    } else {
      parts.push(make("p", {}, "No function has instructions beyond the target."));
    }
    if (audit.dispatched.length > 0) {
      const rows = audit.dispatched.map((each) => [
        [code(each.file), " ", quiet(each.package ? each.package + " " + each.version : "")], each.features.join(", "),
        [plainList(each.evidence)], fold(counted(each.functions.length, "function", "functions"), () => plainList(each.functions)),
      ]);
      parts.push(make("h3", {}, "Dispatched code: it runs only on CPUs that have it"),
        table("Dispatched code", ["library", "features", "why it is accepted", "functions"], rows));
    }
    if (audit.waived && audit.waived.length > 0) {
      const rows = audit.waived.map((each) => {
        const reason = audit.findings.find((found) => found.file === each.file && found.function === each.function);
        return [[code(each.function), " ", quiet(each.file)], each.features.join(", "), reason ? reason.reason : ""];
      });
      parts.push(make("h3", {}, "Waived code"), table("Waived code", ["function", "features", "reason of the waiver"], rows));
    }
    parts.push(pairs(
      ["features in use", audit.features_used.join(", ") || "none beyond the baseline"],
      ["a host's CPU must show", codes(audit.kernel_flags)],
      ["no gate can see", Object.entries(audit.ungated).map(([name, why]) => name + ": " + why).join("; ")],
    ));
    if (audit.notes.length > 0) parts.push(fold(counted(audit.notes.length, "note", "notes"), () => plainList(audit.notes)));
    if (audit.summaries.length > 0) {
      const rows = audit.summaries.map((each) => [
        code(each.file), badge({ passed: "passed", refused: "failed" }[each.verdict] || "partly", each.verdict),
        each.decoded.toLocaleString("en"), String(each.dispatched), String(each.waived), String(each.unproven), String(each.unclassified),
      ]);
      parts.push(fold(counted(rows.length, "file", "files") + " that were judged", () => table("Files that were judged",
        ["file", "verdict", "bytes decoded", "dispatched", "waived", "unproven", "bytes not judged"], rows,
        { 2: "number", 3: "number", 4: "number", 5: "number", 6: "number" })));
    }
    return parts;
  }

  function flagsPart(cell, facts) {
    const parts = [];
    if (cell.flags.length > 0) parts.push(pairs(["flags of the target", codes(cell.flags)]));
    const audit = cell.audit ? facts(cell.audit) : null;
    if (audit && audit.dropped_flags.length > 0) {
      parts.push(make("p", {}, "Dropped by the compiler wrapper, whatever the build files ask for:"),
        table("Dropped flags", ["flag", "times"], audit.dropped_flags.map(([count, flag]) => [code(flag), String(count)]), { 1: "number" }));
    } else if (audit) {
      parts.push(make("p", {}, "The compiler wrapper dropped no flag."));
    }
    if (cell.adaptations.length > 0) {
      const rows = cell.adaptations.map((each) => [
        "gcc " + each.gcc, codes(each.cflags), codes(each.cxxflags), each.why,
      ]);
      parts.push(make("p", {}, "Added for this compiler:"), table("Added flags", ["compiler", "C", "C++", "why"], rows));
    }
    if (cell.keepWerror) parts.push(make("p", {}, "-Werror of the build files counted."));
    if (audit && audit.units.length > 0) {
      parts.push(fold("compile units, as their debug information has them", () => table("Compile units",
        ["file", "-march", "-mtune", "units", "for example"],
        audit.units.map((each) => [code(each.file), each.march || "–", each.mtune || "–", String(each.count), code(each.example)]),
        { 3: "number" })));
    }
    return parts.length ? parts : null;
  }

  function linkagePart(cell, facts) {
    if (!cell.audit) return null;
    const audit = facts(cell.audit);
    const hardening = new Map(audit.hardening.map((each) => [each.file, each]));
    const rows = audit.files.map((file) => {
      const guard = hardening.get(file.name);
      const hard = guard ? [guard.pie && "PIE: " + guard.pie, guard.relro && "RELRO: " + guard.relro, "stack protector: " + (guard.canary ? "yes" : "no")] : [];
      return [
        [code(file.name), " ", quiet(file.soname)], file.kind + ", " + size(file.bytes), file.needed.join(", ") || "–",
        file.run_path.length ? codes(file.run_path) : "–", hard.filter(Boolean).join(", "), code(file.build_id),
      ];
    });
    const packaged = Object.entries(audit.packaged);
    return [
      pairs(
        ["a host must have", Object.entries(audit.symbol_versions).map(([name, version]) => name + " " + version).join(", ")],
        ["from the host", audit.system_libraries.join(", ")],
        ["allocator", audit.allocator.library || "the C library's"],
        ["unwinder", audit.allocator.unwinder],
      ),
      table("Linkage", ["file", "kind", "needs", "run path", "hardening", "build id"], rows),
      ...(packaged.length ? [fold("libraries of the distribution that travel along", () => table("Libraries that travel along",
        ["file", "package", "SHA-256"], packaged.map(([name, each]) => [code(name), each.package + " " + each.version, code(each.sha256)])))] : []),
      fold("symbol versions by library of the host", () => pairs(
        ...Object.entries(audit.library_versions).map(([name, versions]) => [name, versions.join(", ")]))),
    ];
  }

  function sourcePart(cell, facts) {
    const member = (name) => {
      const found = cell.manifest[name];
      return found === undefined ? null : "fact" in found ? facts(found.fact) : found.value;
    };
    const source = member("source");
    const parts = [];
    const shown = (value) => (value === null || value === undefined ? "" : typeof value === "string" ? value : [].concat(value).map((each) => typeof each === "string" ? each : JSON.stringify(each)).join(", "));
    if (source && typeof source === "object") {
      parts.push(pairs(
        ["source", source.url ? [address(shown(source.url))] : shown(source.kind)], ["version", shown(source.version)], ["ref", shown(source.ref)],
        ["commit", source.commit ? code(shown(source.commit)) : ""], ["after the patches", source.head ? code(shown(source.head)) : ""],
        ["compiler", shown(member("compiler"))],
      ));
      const patches = Array.isArray(source.patches) ? source.patches : [];
      if (patches.length > 0) {
        parts.push(table("Patches", ["patch", "state", "why"], patches.map((each) => [
          [address(shown(each.url) || shown(each.name)), ...(each.url ? [" ", quiet(shown(each.name))] : [])],
          shown(each.state) || "applied", shown(each.why),
        ])));
      }
      const submodules = Object.entries(source.submodules || {});
      if (submodules.length > 0) parts.push(fold(counted(submodules.length, "submodule", "submodules"), () => pairs(...submodules.map(([name, commit]) => [name, code(shown(commit))]))));
    }
    if (cell.image) {
      const image = facts(cell.image);
      parts.push(pairs(["image", shown(image.name)], ["base", shown(image.base)]));
      for (const [name, title] of [["build_packages", "packages of the build image"], ["runtime_packages", "packages of the clean system"]]) {
        const entries = Object.entries(image[name] || {});
        if (entries.length > 0) parts.push(fold(counted(entries.length, "package", "packages") + ": " + title, () => table(title, ["package", "version"], entries.map(([key, value]) => [key, shown(value)]))));
      }
    }
    return parts.length ? parts : null;
  }

  function digestsPart(cell, data, facts) {
    const rows = cell.nodes.map((number) => data.nodes[number]).filter((node) => node.key)
      .map((node) => [node.stage + " " + node.label, code(node.key)]);
    const parts = [];
    if (rows.length > 0) parts.push(make("p", {}, "A key is a hash of all that decides a stage's result."), table("Keys", ["stage", "key"], rows));
    const names = Object.keys(cell.manifest);
    if (names.length > 0) {
      parts.push(fold("manifest.json", () => {
        const whole = {};
        for (const [name, found] of Object.entries(cell.manifest)) whole[name] = "fact" in found ? facts(found.fact) : found.value;
        return block(JSON.stringify(whole, null, 1), "manifest.json");
      }));
    }
    return parts.length ? parts : null;
  }

  function changesPart(cell) {
    if (cell.changes.length === 0) return null;
    return [table("Changes", ["what", "before", "now"], cell.changes.map((each) => [each.what, each.before || "–", each.after || "–"]))];
  }

  function start() {
    const by = (id) => document.getElementById(id);
    const read = (id) => {
      const element = by(id);
      return element === null ? null : JSON.parse(element.textContent);
    };
    const data = prepare(read("data"));
    const known = new Map();
    /* A fact by its key; it is read when it is first wanted. */
    const facts = (key) => {
      if (!known.has(key)) known.set(key, read("fact:" + key));
      return known.get(key);
    };
    const cells = new Map(data.cells.map((cell) => [cell.id, cell]));
    const [form, query, state, model, image, allocator, clear, status, overview, article, all] =
      ["controls", "q", "state", "model", "image", "allocator", "clear", "status", "overview", "cell", "all"].map(by);
    const changed = by("changed"); // only where something was compared
    const choices = { state, model, image, allocator };
    const grid = by("grid");
    const title = document.title;
    const said = make("p", { class: "unseen", role: "status" });
    document.querySelector("main").append(said);
    let asked = readHash("", cells).asked;
    let scrolled = 0;
    let open = null; // the id of the cell that is shown

    // The rows lose their ids: a link to a cell leads to its page now, and not to its row.
    const marked = [...document.querySelectorAll("#overview [data-cell]")];
    for (const row of all.querySelectorAll("tr[id]")) row.removeAttribute("id");
    all.open = false;
    const squares = grid === null ? [] : [...grid.tBodies[0].rows].map((row) => [...row.cells].slice(1).map((cell) => cell.querySelector("a")));
    const links = squares.flat().filter((each) => each !== null);
    links.forEach((each, index) => { each.tabIndex = index === 0 ? 0 : -1; });

    function filter() {
      const found = search(data, asked);
      const ids = new Set(found.map((cell) => cell.id));
      const whole = found.length === data.cells.length;
      for (const element of marked) element.classList.toggle("other", !ids.has(element.dataset.cell));
      if (grid !== null) {
        const models = new Set(found.map((cell) => cell.model));
        narrow(new Set(found.map((cell) => cell.image + " " + cell.allocator)), whole);
        for (const row of grid.tBodies[0].rows) row.classList.toggle("other", !whole && !models.has(row.dataset.model));
      }
      status.textContent = told(found.length, data.cells.length);
      status.hidden = status.textContent === "";
      clear.disabled = writeHash(asked) === "";
    }

    /* Leave out the columns of the grid in which nothing was found. */
    function narrow(wanted, whole) {
      const heads = [...grid.tHead.querySelectorAll("[data-column]")];
      const shown = heads.map((head) => whole || wanted.size === 0 || wanted.has(head.dataset.column));
      heads.forEach((head, index) => { head.hidden = !shown[index]; });
      for (const row of grid.tBodies[0].rows) shown.forEach((seen, index) => { row.cells[index + 1].hidden = !seen; });
      for (const group of grid.tHead.querySelectorAll("[data-image]")) {
        const left = heads.filter((head, index) => shown[index] && head.dataset.column.split(" ")[0] === group.dataset.image);
        group.hidden = left.length === 0;
        group.colSpan = Math.max(1, left.length);
      }
    }

    /* Fields say what the state is, also a model that is not among the choices (any more). */
    function fill() {
      query.value = asked.q;
      if (changed !== null) changed.checked = asked.changed;
      for (const [name, choice] of Object.entries(choices)) {
        if (![...choice.options].some((option) => option.value === asked[name])) {
          choice.append(make("option", { value: asked[name] }, asked[name] + " (none)"));
        }
        choice.value = asked[name];
      }
    }

    function neighbours(id) {
      const found = search(data, asked);
      const order = found.some((cell) => cell.id === id) ? found : data.cells;
      const at = order.findIndex((cell) => cell.id === id);
      return [order[at - 1], order[at + 1]];
    }

    function draw(id) {
      const cell = cells.get(id);
      const back = make("a", { href: writeHash(asked) || "#" }, "← all cells");
      const nav = make("nav", { "aria-label": "Cells" }, back);
      neighbours(id).forEach((other, index) => {
        if (other) nav.append(make("a", { href: "#" + encodeURIComponent(other.id) }, index === 0 ? "previous: " + other.id : "next: " + other.id));
      });
      const heading = make("h2", { id: "cell-title", class: "title", tabindex: "-1" }, cell.id, " ", badge(cell.state));
      article.replaceChildren(nav, heading);
      const details = read("cell:" + id);
      if (details === null) {
        article.append(make("p", {}, "The matrix has this cell, and none of the reports does."
          + (cell.error ? " It cannot be built: " + cell.error : "")), pairs(["target", cell.target], ["best of the model", cell.wanted]));
        return heading;
      }
      const wanted = cell.target === cell.wanted ? "" : " (the best of the model is " + cell.wanted + ")";
      article.append(pairs(
        ["model", cell.model], ["image", cell.image], ["allocator", cell.allocator], ["target", cell.target + wanted],
        ["built", make("time", { datetime: cell.finished }, cell.finished.replace("T", " ").replace("Z", " UTC"))],
      ));
      const failed = details.nodes.map((number) => data.nodes[number]).find((node) => node.status === "failed");
      if (failed) article.append(make("div", { class: "remarks failed" }, make("strong", {}, failed.stage + " failed"), block(failed.error.join("\n"), "What failed")));
      if (details.remarks.length > 0) article.append(make("div", { class: "remarks" }, make("strong", {}, "What is left open"), plainList(details.remarks)));
      const contents = make("ul", { class: "contents", "aria-label": "Parts of this page" });
      article.append(contents);
      const parts = [
        ["Changes since " + data.since, () => changesPart(details)], ["Packages", () => packagesPart(details, said)],
        ["Stages", () => stagesPart(details, data, facts)], ["Checks", () => checksPart(details, facts)],
        ["Audit", () => auditPart(details, facts)], ["Flags", () => flagsPart(details, facts)],
        ["Linkage", () => linkagePart(details, facts)], ["Source and system", () => sourcePart(details, facts)],
        ["Keys and digests", () => digestsPart(details, data, facts)],
      ];
      for (const [name, makeIt] of parts) {
        const made = makeIt();
        if (made === null) continue;
        const head = make("h2", { tabindex: "-1" }, name);
        const jump = make("button", { type: "button" }, name);
        jump.addEventListener("click", () => { head.scrollIntoView(); head.focus({ preventScroll: true }); });
        contents.append(make("li", {}, jump));
        article.append(make("section", {}, head, ...made));
      }
      return heading;
    }

    function route() {
      const where = readHash(location.hash, cells);
      if (where.cell !== undefined) {
        if (open === null) scrolled = scrollY;
        open = where.cell;
        const heading = draw(where.cell);
        overview.hidden = true;
        article.hidden = false;
        document.title = where.cell + " · " + title;
        scrollTo(0, 0);
        heading.focus({ preventScroll: true });
        return;
      }
      const before = open;
      open = null;
      asked = where.asked;
      article.hidden = true;
      article.replaceChildren();
      overview.hidden = false;
      document.title = title;
      fill();
      filter();
      if (before !== null) {
        const place = links.find((each) => each.parentElement.dataset.cell === before);
        if (place) stop(place);
        scrollTo(0, scrolled);
      }
    }

    /* One link of the grid is a stop of the Tab key; arrow keys move it. */
    function stop(place) {
      for (const each of links) if (each.tabIndex === 0) each.tabIndex = -1;
      place.tabIndex = 0;
      place.focus();
    }

    const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

    function moved(event) {
      const step = STEPS[event.key];
      const from = event.target.closest("td");
      if (!step || !from || event.altKey || event.ctrlKey || event.metaKey) return;
      let [row, column] = [from.parentElement.sectionRowIndex, from.cellIndex - 1];
      do {
        row += step[0];
        column += step[1];
        const next = squares[row] && squares[row][column];
        if (next && next.offsetParent !== null) {
          event.preventDefault();
          stop(next);
          return;
        }
      } while (squares[row] && column >= 0 && column < squares[row].length);
    }

    let timer = 0;
    function edited() {
      asked = { q: query.value, changed: changed !== null && changed.checked };
      for (const [name, choice] of Object.entries(choices)) asked[name] = choice.value;
      filter();
      clearTimeout(timer);
      timer = setTimeout(() => { if (open === null) replaceHash(writeHash(asked)); }, 250); // browsers limit how often
    }

    form.addEventListener("input", edited);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => { edited(); query.focus(); }));
    if (grid !== null) grid.addEventListener("keydown", moved);
    addEventListener("hashchange", route);
    addEventListener("beforeprint", () => { for (const part of article.querySelectorAll("details")) part.open = true; });
    form.hidden = false;
    route();
  }

  begin(start);
})();
