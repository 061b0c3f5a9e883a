"use strict";
// The page's own script: theme, sorting, the step slider; then plotly's charts, one after another, before the page counts as loaded.
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector, within = document) => [...within.querySelectorAll(selector)];
  root.classList.add("js");

  // ------------------------------------------------------------------------------------------------------ words
  const fixed = (v, digits = 2) => {
    if (v === null || v === undefined) return "–";
    const text = v.toFixed(digits);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
  };
  // plotly reads some HTML in its texts: a name must stay the text it is
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // ------------------------------------------------------------------------------------------------------ theme
  const wish = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : wish.matches);
  const ink = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const sayTheme = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    redraw();
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    sayTheme();
  });
  wish.addEventListener("change", sayTheme);

  // ------------------------------------------------------------------------------------------------------ tables
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const key = cell.dataset.key;
    if (key === undefined) return null;
    return key !== "" && !Number.isNaN(Number(key)) && column > 0 ? Number(key) : key;
  };
  const sort = (table, column, direction) => {
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row, i) => ({ row, i, key: keyOf(row, column) }));
    const given = rows.map(({ key }) => key).filter((key) => key !== null);
    if (!given.every((key) => typeof key === "number")) rows.forEach((row) => { if (row.key !== null) row.key = String(row.key); });
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.i - b.i; // nothing comes last either way
      if (a.key === b.key) return a.i - b.i;
      return (a.key < b.key ? -1 : 1) * sign;
    });
    rows.forEach(({ row }) => table.tBodies[0].append(row));
  };
  $("table.sortable").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction);
        sort(table, column, direction);
      });
    });
  });

  // ------------------------------------------------------------------------------- two groups of runs beside each other
  const [left, right] = ["left", "right"].map((id) => document.getElementById(id));
  if (left) {
    const table = document.getElementById("differ-table");
    const show = () => {
      const both = left.value !== "" && right.value !== "";
      const chosen = both ? [left, right].map((select) => Number(select.value) + 2) : null;
      let rows = 0;
      [...table.tHead.rows, ...table.tBodies[0].rows].forEach((row) => {
        [...row.cells].forEach((cell, i) => { cell.hidden = both && i > 1 && !chosen.includes(i); });
      });
      [...table.tBodies[0].rows].forEach((row) => {
        row.hidden = both && row.cells[chosen[0]].textContent === row.cells[chosen[1]].textContent;
        rows += !row.hidden;
      });
      document.getElementById("differ").textContent = both ? `${rows} of their settings and facts differ` : "";
    };
    [left, right].forEach((select) => select.addEventListener("change", show));
  }

  // ------------------------------------------------------------------------------------------------------ charts
  const hiddenMethods = new Set();
  let bandsShown = true;
  const drawn = new Map(); // element -> function that draws it anew
  const label = (name) => data.looks.findIndex((look) => look.label === name);
  const look = (name) => data.looks[label(name)];
  const colourOf = (name) => (look(name) ? look(name)[isDark() ? "dark" : "light"] : ink("--soft"));
  const alpha = (hex, a) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},${a})`;
  const config = { responsive: true, displayModeBar: false, plotlyServerURL: "" };

  let onPaper = false;
  const paper = { width: 346, height: 240 }; // px: two beside each other on A4 and on letter
  const layout = (x, y, more = {}) => {
    const axis = { gridcolor: ink("--grid"), zerolinecolor: ink("--rule"), linecolor: ink("--rule"), automargin: true, fixedrange: false };
    return {
      ...(onPaper ? { width: paper.width, height: more.height ? Math.min(more.height, paper.height) : paper.height } : {}),
      margin: { l: 48, r: 8, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink("--ink") },
      hoverlabel: { bgcolor: ink("--card"), bordercolor: ink("--rule"), font: { color: ink("--ink"), size: 12 }, align: "left" },
      hovermode: "closest", dragmode: "zoom",
      xaxis: { ...axis, title: { text: plain(x), standoff: 6 }, ...more.xaxis }, yaxis: { ...axis, title: { text: plain(y), standoff: 4 }, ...more.yaxis },
      shapes: more.shapes || [],
    };
  };

  // A band as one closed outline for each stretch without gaps
  const outline = (x, low, high) => {
    const px = [], py = [];
    for (let i = 0; i < x.length; ) {
      if (low[i] === null || high[i] === null) { i += 1; continue; }
      let j = i;
      while (j < x.length && low[j] !== null && high[j] !== null) j += 1;
      for (let k = i; k < j; k += 1) { px.push(x[k]); py.push(high[k]); }
      for (let k = j - 1; k >= i; k -= 1) { px.push(x[k]); py.push(low[k]); }
      px.push(null); py.push(null);
      i = j;
    }
    return { x: px, y: py };
  };

  const lineTraces = (line, percent) => {
    if (hiddenMethods.has(label(line.label))) return [];
    const scale = (v) => (v === null ? null : percent ? 100 * v : v);
    const colour = colourOf(line.label), own = look(line.label), digits = percent ? 1 : 3;
    const y = line.y.map(scale), traces = [];
    if (line.low && bandsShown) {
      traces.push({
        type: "scatter", mode: "lines", ...outline(line.x, line.low.map(scale), line.high.map(scale)), fill: "toself",
        fillcolor: alpha(colour, data.looks.length > 4 ? 0.09 : 0.16), line: { width: 0 }, hoverinfo: "skip",
      });
    }
    const few = y.length <= 25; // as in the figures: markers only where they do not hide the line
    const alone = y.map((v, i) => v !== null && (y[i - 1] ?? null) === null && (y[i + 1] ?? null) === null);
    const name = plain(line.name ? `${line.label || ""} ${line.name}`.trim() : line.label);
    traces.push({
      type: "scatter", mode: few || alone.some(Boolean) ? "lines+markers" : "lines", x: line.x, y, connectgaps: false, name,
      line: { color: colour, width: few ? 2 : 1.4, dash: line.dash || (own ? own.dash : "dot") },
      marker: { color: colour, symbol: own ? own.symbol : "circle", size: few ? 6 : alone.map((v) => (v ? 5 : 0)) },
      text: y.map((v, i) => `${fixed(v, digits)}${line.low && line.low[i] !== null ? ` (${fixed(scale(line.low[i]), digits)} to ${fixed(scale(line.high[i]), digits)})` : ""}`),
      hovertemplate: `<b>${name}</b><br>%{x}: %{text}<extra></extra>`,
    });
    return traces;
  };

  const bandTraces = (bands) => (bandsShown ? bands : []).map((band) => {
    const noise = band.name === "noise";
    return {
      type: "scatter", mode: "lines", ...outline(band.x, band.low, band.high), fill: "toself", name: band.name, hoveron: "fills", text: band.name,
      hoverinfo: "text", line: { width: 1, color: `rgba(${ink("--band")},.55)`, dash: "dot" },
      fillcolor: `rgba(${ink("--band")},${noise ? 0.04 : 0.22})`,
      ...(noise ? { fillpattern: { shape: "/", size: 7, solidity: 0.12, fgcolor: `rgba(${ink("--band")},.6)`, bgcolor: "rgba(0,0,0,0)" } } : {}),
    };
  });

  const reference = (y) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: ink("--soft"), width: 1 }, layer: "below" });

  // The y axis' ends, as in the figures: all means, and the bands as far as they do not dwarf them
  const view = (spec) => {
    if (spec.range) return spec.range.map((v) => (spec.percent ? 100 * v : v));
    const to = (v) => (spec.log ? (v > 0 ? Math.log10(v) : null) : spec.percent ? 100 * v : v);
    const all = (names) => spec.lines.filter((line) => !hiddenMethods.has(label(line.label)))
      .flatMap((line) => names.flatMap((name) => line[name] || [])).filter((v) => v !== null).map(to).filter((v) => v !== null);
    const means = all(["y"]), ends = bandsShown ? all(["low", "high"]) : [];
    if (!means.length) return undefined;
    const [low, high] = [Math.min(...means), Math.max(...means)], reach = high - low || Math.abs(high) / 10 || 1;
    const bottom = Math.max(Math.min(low, ...ends), low - reach), top = Math.min(Math.max(high, ...ends), high + reach);
    const margin = 0.05 * (top - bottom);
    return [bottom - margin, top + margin];
  };

  // A log axis as people read it: 0.1, 1, 10, with ticks between that carry no number; within one decade 1, 2 and 5 do
  const inWords = (v) => (v >= 1e-4 && v < 1e6 ? v.toLocaleString("en", { maximumSignificantDigits: 1 }) : `10<sup>${Math.round(Math.log10(v))}</sup>`);
  const logAxis = (range) => {
    if (range === undefined) return { type: "log" };
    const [low, high] = range, multiples = (of) => {
      const found = [];
      for (let e = Math.floor(low); e <= high; e += 1) found.push(...of.map((m) => m * 10 ** e));
      return found.filter((v) => Math.log10(v) >= low && Math.log10(v) <= high);
    };
    const decades = multiples([1]), every = Math.ceil(decades.length / 7);
    const major = decades.length > 1 ? decades.filter((_, i) => i % every === 0) : multiples([1, 2, 5]);
    return {
      type: "log", range, autorange: false, tickmode: "array", tickvals: major, ticktext: major.map(inWords), ticks: "outside", ticklen: 5, tickcolor: ink("--soft"),
      minor: { tickmode: "array", tickvals: every > 1 ? decades : multiples([2, 3, 4, 5, 6, 7, 8, 9]), ticks: "outside", ticklen: 3, tickcolor: ink("--rule"), showgrid: false },
    };
  };
  const logReach = (lines) => {
    const x = lines.flatMap((line) => line.x).filter((v) => v > 0).map(Math.log10);
    return x.length ? [Math.min(...x) - 0.05, Math.max(...x) + 0.05] : undefined;
  };

  const linesChart = (spec) => [
    [...bandTraces(spec.bands || []), ...spec.lines.flatMap((line) => lineTraces(line, spec.percent))],
    layout(spec.x, spec.y, {
      xaxis: spec.categories ? { type: "category" } : spec.log_x ? logAxis(logReach(spec.lines)) : {},
      yaxis: spec.log ? logAxis(view(spec)) : { type: "linear", range: view(spec), autorange: view(spec) === undefined },
      shapes: spec.zero ? [reference(0)] : [],
    }),
  ];

  const cosineChart = (spec) => {
    const lines = data.cosine.layers[spec.layer];
    const values = lines.flatMap((line) => line.y).filter((v) => v !== null);
    const low = Math.min(-0.25, ...values) - 0.04;
    return [
      [...bandTraces(spec.bands), ...lines.flatMap((line) => lineTraces(line, false))],
      layout(spec.x, spec.y, { yaxis: { range: [Math.max(low, -1.05), 1.05] }, shapes: [reference(0)] }),
    ];
  };

  const matrixChart = (spec) => [
    [{
      type: "heatmap", x: spec.x.map(plain), y: spec.y.map(plain), z: spec.z, zmin: 0, zmax: 1, xgap: 1, ygap: 1, hoverongaps: false,
      colorbar: { title: { text: plain(spec.name), side: "right" }, thickness: 10, outlinewidth: 0, tickvals: [0, 0.5, 1], xpad: 6 },
      colorscale: isDark() ? [[0, "#262e37"], [1, "#2f6fae"]] : [[0, "#eef2f6"], [1, "#6fa8dc"]], textfont: { color: ink("--ink") },
      text: spec.z.map((row) => row.map((v) => fixed(v))), texttemplate: "%{text}",
      hovertemplate: `%{y} · %{x}: %{text}<extra>${plain(spec.name)}</extra>`,
    }],
    layout(spec.x_name, spec.y_name, { xaxis: { type: "category", showgrid: false }, yaxis: { type: "category", showgrid: false } }),
  ];

  const chartOf = { lines: linesChart, cosine: cosineChart, matrix: matrixChart };

  // Each method's value at the recorded step nearest to another
  const nearest = (steps, step) => {
    let low = 0, high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle + 1; else high = middle;
    }
    return low > 0 && step - steps[low - 1] <= steps[low] - step ? low - 1 : low;
  };

  // Stripes where a map has no value, so that nothing looks like zero
  const missing = (z, steps) => {
    const edge = (i) => (i <= 0 ? steps[0] : i >= steps.length ? steps[steps.length - 1] : (steps[i - 1] + steps[i]) / 2), x = [], y = [];
    z.forEach((row, k) => {
      for (let i = 0; i < row.length; i += 1) {
        if (row[i] !== null) continue;
        const begin = i;
        while (i + 1 < row.length && row[i + 1] === null) i += 1;
        const [left, right] = [edge(begin), edge(i + 1)];
        x.push(left, right, right, left, left, null);
        y.push(k - 0.46, k - 0.46, k + 0.46, k + 0.46, k - 0.46, null);
      }
    });
    return x.length ? [{
      type: "scatter", mode: "lines", x, y, fill: "toself", line: { width: 0 }, hoverinfo: "skip", fillcolor: "rgba(0,0,0,0)",
      fillpattern: { shape: "/", size: 7, solidity: 0.3, fgcolor: ink("--stripe"), bgcolor: "rgba(0,0,0,0)" },
    }] : [];
  };

  const mapChart = (layer) => {
    const lines = data.cosine.layers[layer].filter((line) => !hiddenMethods.has(label(line.label))).reverse(); // plotly begins at the bottom
    const steps = data.cosine.steps, colours = data.scale[isDark() ? "dark" : "light"];
    const z = lines.map((line) => steps.map((step) => (step > line.x[line.x.length - 1] ? null : line.y[nearest(line.x, step)])));
    const ends = [steps[0], steps[steps.length - 1]], names = lines.map((line) => plain(line.label));
    return [
      [...missing(z, steps), {
        type: "heatmap", x: steps, y: lines.map((_, i) => i), z, zmin: -1, zmax: 1, ygap: 1, showscale: false,
        colorscale: colours.map((colour, i) => [i / (colours.length - 1), colour]), hoverongaps: false,
        text: names.map((name) => steps.map(() => name)), hovertemplate: "%{text}, step %{x}: %{z:.2f}<extra></extra>",
      }],
      layout("updates", "", {
        height: 70 + 22 * lines.length,
        xaxis: { showgrid: false, zeroline: false, range: ends[0] < ends[1] ? ends : [ends[0] - 0.5, ends[0] + 0.5] },
        yaxis: { showgrid: false, zeroline: false, title: { text: "" }, ticks: "", range: [-0.5, lines.length - 0.5], tickmode: "array", tickvals: lines.map((_, i) => i), ticktext: names },
        shapes: [marker()],
      }),
    ];
  };
  const marker = () => ({ type: "line", yref: "paper", y0: 0, y1: 1, x0: stepNow, x1: stepNow, line: { color: ink("--ink"), width: 2 } });

  const draw = (figure) => {
    const place = figure.querySelector("div");
    const make = figure.dataset.layer !== undefined
      ? () => mapChart(figure.dataset.layer)
      : () => chartOf[data.charts[figure.dataset.chart].kind](data.charts[figure.dataset.chart]);
    const again = () => {
      const [traces, look] = make();
      return Plotly.react(place, traces, look, config);
    };
    drawn.set(figure, again);
    again();
    const scaled = () => $(".main-svg", place).forEach((svg) => { // a picture that fits whatever box it is printed in
      svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
    });
    place.on("plotly_afterplot", scaled);
    scaled();
  };
  function redraw() { drawn.forEach((again) => again()); }

  const bandsChip = document.getElementById("bands");
  bandsChip.addEventListener("click", () => {
    bandsShown = !bandsShown;
    bandsChip.setAttribute("aria-pressed", String(bandsShown));
    redraw();
  });
  $(".chip[data-method]").forEach((chip) => chip.addEventListener("click", () => {
    const method = Number(chip.dataset.method), shown = hiddenMethods.has(method);
    if (shown) hiddenMethods.delete(method); else hiddenMethods.add(method);
    chip.setAttribute("aria-pressed", String(shown));
    $("#slice tbody tr").forEach((row) => { row.hidden = hiddenMethods.has(Number(row.dataset.method)); });
    redraw();
  }));

  // ------------------------------------------------------------------------------------------------------ the slider
  const slider = document.getElementById("step");
  let stepNow = data.cosine.steps[data.cosine.steps.length - 1];
  const epochOf = (step) => {
    const before = data.ends.filter((end) => end <= step).length;
    return data.ends.length ? `, epoch ${Math.min(before + 1, data.ends.length)} of ${data.ends.length}` : "";
  };
  const toStep = () => {
    stepNow = data.cosine.steps[Number(slider.value)];
    const said = `step ${stepNow} of ${data.cosine.steps[data.cosine.steps.length - 1]}${epochOf(stepNow)}`;
    document.getElementById("at").textContent = said;
    slider.setAttribute("aria-valuetext", said);
    const layers = Object.keys(data.cosine.layers);
    $("#slice tbody tr").forEach((row) => {
      const name = data.looks[Number(row.dataset.method)].label;
      layers.forEach((layer, column) => {
        const cell = row.cells[column + 1], line = data.cosine.layers[layer].find((l) => l.label === name);
        const i = line ? nearest(line.x, stepNow) : -1, value = line ? line.y[i] : null;
        cell.textContent = fixed(value);
        cell.className = value === null ? "none" : `c${Math.min(20, Math.max(0, Math.round((value + 1) * 10)))}`;
        const band = line && line.low && line.low[i] !== null ? `, 95 % interval ${fixed(line.low[i])} to ${fixed(line.high[i])}` : "";
        cell.title = line ? `${name}, ${layer}: ${fixed(value, 3)} at step ${line.x[i]}${band}` : `${name}, ${layer}: not recorded`;
      });
    });
    $("#maps .map").filter((figure) => drawn.has(figure)).forEach((figure) => Plotly.relayout(figure.querySelector("div"), { shapes: [marker()] }));
  };
  if (slider) {
    slider.max = data.cosine.steps.length - 1;
    slider.value = slider.max;
    slider.addEventListener("input", toStep);
    toStep();
    $("#maps")[0].style.setProperty("--rows", data.looks.length);
  }

  // --------------------------------------------------------------------------- tables that are wider than their boxes
  const hint = () => $(".scroll").forEach((box) => {
    const heads = $("thead th", box).filter((head) => head.offsetWidth), right = box.getBoundingClientRect().right;
    const out = heads.filter((head) => head.getBoundingClientRect().right > right + 1).length;
    box.dataset.more = box.scrollWidth > box.clientWidth + 1 && out ? `${out} more column${out > 1 ? "s" : ""} →` : "";
  });
  addEventListener("resize", hint);
  $(".scroll").forEach((box) => box.addEventListener("scroll", hint, { passive: true }));

  // ------------------------------------------------------- plotly takes a second to start, so all else comes first
  // Each chart is drawn in a task of its own, so that the page can be used meanwhile. The page does not count as loaded before the last:
  // an image that is still to come keeps the load event back, at which browsers without a window print and take their pictures.
  const figures = $("figure.chart");
  const start = () => {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script); // runs at once: the policy knows its hash
  };
  const undrawn = () => figures.filter((figure) => !drawn.has(figure));
  let turns = 0;
  const soon = (then) => {
    const image = new Image();
    image.onload = then;
    image.src = `data:image/svg+xml,<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1" id="t${turns++}"/>`;
  };
  const next = () => {
    const [figure] = undrawn();
    if (figure) {
      start();
      draw(figure);
      soon(next);
    } else {
      root.dataset.charts = "ready";
    }
  };
  soon(next);
  hint();

  // ------------------------------------------------------------------------------------------ paper: light, and of its own size
  let before, opened = []; // the theme chosen on the screen, and what was opened for the paper
  const toPaper = (now) => {
    if (now === onPaper) return;
    onPaper = now;
    if (now) {
      before = root.dataset.theme;
      root.dataset.theme = "light";
      opened = $("details:not([open])");
    } else if (before === undefined) delete root.dataset.theme; else root.dataset.theme = before;
    opened.forEach((part) => { part.open = now; });
    if (now && figures.length) { start(); undrawn().forEach(draw); }
    redraw();
  };
  addEventListener("beforeprint", () => toPaper(true));
  addEventListener("afterprint", () => toPaper(false));
  matchMedia("print").addEventListener("change", (event) => toPaper(event.matches));
  button.setAttribute("aria-pressed", String(isDark()));
})();
