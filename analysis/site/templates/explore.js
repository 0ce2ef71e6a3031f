// The explorer: Tabulator shows the runs, Vega-Lite draws them; here is which runs, which columns and the address.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const { runs, options, metrics, words: said, leftOut } = window.explored;
  const MOST_DRAWN = 5000, MOST_CHOSEN = 12, count = runs.run.length;
  const at = (id) => document.getElementById(id);
  const made = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const places = runs.config.map((config) => runs.asked[config]);
  const words = places.map((asked, i) =>
    [...asked.flat(), runs.state[i], `seed=${runs.seed[i]}`, `run=${runs.run[i]}`, runs.key[i]].join(" ").toLowerCase());

  // ---- columns: what a run is, its config's options, its numbers

  const OWN = { run: runs.run, seed: runs.seed, state: runs.state, seconds: runs.seconds,
    study: places.map((asked) => asked[0]?.[0] ?? ""), row: places.map((asked) => asked[0]?.[1] ?? "") };
  const has = Object.hasOwn;
  const names = [...Object.keys(OWN), ...Object.keys(options), ...Object.keys(metrics)];
  const named = (name) => (has(said, name) ? said[name] : name);  // a metric in words; a filter takes its key
  const isColumn = (name) => has(OWN, name) || has(options, name) || has(metrics, name);
  const value = (name, i) =>
    has(OWN, name) ? OWN[name][i] : has(options, name) ? options[name][runs.config[i]] : metrics[name][i];

  // ---- the filter

  const CONDITION = /^([^\s=<>!]+)(>=|<=|!=|=|>|<)(.*)$/;
  const TESTS = {
    "=": (a, b) => (Number.isFinite(b.number) && typeof a === "number" ? a === b.number : String(a) === b.text),
    "!=": (a, b) => !TESTS["="](a, b),
    ">": (a, b) => typeof a === "number" && a > b.number, "<": (a, b) => typeof a === "number" && a < b.number,
    ">=": (a, b) => typeof a === "number" && a >= b.number, "<=": (a, b) => typeof a === "number" && a <= b.number,
  };

  function matching(text) {
    let unknown = "";
    const tests = text.split(/\s+/).filter(Boolean).map((part) => {
      const found = CONDITION.exec(part);
      if (!found) {
        const word = part.toLowerCase();
        return (i) => words[i].includes(word);
      }
      if (found[1] === "study" && found[2] === "=") return (i) => places[i].some(([study]) => study === found[3]);
      if (!isColumn(found[1])) { unknown = found[1]; return () => false; }
      const wanted = { text: found[3], number: found[3] === "" ? NaN : Number(found[3]) };
      return (i) => TESTS[found[2]](value(found[1], i), wanted);
    });
    const ids = [];
    for (let i = 0; i < count; i += 1) if (tests.every((test) => test(i))) ids.push(i);
    return { ids, unknown };
  }

  // ---- what the reader has set, which the address keeps

  const kept = new URLSearchParams(location.hash.slice(1));
  const most = (columns) => Object.keys(columns)
    .map((name) => [columns[name].filter((one) => one !== null).length, name])
    .sort((a, b) => b[0] - a[0] || (a[1] < b[1] ? -1 : 1))[0]?.[1];
  const top1 = Object.fromEntries(Object.entries(metrics).filter(([name]) => name.includes("top1")));
  const byKey = new Map(runs.key.map((key, i) => [key, i]));
  const set = {
    filter: kept.get("filter") ?? "", x: kept.get("x") ?? "seconds",
    y: kept.get("y") ?? most(top1) ?? most(metrics) ?? "seconds", color: kept.get("color") ?? "study",
    metric: kept.get("metric") ?? "loss", log: kept.get("log") ?? "", sort: kept.get("sort") ?? "",
    chosen: (kept.get("runs") ?? "").split(",").filter((key) => byKey.has(key)).map((key) => byKey.get(key)),
  };
  for (const name of ["x", "y", "color"]) if (!isColumn(set[name])) set[name] = "seed";

  function remember() {
    const address = new URLSearchParams();
    for (const name of ["filter", "x", "y", "color", "metric", "log", "sort"]) if (set[name]) address.set(name, set[name]);
    if (set.chosen.length) address.set("runs", set.chosen.map((i) => runs.key[i]).join(","));
    history.replaceState(null, "", `#${address}`);
  }

  // ---- drawings

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const style = () => ({
    background: null, font: "system-ui, sans-serif", view: { stroke: null },
    axis: { labelColor: color("ink"), titleColor: color("ink"), gridColor: color("line-faint"), domainColor: color("line"),
      tickColor: color("line"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    legend: { labelColor: color("ink"), titleColor: color("ink"), labelFontSize: 12, labelLimit: 320, symbolLimit: 20 },
    range: { category: Array.from({ length: 8 }, (_, i) => color(`series-${i}`)) },
  });
  // `ast`: expressions are read by an interpreter, so that the page needs no leave to run text as a program.
  const draw = (id, spec) => vegaEmbed(`#${id}`, { $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    width: "container", height: 320, autosize: { type: "fit", contains: "padding" }, config: style(), ...spec },
    { ast: true, actions: false, renderer: "canvas" });
  const pathTo = (i) => `runs/${runs.key[i]}.html${places[i].length ? `#of-${places[i][0][0]}` : ""}`;
  const label = (i) => `${places[i].length ? places[i][0].filter(Boolean).join(": ") : runs.key[i]}, seed ${runs.seed[i]}`;
  const kind = (name, ids) => (ids.every((i) => typeof (value(name, i) ?? 0) === "number") ? "quantitative" : "nominal");

  // Eight colours can be told apart: the commonest seven values have one each, all others the last.
  function hues(values, isNumber) {
    if (isNumber) return { of: (one) => one, names: [] };
    const counts = new Map();
    for (const one of values) counts.set(String(one), (counts.get(String(one)) ?? 0) + 1);
    const all = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || (a < b ? -1 : 1));
    const own = all.length > 8 ? all.slice(0, 7) : all, others = `${all.length - own.length} others`;
    return { of: (one) => (own.includes(String(one)) ? String(one) : others), names: own.length < all.length ? [...own, others] : own };
  }

  function scatter(ids) {
    const full = ids.filter((i) => value(set.x, i) !== null && value(set.y, i) !== null);
    const shown = full.slice(0, MOST_DRAWN);
    at("scatter-note").textContent = full.length > shown.length
      ? `The first ${shown.length} of ${full.length} runs that have both.` : `${full.length} runs have both.`;
    if (!shown.length) return at("scatter").replaceChildren();
    const axis = (name) => (kind(name, shown) === "quantitative"
      ? { type: "quantitative", scale: { zero: false, nice: false, padding: 12 } } : { type: "nominal" });
    const encodings = ["x", "y"].filter((way) => kind(set[way], shown) === "quantitative");
    // Fields have names of ours: a metric's own may hold what Vega-Lite reads as a path.
    const isNumber = kind(set.color, shown) === "quantitative";
    const orNone = (one) => (one === null || one === "" ? "none" : one);  // a run that no study of today asks for
    const said = shown.map((i) => orNone(value(set.color, i)));
    const hue = hues(said, isNumber);
    const points = shown.map((i, n) => ({ x: value(set.x, i), y: value(set.y, i), color: hue.of(said[n]), said: said[n],
      run: label(i), href: pathTo(i) }));
    return draw("scatter", { data: { values: points }, mark: { type: "point", filled: true, size: 45, opacity: 0.75 },
      params: encodings.length ? [{ name: "zoom", select: { type: "interval", encodings }, bind: "scales" }] : [],
      encoding: {
        x: { ...axis(set.x), field: "x", title: named(set.x) }, y: { ...axis(set.y), field: "y", title: named(set.y) },
        color: { field: "color", type: isNumber ? "quantitative" : "nominal", title: named(set.color),
          legend: innerWidth < 600 ? { orient: "bottom", columns: 2, labelLimit: 140 } : {},
          ...(isNumber ? {} : { scale: { domain: hue.names } }) },
        href: { field: "href" },
        tooltip: [{ field: "run", title: "run" }, { field: "x", title: named(set.x) }, { field: "y", title: named(set.y) },
          { field: "said", title: named(set.color) }],
      } });
  }

  const loaded = new Map();  // key -> promise of a run's curves
  const arrived = new Map();
  window.curves = (key, lines) => arrived.set(key, lines);
  function curvesOf(key) {
    if (!loaded.has(key)) loaded.set(key, new Promise((done) => {
      // Where there are too many runs for a file each it fails, which is said below.
      document.head.append(made("script", { src: `curves/${key}.js`, onload: () => done(arrived.get(key)), onerror: () => done(null) }));
    }));
    return loaded.get(key);
  }

  function fill(select, found, chosen) {
    select.replaceChildren(...found.map((name) =>
      Object.assign(new Option(named(name), name, false, name === chosen), { title: name })));
  }

  async function curves() {
    const chosen = [...set.chosen], found = await Promise.all(chosen.map((i) => curvesOf(runs.key[i])));
    if (String(chosen) !== String(set.chosen)) return;  // the reader has gone on
    const known = [...new Set(found.flatMap((lines) => Object.keys(lines ?? {})))].sort();
    if (known.length && !known.includes(set.metric)) set.metric = known.find((name) => name.includes("loss")) ?? known[0];
    fill(at("metric"), known, set.metric);
    document.querySelectorAll(".of-chosen").forEach((one) => { one.hidden = !known.length; });
    const points = found.flatMap((lines, n) => {
      const line = lines?.[set.metric];
      return line ? line.steps.map((step, k) => ({ step, value: line.values[k], run: label(chosen[n]) })) : [];
    });
    const without = chosen.filter((_, n) => !found[n]?.[set.metric]).map(label);
    at("curves-note").textContent = !chosen.length ? "No run is chosen."
      : without.length ? `Without such a curve here: ${without.join("; ")}.` : "";
    at("curves").replaceChildren();
    if (!points.length) return;
    const hover = { name: "hover", select: { type: "point", on: "pointerover", nearest: true, clear: "pointerout" } };
    const isLog = at("log").checked && points.every((point) => point.value > 0);
    const y = { field: "value", type: "quantitative", title: named(set.metric), scale: isLog ? { type: "log" } : { zero: false } };
    await draw("curves", { data: { values: points },
      encoding: { x: { field: "step", type: "quantitative" }, y, color: { field: "run", type: "nominal", sort: null } },
      layer: [
        { mark: { type: "line", interpolate: "linear" }, params: [{ name: "zoom", select: "interval", bind: "scales" }] },
        { mark: { type: "point", filled: true, size: 60 }, params: [hover],
          encoding: { opacity: { condition: { param: "hover", empty: false, value: 1 }, value: 0 },
            tooltip: [{ field: "run" }, { field: "step" }, { field: "value", title: named(set.metric) }] } },
      ] });
  }

  function compare() {
    const chosen = set.chosen;
    at("compare-note").hidden = chosen.length > 0;
    if (!chosen.length) return at("compare").replaceChildren();
    const cell = (tag, text, scope) => made(tag, { textContent: text, ...(scope ? { scope } : {}) });
    const table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
    head.append(cell("th", "", "col"), ...chosen.map(() => cell("th", "", "col")));
    chosen.forEach((i, n) => head.cells[n + 1].append(made("a", { href: pathTo(i), textContent: label(i) })));
    const differing = Object.keys(options).filter((name) => new Set(chosen.map((i) => JSON.stringify(value(name, i)))).size > 1);
    const numbers = Object.keys(metrics).filter((name) => chosen.some((i) => value(name, i) !== null));
    for (const name of ["state", "seconds", ...differing, ...numbers]) {
      const row = body.insertRow(), cells = chosen.map((i) => value(name, i));
      row.append(cell("th", named(name), "row"), ...cells.map((one) => cell("td", one === null ? "–" : String(one))));
      row.cells[0].title = name;
      if (has(options, name)) [...row.cells].slice(1).forEach((one) => one.classList.add("differs"));
    }
    at("compare").replaceChildren(table);
  }

  // ---- the table

  const escaped = (words) => (cell) => document.createTextNode(words(cell) ?? "–");  // a formatter's text would be markup
  const linked = (cell) => {
    const { id } = cell.getRow().getData();
    return made("a", { href: pathTo(id), textContent: cell.getValue() || runs.key[id] });
  };
  const short = (cell) => (typeof cell.getValue() === "number" ? String(Number(cell.getValue().toPrecision(4))) : cell.getValue());
  const SHAPES = { study: { widthGrow: 2, minWidth: 170 }, row: { formatter: linked, widthGrow: 2, minWidth: 130 }, state: {} };
  const shownColumns = () => [...new Set(["study", "row", "seed", "state", set.x, set.y, set.color, "seconds"])];
  const columnsOf = () => shownColumns().map((name, n) => ({ title: named(name), field: `c${n}`, headerTooltip: name, minWidth: 90,
    ...(SHAPES[name] ?? { hozAlign: "right", formatter: escaped(short) }) }));
  const dataOf = (ids) => {
    const shown = shownColumns();
    return ids.map((id) => Object.fromEntries([["id", id], ...shown.map((name, n) => [`c${n}`, value(name, id)])]));
  };
  const table = new Tabulator("#runs-table", {
    index: "id", layout: "fitColumns", height: 380, pagination: true, paginationSize: 100, selectableRows: MOST_CHOSEN,
    selectableRowsPersistence: true, rowHeader: { formatter: "rowSelection", headerSort: false, width: 40, hozAlign: "center" },
    columns: columnsOf(), placeholder: "No run matches.",
  });
  let ready = false;

  async function show(isNew) {
    const { ids, unknown } = matching(set.filter);
    at("count").textContent = unknown ? `No run has an option or number called ${unknown}.`
      : `${ids.length} of ${count} runs${leftOut ? `; the ${leftOut} oldest are left out of this page` : ""}.`;
    remember();
    if (isNew) table.setColumns(columnsOf());
    const chosen = set.chosen.filter((i) => ids.includes(i));
    ready = false;
    await table.replaceData(dataOf(ids));
    table.selectRow(chosen);
    const [, name, way] = /^(.*):(asc|desc)$/.exec(set.sort) ?? [], place = shownColumns().indexOf(name);
    if (place >= 0) table.setSort(`c${place}`, way);
    ready = true;
    scatter(ids);
  }

  const choose = () => { remember(); compare(); return curves(); };
  table.on("rowSelectionChanged", (data) => {
    if (!ready) return;
    set.chosen = data.map((row) => row.id);
    choose();
  });
  table.on("dataSorted", (sorters) => {
    if (!ready) return;
    set.sort = sorters.length ? `${shownColumns()[Number(sorters[0].field.slice(1))]}:${sorters[0].dir}` : "";
    remember();
  });
  for (const name of ["x", "y", "color"]) {
    fill(at(name), names, set[name]);
    at(name).addEventListener("change", () => { set[name] = at(name).value; show(true); });
  }
  at("filter").value = set.filter;
  at("log").checked = set.log === "yes";
  at("filter").addEventListener("input", () => { set.filter = at("filter").value; show(false); });
  at("metric").addEventListener("change", () => { set.metric = at("metric").value; choose(); });
  at("log").addEventListener("change", () => { set.log = at("log").checked ? "yes" : ""; choose(); });
  document.querySelector("button.theme").addEventListener("click", () => { scatter(matching(set.filter).ids); curves(); });
  table.on("tableBuilt", async () => { await show(false); await choose(); document.documentElement.dataset.explorer = "ready"; });
});
