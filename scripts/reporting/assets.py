"""Style sheet and script of the page. Both are constant: nothing that a file says is ever put into them."""

STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1f2328; --muted: #59636e; --line: #d1d9e0; --card: #f6f8fa;
  --accent: #0969da; --on-accent: #fff; --cell: #0969da; --good: #1a7f37; --bad: #cf222e; --warn: #9a6700;
  --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #0a7b83; --c6: #9a6700;
  --c7: #57606a }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --text: #e6edf3; --muted: #9198a1; --line: #30363d;
  --card: #161b22; --accent: #4493f8; --on-accent: #fff; --cell: #1f6feb; --good: #3fb950; --bad: #f85149;
  --warn: #d29922;
  --c0: #4493f8; --c1: #f0883e; --c2: #3fb950; --c3: #ab7df8; --c4: #f778ba; --c5: #39c5cf; --c6: #e3b341;
  --c7: #9198a1 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif }
main { max-width: 1400px; margin: 0 auto; padding: 16px clamp(12px, 3vw, 32px) 64px }
h1 { font-size: 1.7rem; margin: 8px 0 0; overflow-wrap: anywhere }
h2 { font-size: 1.3rem; margin: 40px 0 12px; padding-bottom: 4px; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere }
h3 { font-size: 1.1rem; margin: 28px 0 8px }
h4 { font-size: 1rem; margin: 24px 0 6px }
a { color: var(--accent) }
code { font: 12px/1.5 ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere }
.note { color: var(--muted); margin: 2px 0 8px; font-size: 13px; overflow-wrap: anywhere }
.warning { border-left: 4px solid var(--warn); background: var(--card); padding: 8px 12px; margin: 8px 0 }
.scroll { overflow: auto; max-height: 75vh; max-width: 100% }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
thead th { position: sticky; top: 0; background: var(--page); color: var(--muted); font-weight: 600;
  white-space: nowrap }
tbody th { font-weight: 600 }
.number { text-align: right }
.overview td, .overview thead th, .classes td { white-space: nowrap }
.overview .name { min-width: 9em; max-width: 22em; overflow-wrap: anywhere }
.options td, .definitions td { overflow-wrap: anywhere; min-width: 8em }
.definitions thead { display: none }
.absent { color: var(--muted); font-style: italic }
th button { all: unset; cursor: pointer }
th button:hover, th button:focus-visible { color: var(--accent); text-decoration: underline }
th[aria-sort=ascending] button::after { content: " ▲" }
th[aria-sort=descending] button::after { content: " ▼" }
.bar { background: linear-gradient(90deg, color-mix(in srgb, var(--accent) 22%, transparent) var(--share),
  transparent 0) no-repeat; padding-left: 12px; padding-right: 6px }
.state { font-weight: 600 } .finished { color: var(--good) } .failed { color: var(--bad) }
.interrupted { color: var(--warn) } .training, .testing { color: var(--accent) }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px;
  background: var(--own) }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); gap: 20px 24px }
.chart { margin: 0; max-width: 560px; display: flex; flex-direction: column; min-width: 0 }
.chart figcaption { font-weight: 600 }
.chart > svg { width: 100%; height: auto; display: block; margin-top: auto; touch-action: pan-y }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--muted) }
.grid { stroke: var(--line); stroke-width: 1 }
.line { fill: none; stroke: var(--own, var(--muted)); stroke-width: 1.8; stroke-linejoin: round }
.faint { stroke-opacity: .3; stroke-width: 1 }
.d1 { stroke-dasharray: 6 4 } .d2 { stroke-dasharray: 2 3 } .d3 { stroke-dasharray: 9 3 2 3 }
circle { fill: var(--own) } .dot { fill-opacity: .6 }
.level { stroke: var(--muted); stroke-width: 1.3; stroke-dasharray: 1 4; stroke-linecap: round }
.mark { stroke: var(--warn); stroke-width: 1; stroke-dasharray: 3 3 }
.cursor { stroke: var(--muted); stroke-width: 1; visibility: hidden }
.c0 { --own: var(--c0) } .c1 { --own: var(--c1) } .c2 { --own: var(--c2) } .c3 { --own: var(--c3) }
.c4 { --own: var(--c4) } .c5 { --own: var(--c5) } .c6 { --own: var(--c6) } .c7 { --own: var(--c7) }
.legend { list-style: none; margin: 2px 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0 14px; font-size: 12px;
  color: var(--muted) }
.legend li { overflow-wrap: anywhere } .key { width: 24px; height: 8px; margin-right: 6px }
.values { min-height: 1.5em; font-size: 12px; color: var(--muted); font-variant-numeric: tabular-nums;
  white-space: pre-wrap }
.confusion .cell { fill: var(--cell); stroke: var(--line); stroke-width: .5 } .confusion text { fill: var(--text) }
.confusion .on { fill: var(--on-accent) }
.matrix { image-rendering: pixelated; width: min(100%, 800px); border: 1px solid var(--line) }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 8px 0 }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px }
.card b { display: block; font-size: 1.5rem; line-height: 1.2 } .card > span { color: var(--muted); font-size: 13px }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)); gap: 16px }
.video { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden }
.video img { width: 100%; display: block } .video figcaption { padding: 8px 12px; font-size: 13px;
  overflow-wrap: anywhere }
.gone { min-height: 84px; display: grid; place-items: center; padding: 12px; color: var(--muted); text-align: center;
  font-size: 13px; border-bottom: 1px solid var(--line) }
small { color: var(--muted) }
details { margin: 8px 0 } summary { cursor: pointer; font-weight: 600 }
"""

SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, at) => {
    const cell = row.cells[at], own = cell.dataset.value;
    const number = own === undefined ? NaN : parseFloat(own);
    return Number.isNaN(number) ? cell.textContent : number;
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
    : typeof a === typeof b ? a.localeCompare(b) : typeof a === "number" ? -1 : 1;
  heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => compare(value(a, at), value(b, at)));
    body.append(...(down ? rows.reverse() : rows));
  }));
}
for (const svg of document.querySelectorAll(".chart > svg")) {
  const [left, right] = JSON.parse(svg.dataset.limits), [from, to] = JSON.parse(svg.dataset.box);
  const cursor = svg.querySelector(".cursor"), output = svg.parentNode.querySelector(".values");
  const lines = [...svg.querySelectorAll("path[data-points]")].map(path => [path.dataset.name,
    JSON.parse(path.dataset.points)]);
  const near = (points, x) => points.reduce((best, point) =>
    Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);
  if (!cursor) continue;
  svg.addEventListener("pointermove", event => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    const x = left + (right - left) * (Math.min(Math.max(place, from), to) - from) / (to - from);
    const found = lines.map(([name, points]) => [name, near(points, x)]);
    const step = found.map(([, point]) => point[0]).reduce((a, b) => Math.abs(b - x) < Math.abs(a - x) ? b : a);
    const at = from + (to - from) * (step - left) / (right - left);
    cursor.setAttribute("x1", at); cursor.setAttribute("x2", at); cursor.style.visibility = "visible";
    output.textContent = ["step " + step, ...found.map(([name, [, y]]) =>
      name + " " + (y === null ? "NaN" : Number(y.toPrecision(5))))].join("   ");
  });
  svg.addEventListener("pointerleave", () => { cursor.style.visibility = "hidden"; output.textContent = ""; });
}
"""
