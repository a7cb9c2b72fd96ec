// The range chart of a well: a column for each taxon, a bar for each sample. A bar leads to the crops it counts.
import { html, useEffect, useRef, useState } from "./vendor/htm-preact.module.js";
import { get, queryOf } from "./api.js";
import { go } from "./app.js";
import { colourOf } from "./names.js";

/** @typedef {{label: string, slides: string[], top_m: number, base_m: number, sample_type: string|null, objects: number, labelled: number,
 *   is_small: boolean, lost_share: number}} Sample */
/** @typedef {{name: string, group: string, classes: string[], last: number|null, first: number|null}} ChartTaxon */
/** @typedef {{well: string, samples: Sample[], has_depths: boolean, taxa: ChartTaxon[], shares: number[][], low: number[][], high: number[][],
 *   counts: number[][], labelled: number[][], predicted: number[][], is_present: boolean[][], borders_m: number[], findings: string[]}} Chart */

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const ORDERS = [["last-occurrence", "last occurrence"], ["first-occurrence", "first occurrence"], ["abundance", "abundance"], ["name", "name"]];
const LEFT = 92, RIGHT = 118, TOP = 150, GAP = 16, LEAST_COLUMN = 22, LEAST_BAR = 4, BEST_BAR = 12;

/** @param {{run: string, values: URLSearchParams}} props */
export function WellPage({ run, values }) {
  const base = `/runs/${encodeURIComponent(run)}`;
  const [wells, setWells] = useState(/** @type {any[]|null} */ (null));
  const [chart, setChart] = useState(/** @type {Chart|null} */ (null));
  const [problem, setProblem] = useState("");
  const [width, setWidth] = useState(1200);
  const frame = /** @type {{current: HTMLElement|null}} */ (useRef(null));
  const query = { well: values.get("well") ?? wells?.find((one) => one.well)?.well ?? null, rank: values.get("rank"), order: values.get("order"), leave_out: values.getAll("leave_out"), by: values.get("by") };
  const change = (/** @type {Record<string, string|string[]|null>} */ more) => go(`/well${queryOf({ run, ...query, ...more })}`);

  useEffect(() => { get(base).then((summary) => setWells(summary.wells), (error) => setProblem(error.message)); }, [base]);
  useEffect(() => {
    const measure = () => setWidth(Math.max(700, (frame.current?.clientWidth ?? 1200) - 4));
    measure();
    addEventListener("resize", measure);
    return () => removeEventListener("resize", measure);
  }, [chart]);
  useEffect(() => {
    if (query.well === null) return undefined;
    const abort = new AbortController();
    const { by: _, ...wanted } = query;
    get(`${base}/chart${queryOf(wanted)}`, abort.signal).then(
      (found) => { setChart(found); setProblem(""); },
      (error) => { if (error.name !== "AbortError") { setChart(null); setProblem(error.message); } },
    );
    return () => abort.abort();
  }, [base, query.well, query.rank, query.order, query.leave_out.join("\n")]);

  const named = (wells ?? []).filter((one) => one.well);
  return html`<main class="well">
    <div class="conditions">
      <label>Well <select aria-label="Well" onChange=${(/** @type {any} */ event) => change({ well: event.target.value, leave_out: null })}>
        ${named.map((one) => html`<option value=${one.well} selected=${one.well === query.well}>${one.well}</option>`)}</select></label>
      <label>Taxa by <select onChange=${(/** @type {any} */ event) => change({ rank: event.target.value })}>
        ${["genus", "species"].map((rank) => html`<option value=${rank} selected=${rank === (query.rank ?? "genus")}>${rank}</option>`)}</select></label>
      <label>Order <select onChange=${(/** @type {any} */ event) => change({ order: event.target.value })}>
        ${ORDERS.map(([key, text]) => html`<option value=${key} selected=${key === (query.order ?? "last-occurrence")}>${text}</option>`)}</select></label>
      <span role="group" aria-label="Unit of the bars">
        <button aria-pressed=${query.by !== "count"} onClick=${() => change({ by: null })}>per cent</button>
        <button aria-pressed=${query.by === "count"} onClick=${() => change({ by: "count" })}>objects</button></span>
      ${query.leave_out.map((name) => html`<button class="chip" title="Count it again" onClick=${() => change({ leave_out: query.leave_out.filter((one) => one !== name) })}>without ${name} ×</button>`)}
    </div>
    ${problem && html`<p role="alert" class="problem">${problem}</p>`}
    ${wells !== null && !named.length && html`<p class="note">No slide of this run has a well. <code>fossilray samples export</code> writes a table in which you can give them.</p>`}
    <div class="chart" ref=${frame}>
      ${chart && html`<${Drawing} chart=${chart} run=${run} width=${width} isCount=${query.by === "count"} />
        <p class="note">A bar is the estimate, the narrow part inside it what was labelled, the line the 95 % interval. A pale bar: the taxon may be absent. Click a bar or a name to see the crops.</p>
        <${LeaveOut} chart=${chart} onChoose=${(/** @type {string} */ name) => change({ leave_out: [...query.leave_out, name] })} />
        <h2>What the chart rests on</h2><ul class="findings">${chart.findings.map((text) => html`<li>${text}</li>`)}</ul>
        <${Numbers} chart=${chart} />`}
    </div>
  </main>`;
}

