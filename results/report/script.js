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

  const orderOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.order ?? cell.textContent.trim();
    return { text, number: text === "" ? NaN : Number(text) };
  };

  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, place) => ({ row, place, order: orderOf(row, column) }));
    const numeric = rows.every(({ order }) => order.text === "" || !Number.isNaN(order.number));
    rows.sort((a, b) => {
      const missing = (a.order.text === "") - (b.order.text === "");
      if (missing) return missing;
      const difference = numeric
        ? a.order.number - b.order.number
        : a.order.text.localeCompare(b.order.text, "en", { numeric: true });
      return direction * (difference || 0) || a.place - b.place;
    });
    body.append(...rows.map(({ row }) => row));
    [...table.tHead.rows[0].cells].forEach((header, place) => {
      if (place === column) header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    });
  }

  function sortable(table) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        // Numbers are looked at from the largest, words from A.
        const first = header.classList.contains("number") ? -1 : 1;
        const now = header.getAttribute("aria-sort");
        const direction = now === null ? first : now === "ascending" ? -1 : 1;
        sort(table, column, direction);
      });
    });
  }

  // ---- filtering: words that a row must hold, and the state it must have

  function applyFilter(id) {
    const table = document.getElementById(id);
    const input = document.querySelector(`input[data-filters="${id}"]`);
    const words = input ? input.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
    const pressed = document.querySelector(`button[data-of="${id}"][aria-pressed="true"]`);
    const state = pressed ? pressed.dataset.shows : "all";
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) && (state === "all" || row.dataset.state === state));
      shown += !row.hidden;
    }
    const none = document.querySelector(`[data-none="${id}"]`);
    if (none) none.hidden = shown > 0;
  }

  function filters(scope) {
    for (const input of scope.querySelectorAll("input[data-filters]"))
      input.addEventListener("input", () => applyFilter(input.dataset.filters));
    for (const button of scope.querySelectorAll("button[data-of]"))
      button.addEventListener("click", () => {
        for (const other of document.querySelectorAll(`button[data-of="${button.dataset.of}"]`))
          other.setAttribute("aria-pressed", String(other === button));
        applyFilter(button.dataset.of);
      });
  }

  // ---- copying

  function copying(scope) {
    for (const button of scope.querySelectorAll("button.copy"))
      button.addEventListener("click", async () => {
        const code = button.parentElement.querySelector("code");
        const range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);  // where a page may not write to the clipboard, Ctrl-C does
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

  // ---- a served page: ask whether the database moved, and take the new content, keeping what the reader has set

  function settings() {
    return {
      sorts: [...document.querySelectorAll("table[id] th[aria-sort]")].map((header) => [
        header.closest("table").id, header.cellIndex, header.getAttribute("aria-sort") === "ascending" ? 1 : -1,
      ]),
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
    for (const [id, column, direction] of kept.sorts) {
      const table = document.getElementById(id);
      if (table && table.tHead.rows[0].cells[column]) sort(table, column, direction);
    }
    for (const [id] of [...kept.inputs, ...kept.pressed]) if (document.getElementById(id)) applyFilter(id);
    document.querySelectorAll("details").forEach((details, place) => { details.open = Boolean(kept.open[place]); });
  }

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
    const kept = settings(), focused = document.activeElement, scroll = scrollY;
    const path = focused && document.getElementById("main").contains(focused) ? placeOf(focused) : null;
    document.getElementById("main").replaceChildren(...fresh.getElementById("main").childNodes);
    root.dataset.live = fresh.documentElement.dataset.live;
    enhance(document.getElementById("main"));
    restore(kept);
    scrollTo(0, scroll);
    if (path) elementAt(path)?.focus({ preventScroll: true });
    status.textContent = "live, updated";
  }

  const FOCUSABLE = "a, button, input, summary, [tabindex]";
  const placeOf = (element) => [...document.querySelectorAll(`#main ${FOCUSABLE.split(", ").join(", #main ")}`)].indexOf(element);
  const elementAt = (place) => document.querySelectorAll(`#main ${FOCUSABLE.split(", ").join(", #main ")}`)[place];

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

  document.addEventListener("DOMContentLoaded", () => {
    themeSwitch();
    enhance(document);
    if (root.dataset.live) live();
  });
})();
