/* What the scripts of all pages share. The upper half is pure: node's tests load it without a document. */
const Shared = (function () {
  "use strict";

  const DIGEST = /^[0-9a-f]{6,64}$/;

  /* The words of a query, in small letters; a digest may have its algorithm before it. */
  function words(query) {
    return query
      .toLowerCase()
      .split(/\s+/)
      .map((word) => word.replace(/^sha256[:=]/, ""))
      .filter((word) => word !== "");
  }

  /* Whether all words are in a text, or begin one of some digests. */
  function matches(wanted, text, digests) {
    return wanted.every(
      (word) => text.includes(word) || (DIGEST.test(word) && digests.some((digest) => digest.startsWith(word))),
    );
  }

  /* A link to a file, relative to the page. */
  function link(path) {
    return path.split("/").map(encodeURIComponent).join("/");
  }

  function counted(number, one, many) {
    return number + " " + (number === 1 ? one : many);
  }

  /* An element with attributes; children that are strings become text, never markup. */
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /* The button says for a moment what came of it, and so does the status for those who do not see it. */
  function answer(button, said, status, sentence) {
    const before = button.dataset.before || button.textContent;
    button.dataset.before = before;
    button.textContent = said;
    status.textContent = sentence;
    clearTimeout(Number(button.dataset.timer));
    button.dataset.timer = String(setTimeout(() => { button.textContent = before; }, 2500));
  }

  /* Without the clipboard's interface, which only secure pages have, the text is selected for the person to copy. */
  function copy(button, node, text, status) {
    function select() {
      if (node.textContent !== text) node.textContent = text; // a digest is shown in part
      const range = document.createRange();
      range.selectNodeContents(node);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      let copied = false;
      try {
        copied = document.execCommand("copy");
      } catch (error) {
        copied = false;
      }
      if (copied) answer(button, "copied", status, "Copied.");
      else answer(button, "selected", status, "Selected: press Ctrl+C.");
    }
    if (navigator.clipboard && navigator.clipboard.writeText) {
      navigator.clipboard.writeText(text).then(() => answer(button, "copied", status, "Copied."), select);
    } else {
      select();
    }
  }

  /* A button that copies a text, which `node` shows. */
  function copyButton(node, text, what, status) {
    const button = make("button", { type: "button", class: "copy", "aria-label": "Copy " + what }, "copy");
    button.addEventListener("click", () => copy(button, node, text, status));
    return button;
  }

  /* Change the hash of the page's URL without a step of the history. */
  function replaceHash(hash) {
    try {
      history.replaceState(null, "", hash || location.pathname + location.search);
    } catch (error) {
      // A browser that allows no (or no more) changes of its history: the page works all the same.
    }
  }

  /*
   * Start a page when its elements are there. What is there for readers without a script is hidden before it is drawn,
   * and comes back if anything fails. The link that skips to the content leaves the hash alone, which has the state.
   */
  function begin(start) {
    const root = document.documentElement;
    root.classList.add("scripted", "starting");
    document.addEventListener("DOMContentLoaded", () => {
      try {
        start();
      } catch (error) {
        root.classList.remove("scripted");
        throw error;
      } finally {
        root.classList.remove("starting");
      }
      document.querySelector(".skip").addEventListener("click", (event) => {
        event.preventDefault();
        document.getElementById("content").focus();
      });
    });
  }

  return { words, matches, link, counted, make, copyButton, replaceHash, begin };
})();

if (typeof module === "object" && module.exports) module.exports = Shared;