/** @param {{chart: Chart, onChoose: (name: string) => void}} props */
function LeaveOut({ chart, onChoose }) {
  return html`<p class="leave"><label>Leave out <select value="" onChange=${(/** @type {any} */ event) => { if (event.target.value) onChoose(event.target.value); }}>
    <option value="">a taxon…</option>${chart.taxa.map((one) => html`<option value=${one.name}>${one.name}</option>`)}</select></label></p>`;
}

/** @param {{chart: Chart, run: string, width: number, isCount: boolean}} props */
function Drawing({ chart, run, width, isCount }) {
  const { samples, taxa } = chart;
  const value = (/** @type {number} */ row, /** @type {number} */ column) => (isCount ? chart.counts : chart.shares)[row][column];
  const end = (/** @type {number[][]} */ ends, /** @type {number} */ row, /** @type {number} */ column) => ends[row][column] * (isCount ? samples[row].objects : 1);
  const largest = taxa.map((_, column) => Math.max(...samples.map((_, row) => end(chart.high, row, column)), 1e-9));
  const free = Math.max(width - LEFT - RIGHT - taxa.length * (GAP + LEAST_COLUMN), 120);
  const scale = free / largest.reduce((sum, one) => sum + one, 0);
  const widths = largest.map((one) => LEAST_COLUMN + one * scale);
  const starts = widths.reduce((/** @type {number[]} */ all, one) => [...all, all[all.length - 1] + one + GAP], [LEFT]);
  const unit = nicest(60 / scale, isCount);
  const { y, height, ticks } = depths(chart);
  const right = starts[taxa.length];
  const rows = samples.map((sample, row) => bar(sample, row, chart, y));
  return html`<svg width=${right + RIGHT} height=${TOP + height + 34} role="img" aria-label=${`Range chart of well ${chart.well}: ${samples.length} samples, ${taxa.length} taxa`}>
    ${ticks.map((tick) => html`<g><line class="rule" x1=${LEFT - 4} x2=${right} y1=${TOP + y(tick)} y2=${TOP + y(tick)} /><text class="tick" x=${LEFT - 8} y=${TOP + y(tick) + 4} text-anchor="end">${number.format(tick)}</text></g>`)}
    <text class="axis" x=${LEFT - 8} y=${TOP - 12} text-anchor="end">${chart.has_depths ? "depth, m" : "slides"}</text>
    ${!chart.has_depths && samples.map((sample, row) => html`<text class="tick" x=${LEFT - 8} y=${TOP + y(row) + 4} text-anchor="end">${sample.label.slice(0, 12)}</text>`)}
    ${taxa.map((taxon, column) => html`<g key=${taxon.name}>
      <a href=${crops(run, chart, null, column)}><text class="taxon" transform=${`translate(${starts[column] + 9},${TOP - 8}) rotate(-50)`}>${taxon.name.slice(0, 24)}</text></a>
      <line class="base" x1=${starts[column]} x2=${starts[column]} y1=${TOP} y2=${TOP + height} />
      ${samples.map((sample, row) => {
        const share = value(row, column);
        if (!share && !end(chart.high, row, column)) return null;
        if (share <= 0 && !chart.labelled[row][column]) return null;
        const { top, thick } = rows[row], x = starts[column];
        const labelled = Math.min(share, isCount ? chart.labelled[row][column] : chart.labelled[row][column] / Math.max(sample.objects, 1));
        const text = `${taxon.name}, ${depthOf(sample, chart)}: ${isCount ? number.format(share) : `${number.format(100 * share)} %`} (${isCount ? number.format(end(chart.low, row, column)) : `${number.format(100 * chart.low[row][column])} %`} to ${isCount ? number.format(end(chart.high, row, column)) : `${number.format(100 * chart.high[row][column])} %`}), ${chart.labelled[row][column]} labelled, ${chart.predicted[row][column]} predicted${chart.is_present[row][column] ? "" : "; it may be absent"}`;
        return html`<a href=${crops(run, chart, row, column)} aria-label=${text}><title>${text}</title>
          <rect class="hit" x=${x - 2} y=${TOP + top - 3} width=${widths[column] + 4} height=${thick + 6} />
          <rect class=${`bar${chart.is_present[row][column] ? "" : " maybe"}${sample.is_small ? " small" : ""}`} style=${{ "--bar": colourOf(taxon.name) }} x=${x} y=${TOP + top} width=${Math.max(share * scale, 1)} height=${thick} />
          ${labelled > 0 && html`<rect class="seen" x=${x} y=${TOP + top + thick * 0.3} width=${Math.max(labelled * scale, 1)} height=${thick * 0.4} />`}
          <line class="whisker" x1=${x + end(chart.low, row, column) * scale} x2=${x + end(chart.high, row, column) * scale} y1=${TOP + top + thick / 2} y2=${TOP + top + thick / 2} /></a>`;
      })}</g>`)}
    ${chart.borders_m.map((depth) => html`<line class="border" x1=${LEFT} x2=${right} y1=${TOP + y(depth)} y2=${TOP + y(depth)} />`)}
    <text class="axis" x=${right + 4} y=${TOP - 12}>objects</text>
    ${samples.map((sample, row) => html`<a href=${`/label${queryOf({ run, slide: sample.slides })}`}><text class="tick" x=${right + 4} y=${TOP + rows[row].top + rows[row].thick / 2 + 4}>${number.format(sample.objects)}${sample.sample_type ? ` ${short(sample.sample_type)}` : ""}</text></a>`)}
    <g transform=${`translate(${LEFT},${TOP + height + 20})`}><line class="whisker" x1="0" x2=${unit * scale} y1="0" y2="0" /><text class="tick" x=${unit * scale + 6} y="4">${isCount ? `${number.format(unit)} objects` : `${number.format(100 * unit)} %`}</text></g>
  </svg>`;
}

