/* The search of a published root's index page. The upper half is pure: node's tests load it without a document. */
(function () {
  "use strict";

  const { words, matches, link, counted, make, copyButton, replaceHash, begin } =
    typeof module === "object" && module.exports ? require("./shared.js") : Shared;

  const ROWS = 200; // that many files are drawn at once; more on demand
  const SHORT = 12; // digits of a digest that are shown
  const CHOICES = ["model", "image", "format"];

  /* Give each file the text in which it is searched, its place and its number; once, before the first search. */
  function prepare(data) {
    let number = 0;
    for (const image of data.images) {
      for (const repository of image.repositories) {
        for (const file of repository.files) {
          file.number = number++;
          file.place = repository.path;
          file.name = file.path.slice(file.path.lastIndexOf("/") + 1);
          // The line ends keep a word from matching across two of them.
          file.text = [
            image.image, repository.model, file.name, file.package, file.version, file.product, file.cell, file.target,
            file.allocator, file.format, file.role, file.built, file.published,
          ].join("\n").toLowerCase();
        }
      }
    }
    return data;
  }

  /*
   * What a state {q, model, image, format, debug} finds: groups of files by image and model, in the order of the data.
   * Debug packages are apart, and `unfolded` says whether to show them: as asked, or because there is nothing else.
   */
  function search(data, state) {
    const wanted = words(state.q);
    const found = { groups: [], files: 0, debug: 0, older: 0, unfolded: state.debug };
    for (const image of data.images) {
      if (state.image && state.image !== image.image) continue;
      for (const repository of image.repositories) {
        if (state.model && state.model !== repository.model) continue;
        found.older += repository.older;
        const hits = repository.files.filter(
          (file) => (!state.format || state.format === file.format) && matches(wanted, file.text, [file.sha256]),
        );
        if (hits.length === 0) continue;
        const files = hits.filter((file) => file.role !== "debug");
        const debug = hits.filter((file) => file.role === "debug");
        found.groups.push({ image, repository, files, debug });
        found.files += files.length;
        found.debug += debug.length;
      }
    }
    if (found.files === 0) found.unfolded = true;
    return found;
  }

  /* What is to be drawn, from top to bottom: so that it can be drawn in parts. */
  function layout(found) {
    const pieces = [];
    let image = null;
    for (const group of found.groups) {
      if (group.image !== image) {
        image = group.image;
        pieces.push({ kind: "image", image });
      }
      pieces.push({ kind: "repository", group });
      for (const file of group.files) pieces.push({ kind: "file", file });
      if (found.unfolded) for (const file of group.debug) pieces.push({ kind: "file", file });
      else if (group.debug.length > 0) pieces.push({ kind: "fold", group });
    }
    return pieces;
  }

  /* The state that a URL's hash tells; one without an equals sign is a query. */
  function readHash(hash) {
    const text = hash.replace(/^#/, "");
    const told = new URLSearchParams(text.includes("=") ? text : "q=" + text);
    const state = { q: told.get("q") || "", debug: told.get("debug") === "1" };
    for (const name of CHOICES) state[name] = told.get(name) || "";
    return state;
  }

  /* The hash that tells a state; empty for the first one. */
  function writeHash(state) {
    const told = new URLSearchParams();
    const query = state.q.trim();
    if (query) told.set("q", query);
    for (const name of CHOICES) if (state[name]) told.set(name, state[name]);
    if (state.debug) told.set("debug", "1");
    const text = told.toString();
    return text ? "#" + text : "";
  }

  /* How many files that is; debug packages where there is nothing else, or where they are wanted, too. */
  function amount(files, debug, both) {
    const packages = counted(debug, "debug package", "debug packages");
    if (files === 0) return packages;
    return counted(files, "file", "files") + (both && debug > 0 ? " and " + packages : "");
  }

  /* The sentence above the results. */
  function told(found) {
    const older = found.older > 0 ? counted(found.older, "older file is", "older files are") + " not on this page." : "";
    if (found.groups.length === 0) return ["Nothing matches.", older].filter(Boolean).join(" ");
    const places = counted(found.groups.length, "repository", "repositories");
    return amount(found.files, found.debug, true) + " in " + places + (older ? ". " + older : "");
  }

  if (typeof module === "object" && module.exports) {
    module.exports = { words, prepare, search, layout, readHash, writeHash, link, told };
    return;
  }

  // ---- From here on there is a document. ----

  function labelled(name, ...children) {
    return make("span", { class: "fact" }, make("span", { class: "label" }, name), " ", ...children);
  }

  function day(name, moment) {
    return labelled(name, make("time", { datetime: moment, title: moment }, moment.slice(0, 10)));
  }

  function start() {
    const source = document.getElementById("data");
    if (source === null) return; // nothing is published
    const data = prepare(JSON.parse(source.textContent));
    const by = (id) => document.getElementById(id);
    const [form, query, debug, clear, results, more, status] =
      ["controls", "q", "debug", "clear", "results", "more", "status"].map(by);
    const said = make("p", { class: "unseen", role: "status" });
    form.after(said);

    let state = readHash(location.hash);
    let waiting = []; // pieces that are not drawn yet
    let list = null; // where the next file goes
    let section = null;

    /* Lines for a shell, with the button that copies them. */
    function block(numbers, what) {
      const text = numbers.map((number) => data.lines[number]).join("\n");
      const code = make("code", {}, text);
      const pre = make("pre", { tabindex: "0", role: "group", "aria-label": what }, code);
      return make("div", { class: "block" }, pre, copyButton(code, text, what, said));
    }

    /* A file's row. The lines to copy are made when they are asked for. */
    function row(file) {
      const digest = make("code", { title: file.sha256 }, file.sha256.slice(0, SHORT) + "…");
      const facts = make("p", { class: "facts" },
        labelled("version", file.version),
        labelled("target", file.target + (file.wanted ? " (the compiler knows no " + file.wanted + ")" : "")),
        labelled("allocator", file.allocator),
        ...(file.notRun ? [labelled("proof", file.notRun)] : []),
        day("built", file.built), day("published", file.published),
        labelled("SHA-256", digest, " ", copyButton(digest, file.sha256, "the SHA-256 of " + file.name, said)));
      const links = make("span", { class: "links" });
      for (const [label, path] of file.beside) {
        links.append(make("a", { href: link(file.place + "/" + path), "aria-label": label + " of " + file.name }, label));
      }
      const item = make("li", { class: "file" },
        make("span", { class: "kind" }, file.format),
        make("a", { class: "name", href: link(file.place + "/" + file.path) }, file.name),
        links,
        make("span", { class: "size", title: file.bytes + " bytes" }, file.size));
      if (file.role !== "main") item.classList.add("lesser");
      if (file.install.length > 0) {
        const id = "install-" + file.number;
        const button = make("button", {
          type: "button", class: "install", "aria-expanded": "false", "aria-controls": id,
          "aria-label": "Install " + file.name,
        }, "install");
        const place = make("div", { id, class: "lines" });
        place.hidden = true;
        button.addEventListener("click", () => {
          if (!place.firstChild) place.append(block(file.install, "the lines that install " + file.name));
          place.hidden = !place.hidden;
          button.setAttribute("aria-expanded", String(!place.hidden));
        });
        item.append(button, facts, place);
      } else {
        item.append(facts);
      }
      return item;
    }

    function fold(group) {
      const files = make("ul", { class: "files" });
      const details = make("details", { class: "fold" },
        make("summary", {}, counted(group.debug.length, "debug package", "debug packages")), files);
      details.addEventListener("toggle", () => {
        if (details.open && !files.firstChild) files.append(...group.debug.map(row));
      });
      return details;
    }

    function fleet(image) {
      const details = make("details", { class: "fleet" }, make("summary", {}, "Install on any model with " + image.image));
      details.append(block(image.fleet, "the lines for all models with " + image.image));
      return details;
    }

    /* Draw the next files; the first of them, for the focus. */
    function draw() {
      let drawn = 0;
      let first = null;
      while (waiting.length > 0 && (drawn < ROWS || waiting[0].kind === "fold")) {
        const piece = waiting.shift();
        if (piece.kind === "image") {
          section = make("section", {}, make("h2", {}, piece.image.image));
          if (piece.image.fleet.length > 0) section.append(fleet(piece.image));
          results.append(section);
        } else if (piece.kind === "repository") {
          const { repository, files, debug } = piece.group;
          list = make("ul", { class: "files" });
          section.append(make("section", { class: "repository" },
            make("h3", {}, repository.model,
              make("span", { class: "note" }, amount(files.length, debug.length, false) + ", published ",
                make("time", { datetime: repository.published, title: repository.published },
                  repository.published.slice(0, 10)))),
            list));
        } else if (piece.kind === "fold") {
          list.after(fold(piece.group));
        } else {
          const item = row(piece.file);
          first = first || item;
          list.append(item);
          drawn += 1;
        }
      }
      const left = waiting.filter((piece) => piece.kind === "file").length;
      more.hidden = left === 0;
      more.textContent = "show more (" + left + " left)";
      return first;
    }

    function show() {
      const found = search(data, state);
      waiting = layout(found);
      results.replaceChildren();
      draw();
      status.textContent = told(found);
      clear.disabled = writeHash(state) === "";
    }

    /* Fields say what the state is, also a model that is not among the choices (any more). */
    function fill() {
      query.value = state.q;
      debug.checked = state.debug;
      for (const name of CHOICES) {
        const choice = by(name);
        if (![...choice.options].some((option) => option.value === state[name])) {
          choice.append(make("option", { value: state[name] }, state[name] + " (none)"));
        }
        choice.value = state[name];
      }
    }

    let timer = 0;
    function changed() {
      state = { q: query.value, debug: debug.checked };
      for (const name of CHOICES) state[name] = by(name).value;
      show();
      clearTimeout(timer);
      timer = setTimeout(() => replaceHash(writeHash(state)), 250); // browsers limit how often a page may change its URL
    }

    form.addEventListener("input", changed);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => { changed(); query.focus(); }));
    more.addEventListener("click", () => {
      const first = draw();
      if (first) first.querySelector("a").focus();
    });
    addEventListener("hashchange", () => {
      state = readHash(location.hash);
      fill();
      show();
    });

    fill();
    show();
    for (const element of [form, status, results]) element.hidden = false;
    by("plain").remove();
  }

  begin(start);
})();
