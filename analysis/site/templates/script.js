// Theme, sorting, filtering, copying and, on a served page, refreshing. Pages read the same without it.
"use strict";

(function () {
  const root = document.documentElement;
  const remembered = (() => {
    try { return localStorage.getItem("theme"); } catch { return null; }  // storage may be forbidden
  })();
  if (remembered === "dark" || remembered === "light") root.dataset.theme = remembered;

  const isDark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

  function themeSwitch() {
    const button = document.querySelector("button.theme");
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* only this page remembers then */ }
      show();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
    show();
  }

  // ---- sorting: a button in every header; numbers by value, words by language, what is missing last

  const orderOf = (cell) => cell.dataset.order ?? cell.textContent.trim();

  // Tables that are parts of one are sorted as one; any other by its place has a name too.
  const nameOf = (table) => table.dataset.sorts || table.id || `table-${[...document.querySelectorAll("table")].indexOf(table)}`;
  const sorted = (name, column, direction) => {
    for (const table of document.querySelectorAll("table[data-sortable]"))
      if (nameOf(table) === name && table.tHead.rows[0].cells[column]) sort(table, column, direction);
  };

  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const orders = new Map([...body.rows].map((row) => [row, orderOf(row.cells[column])]));
    const areNumbers = [...orders.values()].every((text) => !Number.isNaN(Number(text)));  // "" is 0
    body.append(...[...body.rows].sort((one, other) => {  // equal rows stay in their order
      const [a, b] = [orders.get(one), orders.get(other)];
      return (a === "") - (b === "")
        || direction * (areNumbers ? a - b : a.localeCompare(b, "en", { numeric: true }));
    }));
    [...table.tHead.rows[0].cells].forEach((header, place) => {
      if (place === column) header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    });
  }

  function sortable(table) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      if (header.dataset.still !== undefined) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        // Numbers are looked at from the largest, words from A.
        const first = header.classList.contains("number") ? -1 : 1;
        const now = header.getAttribute("aria-sort");
        const direction = now === null ? first : now === "ascending" ? -1 : 1;
        sorted(nameOf(table), column, direction);
        remember();
      });
    });
  }

  // ---- filtering: words that a row must hold, and the state it must have

  function applyFilter(id) {
    const rows = document.querySelectorAll(`#${id} tbody tr`);
    const input = document.querySelector(`input[data-filters="${id}"]`);
    const words = input ? input.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
    const pressed = document.querySelector(`button[data-of="${id}"][aria-pressed="true"]`);
    const state = pressed ? pressed.dataset.shows : "all";
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) && (state === "all" || row.dataset.state === state));
      shown += !row.hidden;
    }
    for (const group of document.querySelectorAll(`details[data-in="${id}"]`)) {
      // What is looked for is shown: a folded group opens while a filter holds.
      group.hidden = !group.querySelector("tbody tr:not([hidden])");
      group.dataset.wasOpen ??= String(group.open);
      group.open = words.length > 0 || state !== "all" || group.dataset.wasOpen === "true";
    }
    const none = document.querySelector(`[data-none="${id}"]`);
    if (none) none.hidden = shown > 0;
  }

  function filters(scope) {
    for (const input of scope.querySelectorAll("input[data-filters]"))
      input.addEventListener("input", () => { applyFilter(input.dataset.filters); remember(); });
    for (const button of scope.querySelectorAll("button[data-of]"))
      button.addEventListener("click", () => {
        for (const other of document.querySelectorAll(`button[data-of="${button.dataset.of}"]`))
          other.setAttribute("aria-pressed", String(other === button));
        applyFilter(button.dataset.of);
        remember();
      });
  }

  // ---- copying

  function copying(scope) {
    for (const button of scope.querySelectorAll("button.copy"))
      button.addEventListener("click", async () => {
        const code = button.parentElement.querySelector("code");
        getSelection().selectAllChildren(code);  // where a page may not write to the clipboard, Ctrl-C does
        let done = false;
        try { await navigator.clipboard.writeText(code.textContent); done = true; } catch { /* selected, not copied */ }
        button.textContent = done ? "Copied" : "Selected";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
  }

  function enhance(scope) {
    for (const table of scope.querySelectorAll("table[data-sortable]")) sortable(table);
    filters(scope);
    copying(scope);
  }

  // ---- what the reader has set: the address keeps it, so that a link and the way back from another page show it

  function settings() {
    const sorts = new Map([...document.querySelectorAll("table[data-sortable] th[aria-sort]")].map((header) => [
      nameOf(header.closest("table")), [header.cellIndex, header.getAttribute("aria-sort") === "ascending" ? 1 : -1],
    ]));
    return {
      sorts: [...sorts].map(([name, [column, direction]]) => [name, column, direction]),
      inputs: [...document.querySelectorAll("input[data-filters]")].map((input) => [input.dataset.filters, input.value]),
      pressed: [...document.querySelectorAll('button[data-of][aria-pressed="true"]')].map((button) => [
        button.dataset.of, button.dataset.shows,
      ]),
      open: [...document.querySelectorAll("details")].map((details) => details.open),
    };
  }

  function restore(kept) {
    for (const [id, value] of kept.inputs) {
      const input = document.querySelector(`input[data-filters="${CSS.escape(id)}"]`);
      if (input) input.value = value;
    }
    for (const [id, state] of kept.pressed)
      for (const button of document.querySelectorAll(`button[data-of="${CSS.escape(id)}"]`))
        button.setAttribute("aria-pressed", String(button.dataset.shows === state));
    for (const [name, column, direction] of kept.sorts) sorted(name, column, direction);
    for (const [id] of [...kept.inputs, ...kept.pressed]) if (document.getElementById(id)) applyFilter(id);
    if (kept.open)
      document.querySelectorAll("details").forEach((details, place) => { details.open = Boolean(kept.open[place]); });
  }

  const KINDS = { words: "inputs", shows: "pressed", sort: "sorts" };

  function remember() {
    // The explorer keeps its own; "#of-" says from which study a reader came to a run.
    if (document.querySelector("div[data-still]") || location.hash.startsWith("#of-")) return;
    const kept = settings(), address = new URLSearchParams();
    for (const [word, kind] of Object.entries(KINDS))
      for (const [name, ...values] of kept[kind])
        if (values[0] !== "" && values[0] !== "all") address.set(`${word}.${name}`, values.join(","));
    if (String(address) || location.hash) history.replaceState(null, "", `#${address}`);
  }

  function recall() {
    const kept = { inputs: [], pressed: [], sorts: [] };
    for (const [key, text] of new URLSearchParams(location.hash.slice(1))) {
      const [word, name] = [key.slice(0, key.indexOf(".")), key.slice(key.indexOf(".") + 1)];
      if (Object.hasOwn(KINDS, word)) kept[KINDS[word]].push(word === "sort" ? [name, ...text.split(",").map(Number)] : [name, text]);
    }
    restore(kept);
  }

  // ---- a served page: ask whether the database moved, and take the new content, keeping what the reader has set

  async function refresh(status) {
    const answer = await fetch("/state.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    const state = await answer.json();
    status.textContent = "live";
    status.classList.remove("away");
    if (state.token === root.dataset.live) return;
    const page = await fetch(location.href, { cache: "no-store" });
    if (!page.ok) throw new Error(String(page.status));
    const fresh = new DOMParser().parseFromString(await page.text(), "text/html");
    // A reader who is typing is not interrupted; the next round brings the page.
    if (document.activeElement instanceof HTMLInputElement && document.activeElement.value) return;
    const kept = settings(), focused = focusable().indexOf(document.activeElement), scroll = scrollY;
    document.getElementById("main").replaceChildren(...fresh.getElementById("main").childNodes);
    root.dataset.live = fresh.documentElement.dataset.live;
    enhance(document.getElementById("main"));
    restore(kept);
    scrollTo(0, scroll);
    focusable()[focused]?.focus({ preventScroll: true });
    status.textContent = "live, updated";
  }

  const focusable = () => [...document.querySelectorAll("#main :is(a, button, input, summary, [tabindex])")];

  function live() {
    const status = document.querySelector("p.live");
    const again = async () => {
      try { await refresh(status); } catch {
        status.textContent = "not connected";
        status.classList.add("away");
      }
      setTimeout(again, 2000);
    };
    again();
  }

  // ---- a folder may hold the pages of some studies and runs only, which pages.js lists; a link to another is words

  function unlink() {
    const here = Object.entries(window.pages ?? {}).map(([folder, names]) => [folder, new Set(names)]);
    for (const [folder, names] of here)
      for (const link of document.querySelectorAll(`main a[href*="${folder}/"], nav a[href*="${folder}/"]`)) {
        const told = link.getAttribute("href").match(`^(?:\\.\\./)?${folder}/([^#]+)\\.html`);
        if (!told || names.has(decodeURIComponent(told[1]))) continue;
        const words = document.createElement("span");
        words.append(...link.childNodes);
        link.replaceWith(words);
        document.querySelector("#unlinked")?.removeAttribute("hidden");
      }
  }

  document.addEventListener("DOMContentLoaded", () => {
    themeSwitch();
    unlink();
    enhance(document);
    recall();
    if (root.dataset.live && !document.querySelector("div[data-still]")) live();
  });
})();