/** @param {Chart} chart */
function depths({ samples, has_depths }) {
  if (!has_depths) {
    const step = 22;
    return { y: (/** @type {number} */ row) => row * step + step / 2, height: samples.length * step, ticks: /** @type {number[]} */ ([]) };
  }
  const top = Math.min(...samples.map((one) => one.top_m)), base = Math.max(...samples.map((one) => one.base_m));
  const height = Math.max(300, Math.min(1600, samples.length * 34)), span = base - top || 1, margin = 14;
  const step = nicest(span / Math.max(4, height / 70), false);
  const ticks = [];
  for (let tick = Math.ceil(top / step) * step; tick <= base + 1e-9; tick += step) ticks.push(Number(tick.toFixed(6)));
  return { y: (/** @type {number} */ depth) => margin + ((depth - top) / span) * (height - 2 * margin), height, ticks: ticks.length ? ticks : [top] };
}

/** @param {Sample} sample @param {number} row @param {Chart} chart @param {(depth: number) => number} y */
function bar(sample, row, chart, y) {
  const from = y(chart.has_depths ? sample.top_m : row), to = y(chart.has_depths ? sample.base_m : row);
  const middles = chart.samples.map((one, each) => (y(chart.has_depths ? one.top_m : each) + y(chart.has_depths ? one.base_m : each)) / 2);
  const free = Math.min(...middles.map((one, each) => (each === row ? Infinity : Math.abs(one - middles[row]))));
  const thick = Math.max(to - from, Math.min(BEST_BAR, Math.max(LEAST_BAR, free - 2)));
  return { top: (from + to) / 2 - thick / 2, thick };
}

/** @param {number} about @param {boolean} isWhole @returns {number} 1, 2 or 5 times a power of ten */
function nicest(about, isWhole) {
  const power = 10 ** Math.floor(Math.log10(Math.max(about, 1e-9)));
  const found = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= about) ?? about;
  return isWhole ? Math.max(1, Math.round(found)) : found;
}

/** @param {string} run @param {Chart} chart @param {number|null} row @param {number} column */
function crops(run, chart, row, column) {
  const { classes, name } = chart.taxa[column];
  const rows = row === null ? chart.samples.map((_, each) => each) : [row];
  const isPredicted = rows.some((each) => chart.predicted[each][column] > 0);
  const of = row === null ? { well: chart.well } : { slide: chart.samples[row].slides };
  return `/label${queryOf({ run, ...of, ...(isPredicted ? { taxon: classes } : { label: classes[0] ?? name }) })}`;
}

/** @param {Sample} sample @param {Chart} chart */
const depthOf = (sample, chart) => (!chart.has_depths ? sample.label : sample.top_m === sample.base_m ? `${number.format(sample.top_m)} m` : `${number.format(sample.top_m)}–${number.format(sample.base_m)} m`);

/** @param {string} type */
const short = (type) => ({ "ditch cuttings": "cuttings", "side-wall core": "SWC" })[type] ?? type;

/** @param {{chart: Chart}} props */
function Numbers({ chart }) {
  return html`<details><summary>Table of objects</summary><table><thead><tr><th>Sample</th>${chart.taxa.map((one) => html`<th class="n">${one.name}</th>`)}<th class="n">all</th></tr></thead>
    <tbody>${chart.samples.map((sample, row) => html`<tr><td>${depthOf(sample, chart)}</td>${chart.counts[row].map((count) => html`<td class="n">${count ? number.format(count) : ""}</td>`)}<td class="n">${number.format(sample.objects)}</td></tr>`)}</tbody></table></details>`;
}
