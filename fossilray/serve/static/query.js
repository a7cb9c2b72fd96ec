// Questions in SQL: the address holds the query, the result is a table or bars, and can be saved.
import { html, useEffect, useRef, useState } from "./vendor/htm-preact.module.js";
import { get, queryOf, slideUrl } from "./api.js";
import { go } from "./app.js";

/** @typedef {{columns: {name: string, type: string}[], rows: (string|number|boolean|null)[][], is_whole: boolean, seconds: number}} Result */

const EXAMPLES = [
  ["Objects by sample", "SELECT well, measured_depth_m, count(*) AS objects\nFROM objects GROUP BY ALL ORDER BY ALL"],
  ["Sizes, in steps of 10 µm", "SELECT 10 * floor(greatest(width_um, height_um) / 10) AS longest_um, count(*) AS objects\nFROM objects GROUP BY ALL ORDER BY ALL"],
  ["Predicted taxa", "SELECT genus, count(*) AS objects, round(avg(score), 2) AS mean_score\nFROM predictions WHERE genus IS NOT NULL GROUP BY ALL ORDER BY objects DESC"],
  ["The darkest objects", "SELECT slide_id, object_id, width_um, height_um, round(opacity, 3) AS opacity\nFROM objects WHERE isolated ORDER BY objects.opacity DESC LIMIT 50"],
  ["What was lost", "SELECT slide_id, tiles_failed, doubts FROM slides ORDER BY tiles_failed DESC"],
];
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 4 });
const MOST_BARS = 200;

/** @param {{run: string, values: URLSearchParams}} props */
export function QueryPage({ run, values }) {
  const sql = values.get("sql") ?? "", isChart = values.get("show") === "bars";
  const [typed, setTyped] = useState(sql || EXAMPLES[0][1]);
  const [result, setResult] = useState(/** @type {Result|null} */ (null));
  const [problem, setProblem] = useState("");
  const [running, setRunning] = useState(/** @type {AbortController|null} */ (null));
  const field = /** @type {{current: HTMLTextAreaElement|null}} */ (useRef(null));
  const base = `/runs/${encodeURIComponent(run)}/query`;
  const send = (/** @type {string} */ text) => {
    setTyped(text);
    go(`/query${queryOf({ run, sql: text, show: values.get("show"), again: text === sql ? Date.now() % 1e6 : null })}`, text === sql);
  };
  useEffect(() => {
    if (!sql) return undefined;
    const abort = new AbortController();
    setRunning(abort);
    setProblem("");
    get(`${base}${queryOf({ sql })}`, abort.signal).then(setResult, (error) => {
      setResult(null);
      setProblem(error.name === "AbortError" ? "cancelled" : error.message);
    }).finally(() => setRunning((now) => (now === abort ? null : now)));
    return () => abort.abort();
  }, [base, sql, values.get("again")]);

  return html`<main class="query">
    <form onSubmit=${(/** @type {Event} */ event) => { event.preventDefault(); send(typed); }}>
      <label for="sql">One <code>SELECT</code> over <code>objects</code>, <code>slides</code>, <code>samples</code>, <code>predictions</code>, <code>embeddings</code>, <code>failures</code> or <code>catalog</code></label>
      <textarea id="sql" ref=${field} rows="6" spellcheck=${false} value=${typed} onInput=${(/** @type {any} */ event) => setTyped(event.target.value)}
        onKeyDown=${(/** @type {KeyboardEvent} */ event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); send(typed); } }}></textarea>
      <p class="bar"><button type="submit" disabled=${!typed.trim()} title="Ctrl+Enter">Run</button>
        ${running && html`<button type="button" onClick=${() => running.abort()}>Cancel</button><span class="note" role="status">running…</span>`}
        <span class="grow"></span>${EXAMPLES.map(([name, text]) => html`<button type="button" class="chip" onClick=${() => send(text)}>${name}</button>`)}</p>
    </form>
    ${problem && html`<p role="alert" class="problem">${problem}</p>`}
    ${result && !running && html`<${Shown} result=${result} run=${run} isChart=${isChart} base=${base} sql=${sql}
      onShow=${(/** @type {string|null} */ show) => go(`/query${queryOf({ run, sql, show })}`)} />`}
  </main>`;
}

/** @param {{result: Result, run: string, isChart: boolean, base: string, sql: string, onShow: (show: string|null) => void}} props */
function Shown({ result, run, isChart, base, sql, onShow }) {
  const { columns, rows } = result;
  const measured = columns.findLastIndex((one) => isNumber(one.type));
  const canDraw = columns.length > 1 && measured >= 0;
  return html`<p class="bar" role="status">${number.format(rows.length)} ${rows.length === 1 ? "row" : "rows"}${result.is_whole ? "" : ", and more"} · ${number.format(result.seconds)} s
      <span class="grow"></span>
      ${canDraw && html`<span role="group" aria-label="Show as"><button aria-pressed=${!isChart} onClick=${() => onShow(null)}>table</button><button aria-pressed=${isChart} onClick=${() => onShow("bars")}>bars</button></span>`}
      <a class="button" download href=${`/api${base}.csv${queryOf({ sql })}`}>CSV</a><a class="button" download href=${`/api${base}.parquet${queryOf({ sql })}`}>Parquet</a></p>
    ${isChart && canDraw ? html`<${Bars} result=${result} measured=${measured} />` : html`<${Rows} result=${result} run=${run} />`}`;
}

/** @param {string} type */
const isNumber = (type) => /^(u?int|float|double|halffloat|decimal)/.test(type);

/** @param {string|number|boolean|null} value */
const text = (value) => (value === null ? "" : typeof value === "number" ? number.format(value) : String(value));

/** @param {{result: Result, run: string}} props */
function Rows({ result, run }) {
  const { columns, rows } = result;
  const slide = columns.findIndex((one) => one.name === "slide_id"), object = columns.findIndex((one) => one.name === "object_id");
  const link = (/** @type {any[]} */ row, /** @type {number} */ column) => {
    if (column === object && slide >= 0 && row[slide] !== null) return slideUrl(run, String(row[slide]), Number(row[object]));
    return column === slide && row[slide] !== null ? slideUrl(run, String(row[slide])) : null;
  };
  return html`<div class="result"><table><thead><tr>${columns.map((one) => html`<th class=${isNumber(one.type) ? "n" : ""} title=${one.type}>${one.name}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map((value, column) => {
      const address = link(row, column), plain = columns[column].name.endsWith("_id") && value !== null ? String(value) : text(value);
      return html`<td class=${isNumber(columns[column].type) ? "n" : ""}>${address ? html`<a href=${address}>${plain}</a>` : plain}</td>`;
    })}</tr>`)}</tbody></table></div>`;
}

/** @param {{result: Result, measured: number}} props */
function Bars({ result, measured }) {
  const rows = result.rows.slice(0, MOST_BARS), largest = Math.max(...rows.map((row) => Math.abs(Number(row[measured]) || 0)), 1e-12);
  return html`<div class="result"><table class="bars"><thead><tr><th>${result.columns.filter((_, column) => column !== measured).map((one) => one.name).join(", ")}</th><th>${result.columns[measured].name}</th></tr></thead>
    <tbody>${rows.map((row) => html`<tr><td>${row.filter((_, column) => column !== measured).map(text).join(", ")}</td>
      <td><span class="fill" style=${{ width: `${(60 * Math.abs(Number(row[measured]) || 0)) / largest}%` }}></span> ${text(row[measured])}</td></tr>`)}</tbody></table>
    ${result.rows.length > MOST_BARS && html`<p class="note">The first ${MOST_BARS} rows.</p>`}</div>`;
}
