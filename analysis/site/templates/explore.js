// The explorer: Tabulator shows the runs, Vega-Lite draws them; here is which runs, which columns and the address.
"use strict";

document.addEventListener("DOMContentLoaded", async () => {
  const { runs, ids, keys, studies, options, metrics, leftOut, ...given } = window.explored;
  const MOST_DRAWN = 5000, MOST_CHOSEN = 12, PAUSE_MS = 250;
  const at = (id) => document.getElementById(id);
  const made = (tag, properties) => Object.assign(document.createElement(tag), properties);

  // ---- columns: what a run is, its config's options and its numbers; what runs of a config share is tested once

  const spread = (column) => (column.times ? column.values.flatMap((one, n) => Array(column.times[n]).fill(one)) : column);
  const counted = ([firsts, lengths]) => firsts.flatMap((first, n) => Array.from({ length: lengths[n] }, (_, k) => first + k));
  const run = counted(ids), [config, seed, state, seconds] = ["config", "seed", "state", "seconds"].map((name) => spread(runs[name]));
  const all = run.map((_, i) => i), indexOf = new Map(run.map((id, i) => [id, i]));
  const ofRun = (values) => (i) => values[i], ofConfig = (values) => (i) => values[config[i]];
  const asked = given.asked.map((places) => places.map(([study, row]) => [studies[study], row])), placesOf = ofConfig(asked);
  const key = (i) => `${keys[config[i]]}-${seed[i]}`;
  const columns = new Map(Object.entries({ run, seed, state, seconds }).map(([name, values]) => [name, { of: ofRun, values }]));
  // A run that several studies share is called as the one does that is filtered for.
  let placeOf = [], calledBy, order = {};
  const callBy = (wanted) => {
    if (wanted === calledBy) return;
    calledBy = wanted;
    order = {};  // is of these names
    placeOf = asked.map((places) => places.find(([study]) => study === wanted) ?? places[0]);
    ["study", "row"].forEach((name, n) => columns.set(name, { of: ofConfig, values: placeOf.map((place) => place?.[n] ?? "") }));
  };
  callBy("");
  for (const [name, values] of options) if (!columns.has(name)) columns.set(name, { of: ofConfig, values: spread(values) });
  const metricOf = new Map(metrics.filter(([name]) => !columns.has(name)).map(([name, path, , words]) => [name, { path, words }]));
  const names = [...columns.keys(), ...metricOf.keys()], lost = new Set();
  const named = (name) => metricOf.get(name)?.words ?? (name === "seconds" ? "seconds of CPU or GPU" : name);  // a metric in words; a filter takes its key
  const valueOf = (name) => columns.get(name)?.of(columns.get(name).values) ?? (() => null);  // null: still on its way

  // What is not here yet comes as a script, which says its path and what it has; null where none comes.
  const asks = new Map(), told = new Map();
  window.told = (path, what) => told.set(path, what);
  const ask = (path) => asks.get(path) ?? asks.set(path, new Promise((done) => document.head.append(made("script",
    { src: `${path}.js`, onload: () => done(told.get(path) ?? null), onerror: () => done(null) })))).get(path);
  const arrive = (wanted) => Promise.all(wanted.filter((name) => !columns.has(name) && metricOf.has(name)).map(async (name) => {
    const found = await ask(metricOf.get(name).path), values = Array(run.length).fill(null), numbers = found && spread(found.values);
    if (found) counted(found.ids).forEach((id, n) => { if (indexOf.has(id)) values[indexOf.get(id)] = numbers[n]; });
    else lost.add(name);
    columns.set(name, { of: ofRun, values });
  }));

  // ---- the filter

  const CONDITION = /^([^\s=<>!]+)(>=|<=|!=|=|>|<)(.*)$/;
  const SPACED = /\s+(>=|<=|!=|=|[<>](?=\s|[-.\d]))\s*/g;  // but not "<" before a letter, with which a name may begin
  const WORDS = /(?:[^\s"]|"[^"]*")+/g;  // "random init" is one
  const parts = (text) => (text.replace(SPACED, "$1").match(WORDS) ?? []).map((part) => part.replaceAll('"', "")).map((part) => CONDITION.exec(part)?.slice(1) ?? part.toLowerCase());
  const ORDERS = { ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b };
  const test = (sign, text, number = text === "" ? NaN : Number(text)) => (Object.hasOwn(ORDERS, sign)
    ? (one) => typeof one === "number" && ORDERS[sign](one, number) : (one) => one !== null && (one === number || String(one).toLowerCase() === text.toLowerCase()) === (sign === "="));
  const methods = columns.get("method")?.values ?? [];
  const plain = (words) => String(words).toLowerCase().replace(/[-_]/g, "");  // I-JEPA is ijepa
  const configWords = asked.map((places, n) => [...places.flat(), methods[n] ?? "", keys[n]].join(" ").toLowerCase());
  const plainMethods = methods.map((method) => plain(method ?? ""));
  const PLACES = {  // what a run has in several places
    study: (wanted) => (places) => (wanted === "none" || !wanted ? !places.length : places.some(([study]) => study === wanted)),
    row: (wanted) => (places) => places.some(([, row]) => row === wanted),
  };
  const runWords = all.map((i) => `${state[i]} seed=${seed[i]} run=${run[i]} ${key(i)}`.toLowerCase());

  const inTurn = [true, false].flatMap((isAsked) => all.filter((i) => (placesOf(i).length > 0) === isAsked));  // of no study last

  function matching(text) {
    let wrong = "";
    const tests = parts(text).map((part) => {
      if (typeof part === "string") {
        const isOfConfig = ofConfig(configWords.map((words, n) => words.includes(part) || plainMethods[n] === plain(part)));
        return (i) => isOfConfig(i) || runWords[i].includes(part);
      }
      const [name, sign, wanted] = part;
      if (Object.hasOwn(PLACES, name) && ["=", "!="].includes(sign))
        return ofConfig(asked.map(PLACES[name](wanted)).map((isMet) => isMet === (sign === "=")));
      if (!columns.has(name)) { wrong = `No run has an option or number called ${name}.`; return () => false; }
      if (Object.hasOwn(ORDERS, sign) && (wanted === "" || Number.isNaN(Number(wanted)))) wrong = `${name}${sign}${wanted}: “${wanted}” is no number.`;
      return columns.get(name).of(columns.get(name).values.map(test(sign, wanted)));
    });
    return { found: inTurn.filter((i) => tests.every((isMet) => isMet(i))), wrong };
  }

  // ---- what the reader has set, which the address keeps

  const kept = new URLSearchParams(location.hash.slice(1));
  const commonest = (word) => metrics.filter(([name]) => name.includes(word)).sort((a, b) => b[2] - a[2])[0]?.[0];
  const set = { filter: "", x: "seconds", y: commonest("top1") ?? commonest("") ?? "seconds", color: "study", metric: "loss",
    log: "", sort: "" };
  const SET = Object.keys(set), wanted = kept.get("runs")?.split(",") ?? [];
  for (const name of SET) set[name] = kept.get(name) ?? set[name];
  for (const name of ["x", "y", "color"]) if (!names.includes(set[name])) set[name] = "seed";
  set.chosen = wanted.flatMap((one) => all.findLast((i) => key(i) === one) ?? []).slice(0, MOST_CHOSEN);  // the newer code's run

  function remember() {
    const address = new URLSearchParams(SET.filter((name) => set[name]).map((name) => [name, set[name]]));
    if (set.chosen.length) address.set("runs", set.chosen.map(key).join(","));
    history.replaceState(null, "", `#${address}`);
  }

  // ---- drawings

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  function style() {
    const words = { labelColor: color("ink"), titleColor: color("ink"), labelFontSize: 12, titleFontSize: 12 };
    return { background: null, font: "system-ui, sans-serif", view: { stroke: null }, legend: { ...words, labelLimit: 320, symbolLimit: 20 },
      axis: { ...words, titleFontWeight: "normal", gridColor: color("line-faint"), domainColor: color("line"), tickColor: color("line") },
      range: { category: Array.from({ length: 8 }, (_, i) => color(`series-${i}`)) } };
  }
  // `ast`: expressions are read by an interpreter, so that the page needs no leave to run text as a program.
  const draw = (id, spec) => vegaEmbed(`#${id}`, { $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    width: "container", height: 320, autosize: { type: "fit", contains: "padding" }, config: style(), ...spec },
    { ast: true, actions: false, renderer: "canvas" });
  const paged = window.pages && new Set(window.pages.runs);  // of a server every run has a page
  const isWhole = paged && studies.every((study) => window.pages.studies.includes(study));
  if (paged && !isWhole) at("unlinked")?.removeAttribute("hidden");
  const free = all.filter((i) => (isWhole ? !paged.has(key(i)) : !placesOf(i).length)).length;
  if (free) at("of-no-study").textContent = `${free} of the runs no study of today asks for${isWhole ? ", so that they have no page" : ""}: study=none finds them`
    + `${isWhole ? ", but for other seeds of what one asks for" : ""}.`;
  const pathTo = (i) => (paged && !paged.has(key(i)) ? "" : `runs/${key(i)}.html${placeOf[config[i]] ? `#of-${placeOf[config[i]][0]}` : ""}`);
  const link = (i, textContent) => (pathTo(i) ? made("a", { href: pathTo(i), textContent }) : made("span", { textContent }));
  const label = (i) => `${placeOf[config[i]]?.filter(Boolean).join(": ") ?? key(i)}, seed ${seed[i]}`;

  // Eight colours can be told apart: the commonest seven values have one each, all others the last.
  function hues(shown, words) {
    const groups = [...Map.groupBy(shown, words)].sort(([a, one], [b, two]) => two.length - one.length || (a < b ? -1 : 1));
    const found = groups.map(([word]) => word);
    const own = found.length > 8 ? found.slice(0, 7) : found, others = `${found.length - own.length} others`;
    return { of: (i) => (own.includes(words(i)) ? words(i) : others), scale: { domain: own.length < found.length ? [...own, others] : own } };
  }

  function scatter() {
    const [x, y, said] = [set.x, set.y, set.color].map(valueOf), full = view.found.filter((i) => x(i) !== null && y(i) !== null);
    const shown = full.slice(0, MOST_DRAWN);
    at("scatter-note").textContent = full.length > shown.length
      ? `The first ${shown.length} of ${full.length} runs that have both.` : `${full.length} runs have both.`;
    if (!shown.length) return at("scatter").replaceChildren();
    const isNumber = (of) => shown.every((i) => typeof (of(i) ?? 0) === "number");
    // Fields have names of ours: a metric's own may hold what Vega-Lite reads as a path.
    const channel = (field, of, scale, more) => ({ field, title: named(set[field]), type: isNumber(of) ? "quantitative" : "nominal",
      scale: isNumber(of) ? scale : {}, ...more });
    const linear = { zero: false, nice: false, padding: 12 }, ways = [...(isNumber(x) ? ["x"] : []), ...(isNumber(y) ? ["y"] : [])];
    const words = (i) => String(said(i) ?? "") || "none";  // a run that no study of today asks for
    const hue = isNumber(said) ? { of: said, scale: {} } : hues(shown, words);
    const legend = innerWidth < 600 ? { orient: "bottom", columns: 2, labelLimit: 140 } : {};
    return draw("scatter", { mark: { type: "point", filled: true, size: 45, opacity: 0.75 },
      params: ways.length ? [{ name: "zoom", select: { type: "interval", encodings: ways }, bind: "scales" }] : [],
      data: { values: shown.map((i) => ({ x: x(i), y: y(i), color: hue.of(i), said: words(i), run: label(i), href: pathTo(i) })) },
      encoding: { x: channel("x", x, linear), y: channel("y", y, linear), color: channel("color", said, {}, { scale: hue.scale, legend }),
        href: { field: "href" }, tooltip: [{ field: "run" }, ...["x", "y", "color"].map((way) =>
          ({ field: way === "color" ? "said" : way, title: named(set[way]) }))] } });
  }

  const fill = (select, found, chosen) => select.replaceChildren(...found.map((name) =>
    Object.assign(new Option(named(name), name, false, name === chosen), { title: name })));

  function curves(chosen, found) {
    const known = [...new Set(found.flatMap((lines) => Object.keys(lines ?? {})))].sort();
    if (known.length && !known.includes(set.metric)) set.metric = known.find((name) => name.includes("loss")) ?? known[0];
    fill(at("metric"), known, set.metric);
    document.querySelectorAll(".of-chosen").forEach((one) => { one.hidden = !known.length; });
    const lines = found.map((one) => one?.[set.metric]), without = chosen.filter((_, n) => !lines[n]).map(label);
    const points = lines.flatMap((line, n) =>
      line?.steps.map((step, k) => ({ step, value: line.values[k], run: label(chosen[n]) })) ?? []);
    at("curves-note").textContent = !chosen.length ? "No run is chosen."
      : without.length ? `Without such a curve here: ${without.join("; ")}.` : "";
    at("curves").replaceChildren();
    if (!points.length) return undefined;
    const hover = { name: "hover", select: { type: "point", on: "pointerover", nearest: true, clear: "pointerout" } };
    const isLog = at("log").checked && points.every((point) => point.value > 0);
    const y = { field: "value", type: "quantitative", title: named(set.metric), scale: isLog ? { type: "log" } : { zero: false } };
    return draw("curves", { data: { values: points },
      encoding: { x: { field: "step", type: "quantitative" }, y, color: { field: "run", type: "nominal", sort: null } },
      layer: [
        { mark: { type: "line", interpolate: "linear" }, params: [{ name: "zoom", select: "interval", bind: "scales" }] },
        { mark: { type: "point", filled: true, size: 60 }, params: [hover],
          encoding: { opacity: { condition: { param: "hover", empty: false, value: 1 }, value: 0 },
            tooltip: [{ field: "run" }, { field: "step" }, { field: "value", title: named(set.metric) }] } },
      ] });
  }

  function compare(chosen, numbers) {
    at("compare-note").hidden = chosen.length > 0;
    const cell = (tag, textContent, more) => made(tag, { textContent, ...more });
    const table = made("table"), head = table.createTHead().insertRow(), body = table.createTBody();
    head.append(...[null, ...chosen].map(() => cell("th", "", { scope: "col" })));
    chosen.forEach((i, n) => head.cells[n + 1].append(link(i, label(i))));
    const cellsOf = (name) => chosen.map((i, n) => (metricOf.has(name) && numbers[n] ? numbers[n].get(name) ?? null : valueOf(name)(i)));
    const differing = options.map(([name]) => name).filter((name) => new Set(cellsOf(name)).size > 1);
    const measured = [...metricOf.keys()].filter((name) => cellsOf(name).some((one) => one !== null));
    for (const name of ["state", "seconds", ...differing, ...measured])
      body.insertRow().append(cell("th", named(name), { scope: "row", title: name }), ...cellsOf(name).map((one) =>
        cell("td", String(one ?? "–"), { className: differing.includes(name) ? "differs" : "" })));
    at("compare").replaceChildren(...(chosen.length ? [table] : []));
  }

  async function choose() {
    remember();
    const chosen = [...set.chosen], found = await Promise.all(chosen.map((i) => ask(`curves/${key(i)}`)));
    if (found.includes(null)) await arrive([...metricOf.keys()]);  // where there are too many runs for a script each
    if (String(chosen) !== String(set.chosen)) return;  // the reader has gone on
    compare(chosen, found.map((one) => one && new Map(one.numbers)));
    await curves(chosen, found.map((one) => one?.curves));
  }

  // ---- the table, which asks for a page of rows as it would ask a server

  const sorting = () => /^(.*):(asc|desc)$/.exec(set.sort)?.slice(1) ?? [];
  const collator = new Intl.Collator("en", { numeric: true });
  let view, turn = 0, waiting;
  function inOrder(found) {
    const [name, way] = sorting();
    if (!name) return found;
    if (order.sort !== set.sort) {  // the places of the values, found once: words take longer to sort than runs to filter
      const { of, values } = columns.get(name), known = [...new Set(values)].filter((one) => one !== null && one !== "");
      known.sort(known.every((one) => typeof one === "number") ? (a, b) => a - b : collator.compare);
      const ranks = new Map((way === "desc" ? known.reverse() : known).map((one, n) => [one, n]));
      order = { sort: set.sort, rank: of(values.map((one) => ranks.get(one) ?? known.length)) };  // what is missing is last
    }
    return [...found].sort((i, j) => order.rank(i) - order.rank(j));
  }

  const asText = (words) => (cell) => document.createTextNode(words(cell.getValue()) ?? "–");  // a formatter's text would be markup
  const linked = (cell) => link(cell.getData().id, cell.getValue() || key(cell.getData().id));
  const short = (one) => (typeof one === "number" ? String(Number(one.toPrecision(4))) : one);
  const SHAPES = { study: { widthGrow: 2, minWidth: 170 }, row: { formatter: linked, widthGrow: 2, minWidth: 130 }, state: {} };
  const shown = () => [...new Set(["study", "row", "seed", "state", set.x, set.y, set.color, "seconds"])];
  const columnsOf = () => shown().map((name, n) => ({ title: named(name), field: `c${n}`, minWidth: metricOf.has(name) ? 120 : 90, titleFormatter: asText(String),
    headerTooltip: () => made("span", { textContent: name }), ...(SHAPES[name] ?? { hozAlign: "right", formatter: asText(short) }) }));
  const sorters = () => shown().flatMap((name, n) => (name === sorting()[0] ? [{ column: `c${n}`, dir: sorting()[1] }] : []));
  async function pageOf(_url, _config, { page, size, sort: [sorter] }) {
    set.sort = sorter ? `${shown()[Number(sorter.field.slice(1))]}:${sorter.dir}` : "";
    remember();
    const cells = shown().map((name, n) => [`c${n}`, valueOf(name)]), { length } = view.found;
    const data = inOrder(view.found).slice((page - 1) * size, page * size)
      .map((id) => Object.fromEntries([["id", id], ...cells.map(([field, of]) => [field, of(id)])]));
    return { data, last_page: Math.max(1, Math.ceil(length / size)), last_row: length };
  }

  async function answer() {
    const mine = turn += 1;
    await arrive([set.x, set.y, set.color, ...parts(set.filter).filter(Array.isArray).map(([name]) => name)]);
    if (mine !== turn) return false;  // the reader has gone on
    callBy(parts(set.filter).find((part) => Array.isArray(part) && part[0] === "study" && part[1] === "=")?.[2] ?? "");
    view = matching(set.filter);
    at("count").textContent = (view.wrong ? view.wrong
      : `${view.found.length} of ${run.length} runs${leftOut ? `; the ${leftOut} oldest are left out of this page` : ""}.`)
      + (lost.size ? ` Reload the page: the numbers of ${[...lost].join(", ")} did not come.` : "");
    remember();
    clearTimeout(waiting);
    waiting = setTimeout(scatter, PAUSE_MS);  // once the reader rests: a drawing takes longer than a filter
    return true;
  }

  const filter = async () => { if (await answer()) table.setData(); };
  const change = async () => { if (await answer()) { table.setColumns(columnsOf()); table.setSort(sorters()); } };
  for (const name of ["x", "y", "color"]) fill(at(name), names, set[name]);
  at("filter").value = set.filter;
  at("log").checked = set.log === "yes";
  await answer();
  const table = new Tabulator("#runs-table", {
    index: "id", layout: "fitColumns", height: 380, selectableRows: MOST_CHOSEN, columns: columnsOf(), placeholder: "No run matches.",
    rowHeader: { formatter: "rowSelection", headerSort: false, width: 40, hozAlign: "center" }, dataLoader: false,
    pagination: true, paginationMode: "remote", paginationSize: 100, sortMode: "remote", initialSort: sorters(),
    ajaxURL: location.pathname, ajaxRequestFunc: pageOf,
  });
  table.on("dataProcessed", () => table.selectRow(table.getRows().filter((row) => set.chosen.includes(row.getData().id))));
  table.on("rowSelectionChanged", (_data, rows, ...changed) => {  // in this page of rows; what is chosen elsewhere stays
    const [more, fewer] = changed.map((found) => found.map((row) => row.getData().id));
    const chosen = [...new Set([...set.chosen.filter((i) => !fewer.includes(i)), ...more])].slice(-MOST_CHOSEN);
    if (String(chosen) === String(set.chosen)) return;
    set.chosen = chosen;
    for (const row of rows) if (!chosen.includes(row.getData().id)) row.deselect();
    choose();
  });
  for (const [id, act] of Object.entries({ filter, x: change, y: change, color: change, metric: choose, log: choose }))
    at(id).addEventListener(id === "filter" ? "input" : "change", () => {
      set[id] = id !== "log" ? at(id).value : at(id).checked ? "yes" : "";
      act();
    });
  document.querySelector("button.theme").addEventListener("click", () => { scatter(); choose(); });
  table.on("tableBuilt", async () => { await choose(); document.documentElement.dataset.explorer = "ready"; });
});
