// The grid of crops: choose, name, review. Left the names with counts, right the object under the cursor.
import { html, useCallback, useEffect, useRef, useState } from "./vendor/htm-preact.module.js";
import * as acts from "./acts.js";
import { cropUrl, get, queryOf } from "./api.js";
import { go } from "./app.js";
import { Specimen } from "./specimen.js";
import { colourOf, KINDS, shown, statesOf } from "./names.js";
import { Picker } from "./picker.js";

/** @typedef {import("./api.js").Crop} Crop */
/** @typedef {import("./api.js").States} States */

const PAGE = 200;
const KIND_KEYS = { w: "wood", c: "cuticle", a: "amorphous matter", m: "mineral", b: "bubble", d: "dirt", s: "several objects", p: "part of an object", n: "no object" };
const number = new Intl.NumberFormat("en");
const SEVERAL = ["taxon", "slide"];
const FIELDS = ["status", "taxon", "label", "slide", "well", "least", "most", "order", "seed", "queue", "first"];

/** @param {{run: string, values: URLSearchParams, session: import("./api.js").Session}} props */
export function LabelPage({ run, values, session }) {
  const base = `/runs/${encodeURIComponent(run)}`;
  const query = /** @type {Record<string, any>} */ (Object.fromEntries(FIELDS.map((name) => [name, SEVERAL.includes(name) && values.getAll(name).length > 1 ? values.getAll(name) : values.get(name)])));
  const first = Number(query.first ?? 0);
  const isAudit = query.queue === "audit"; // whose predictions are hidden
  const [crops, setCrops] = useState(/** @type {Crop[]} */ ([]));
  const [total, setTotal] = useState(/** @type {number|null} */ (null));
  const [summary, setSummary] = useState(/** @type {any} */ (null));
  const [taxa, setTaxa] = useState(/** @type {import("./api.js").Taxon[]} */ ([]));
  const [at, setAt] = useState(0);
  const [chosen, setChosen] = useState(/** @type {Set<number>} */ (new Set()));
  const picker = /** @type {{current: import("./picker.js").PickerHandle|null}} */ (useRef(null));
  const [waitsForKind, setWaitsForKind] = useState(false);
  const [problem, setProblem] = useState("");
  const [side, setSide] = useState(112);
  const grid = /** @type {{current: HTMLElement|null}} */ (useRef(null));
  const mayLabel = session.may_label && summary?.labels != null;

  const change = useCallback((/** @type {Record<string, string|number|null>} */ more) => {
    go(`/label${queryOf({ run, ...query, first: null, ...more })}`);
  }, [values]);
  const readTaxa = useCallback(() => get(`${base}/taxa`).then(setTaxa, (error) => setProblem(error.message)), [base]);
  const readSummary = useCallback(() => get(base).then(setSummary, (error) => setProblem(error.message)), [base]);

  useEffect(() => { void readSummary(); void readTaxa(); }, [base]);
  useEffect(() => {
    const abort = new AbortController();
    get(`${base}/objects${queryOf({ ...query, count: PAGE })}`, abort.signal).then(
      (page) => {
        setCrops(page.crops);
        setTotal(page.total);
        setAt(isAudit ? Math.max(page.crops.findIndex((/** @type {Crop} */ crop) => !crop.label), 0) : 0);
        setChosen(new Set());
        setProblem("");
      },
      (error) => { if (error.name !== "AbortError") setProblem(error.message); },
    );
    return () => abort.abort();
  }, [values.toString()]);
  useEffect(() => { grid.current?.querySelector(".at")?.scrollIntoView({ block: "nearest" }); }, [at, crops]);
  useEffect(() => {
    const stream = new EventSource(`/api${base}/events`);
    stream.onmessage = (event) => {
      const act = JSON.parse(event.data);
      if (act.who !== session.name) update(act.slide_id, act.object_id, act.withdrawn ? null : { states: act.states, who: act.who, at: act.at });
    };
    return () => stream.close();
  }, [base]);

  const update = useCallback((/** @type {string} */ slide, /** @type {number|null} */ object, /** @type {any} */ label) => {
    setCrops((/** @type {Crop[]} */ before) => before.map((one) => one.slide_id === slide && one.object_id === object ? { ...one, label } : one));
  }, []);
  const targets = () => (chosen.size ? [...chosen].sort((a, b) => a - b) : crops.length ? [at] : []);

  /** @param {(crop: Crop) => States|null} statesFor @param {boolean} [moves] */
  async function apply(statesFor, moves = true) {
    if (!mayLabel) { setProblem("Nothing can be labelled here: start fossilray serve with --labels FOLDER."); return; }
    const rows = targets();
    const objects = rows.map((row) => ({ ...crops[row], before: mine(crops[row]) }));
    const after = rows.map((row) => statesFor(crops[row]));
    const done = rows.map((row, i) => /** @type {[Crop, States|null]} */ ([crops[row], after[i]])).filter(([crop, states]) => states || mine(crop));
    if (!done.length) return;
    // Shown at once, so that the next key meets the next crop.
    for (const [crop, states] of done)
      update(crop.slide_id, crop.object_id, states && { states, who: session.name, at: new Date().toISOString() });
    setChosen(new Set());
    if (moves) setAt(Math.min(rows[rows.length - 1] + 1, crops.length - 1));
    try {
      await acts.label(run, objects, (_, i) => after[i]);
    } catch (error) {
      for (const [crop] of done) update(crop.slide_id, crop.object_id, crop.label);
      setProblem(`This browser keeps no label (${error instanceof Error ? error.message : error}); nothing was recorded.`);
    }
    scheduleTaxa();
  }
  const timer = useRef(0);
  const scheduleTaxa = () => { clearTimeout(timer.current); timer.current = setTimeout(() => { void readTaxa(); if (isAudit) void readSummary(); }, 800); };

  const mine = (/** @type {Crop} */ crop) => (crop.label?.who === session.name ? crop.label.states : null);
  const current = (/** @type {Crop} */ crop) => crop.label?.states ?? (crop.taxon ? statesOf(crop.taxon) : null);
  const alter = (/** @type {(states: States) => States} */ how) => apply((crop) => { const states = current(crop); return states && how(states); }, false);

  async function undo() {
    const undone = await acts.undo();
    for (const one of undone ?? []) update(one.slide_id, one.object_id, one.before && { states: one.before, who: session.name, at: new Date().toISOString() });
    if (undone) scheduleTaxa();
  }

  /** @param {number} step @param {boolean} extends_ */
  function move(step, extends_) {
    const to = Math.max(0, Math.min(crops.length - 1, at + step));
    if (extends_) setChosen(new Set([...chosen, ...range(at, to)]));
    setAt(to);
  }
  const perRow = () => {
    const tiles = grid.current ? [...grid.current.querySelectorAll(".crop")] : [];
    const top = /** @type {HTMLElement} */ (tiles[0])?.offsetTop;
    const found = tiles.findIndex((tile) => /** @type {HTMLElement} */ (tile).offsetTop !== top);
    return found > 0 ? found : Math.max(tiles.length, 1);
  };
  const turn = (/** @type {number} */ pages) => {
    const to = first + pages * PAGE;
    if (to >= 0 && to < (total ?? 0)) change({ first: to || null });
  };

  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.altKey || isField(event.target)) return;
    const key = event.key, takes = () => event.preventDefault();
    if (event.ctrlKey || event.metaKey) {
      if (key === "z") { takes(); void undo(); }
      else if (key === "a") { takes(); setChosen(new Set(range(0, crops.length - 1))); }
      return;
    }
    if (waitsForKind) {
      setWaitsForKind(false);
      const kind = /** @type {Record<string, string>} */ (KIND_KEYS)[key];
      if (kind) { takes(); void apply(() => statesOf(kind)); }
      return;
    }
    const steps = /** @type {Record<string, () => number>} */ ({ ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: perRow, ArrowUp: () => -perRow() });
    if (key in steps) { takes(); move(steps[key](), event.shiftKey); }
    else if (key === " ") { takes(); const next = new Set(chosen); if (!next.delete(at)) next.add(at); setChosen(next); }
    else if (key === "Escape") setChosen(new Set());
    else if (key === "Enter") { takes(); void apply((crop) => (crop.taxon ? statesOf(crop.taxon) : crop.label?.states ?? null)); }
    else if (key === ".") { const last = acts.lastStates(); if (last) void apply(() => last); }
    else if (key >= "1" && key <= "9") { const name = acts.lastNames()[Number(key) - 1]; if (name) void apply((crop) => acts.named(name, crop.label?.states ?? null)); }
    else if (key === "Backspace" || key === "Delete") { takes(); void apply(() => null, false); }
    else if (key === "x") setWaitsForKind(true);
    else if (key === "?") void alter((states) => ({ ...states, name: states.name.endsWith("?") ? states.name.replace(/\s*\?$/, "") : states.name && `${states.name} ?` }));
    else if (key === "d") void alter((states) => ({ ...states, unsure: !states.unsure }));
    else if (key === "r") void alter((states) => ({ ...states, situation: states.situation === "reworked" ? null : "reworked" }));
    else if (key === "v") { if (crops[at] && !isAudit) go(`/slide/${encodeURIComponent(run)}/${encodeURIComponent(crops[at].slide_id)}?object=${crops[at].object_id}`); }
    else if (key === "n") turn(1);
    else if (key === "f") turn(-1);
    else if (/^\p{L}$/u.test(key) && mayLabel) picker.current?.open(); // which takes the letter
  };
  const latest = useRef(onKey);
  latest.current = onKey;
  useEffect(() => {
    const key = (/** @type {KeyboardEvent} */ event) => latest.current(event);
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);

  const names = taxa.map((one) => one.name).filter((name) => !KINDS.includes(name));
  const focus = crops[at];
  return html`<main class="label">
    <${Names} taxa=${taxa} query=${query} change=${change} isAudit=${isAudit} />
    <section class="middle">
      <div class="conditions" role="toolbar" aria-label="Which crops">
        <${Choice} name="Show" value=${query.status ?? "all"} options=${[["all", "all objects"], ["unlabelled", "not labelled"], ["labelled", "labelled"], ["unsure", "unsure"], ["conflict", "in conflict"]]} onChange=${(/** @type {string} */ v) => change({ status: v === "all" ? null : v })} />
        ${summary?.audit && html`<${Choice} name="Queue" value=${query.queue ?? "all"} options=${[["all", "all objects"], ["audit", "audit"]]} onChange=${(/** @type {string} */ v) => change({ queue: v === "all" ? null : v, taxon: null, least: null, most: null, order: null })} />`}
        ${isAudit ? summary?.audit && html`<${Progress} ...${summary.audit} />` : html`<${Choice} name="Order" value=${query.order ?? "slide"} options=${[["slide", "by slide"], ["random", "random"], ["least-confident", "least confident first"], ["most-confident", "most confident first"], ["largest", "largest first"], ["smallest", "smallest first"]]} onChange=${(/** @type {string} */ v) => change({ order: v === "slide" ? null : v })} />`}
        ${summary && summary.wells.length > 1 && html`<${Choice} name="Well" value=${query.well ?? ""} options=${[["", "all"], ...summary.wells.map((/** @type {any} */ w) => [w.well, w.well || "no well"])]} onChange=${(/** @type {string} */ v) => change({ well: v || null })} />`}
        <label>Size <input type="range" min="56" max="240" value=${side} onInput=${(/** @type {any} */ e) => setSide(Number(e.target.value))} /></label>
        ${["taxon", "label", "slide", "well"].filter((name) => query[name] !== null).map((name) => html`<button class="chip" onClick=${() => change({ [name]: null })} aria-label=${`Remove the condition ${name}`}>${chip(name, query[name] ?? "")} ✕</button>`)}
        <span class="grow"></span>
        <span class="pages">${total === null ? "" : total === 0 ? "no crop" : `${number.format(first + 1)}–${number.format(Math.min(first + PAGE, total))} of ${number.format(total)}`}
          <button onClick=${() => turn(-1)} disabled=${first === 0} aria-label="Page before (f)">‹</button>
          <button onClick=${() => turn(1)} disabled=${first + PAGE >= (total ?? 0)} aria-label="Next page (n)">›</button></span>
      </div>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="grid" ref=${grid} role="listbox" aria-multiselectable="true" aria-label="Crops" tabindex="0">
        ${crops.map((crop, i) => html`<${Tile} key=${`${crop.slide_id}/${crop.object_id}`} crop=${crop} run=${run} side=${side} isAt=${i === at} isChosen=${chosen.has(i)}
          onPick=${(/** @type {MouseEvent} */ event) => {
            if (event.shiftKey) setChosen(new Set([...chosen, ...range(at, i)]));
            else if (event.ctrlKey || event.metaKey) { const next = new Set(chosen); if (!next.delete(i)) next.add(i); setChosen(next); }
            else setChosen(new Set());
            setAt(i);
          }} />`)}
        ${total === 0 && html`<p class="loading">No object meets these conditions.</p>`}
      </div>
      <div class="foot">
        ${waitsForKind ? html`<span class="prompt">Not a fossil: ${Object.entries(KIND_KEYS).map(([key, kind]) => html`<kbd>${key}</kbd> ${kind} `)}</span>`
          : html`<span>${chosen.size ? `${chosen.size} selected` : ""}</span>${acts.lastNames().map((name, i) => html`<button class="chip" style=${{ borderColor: colourOf(name) }} disabled=${!mayLabel} onClick=${() => apply((crop) => acts.named(name, crop.label?.states ?? null))}><kbd>${i + 1}</kbd> ${name}</button>`)}
          <span class="grow"></span><span class="hint">${mayLabel ? isAudit ? "type a name · x no fossil · F1 keys" : "type a name · Enter accepts the prediction · F1 keys" : "you look only"}</span>`}
        <${Picker} handle=${picker} names=${names} onChoose=${(/** @type {string} */ name) => void apply((crop) => acts.named(name, crop.label?.states ?? null))} />
      </div>
    </section>
    <aside class="right" aria-label="Selected object">${focus && html`<${Specimen} key=${`${focus.slide_id}/${focus.object_id}`} run=${run} crop=${focus} queue=${query.queue} />`}</aside>
  </main>`;
}

/** @param {{taxa: import("./api.js").Taxon[], query: Record<string, string|null>, change: (more: Record<string, string|null>) => void, isAudit: boolean}} props */
function Names({ taxa, query, change, isAudit }) {
  return html`<aside class="left" aria-label="Names">
    <table><thead><tr><th>Name</th><th class="n" title="Labelled objects">labels</th>${!isAudit && html`<th class="n" title="Predicted objects">pred.</th>`}</tr></thead>
    <tbody>${taxa.filter((one) => !isAudit || one.labelled).map((one) => html`<tr key=${one.name}>
      <td title=${one.name}><span class="dot" style=${{ background: colourOf(one.name) }}></span>${one.name}</td>
      <td class="n">${one.labelled ? html`<button class="plain" aria-pressed=${query.label === one.name} onClick=${() => change({ label: one.name, taxon: null, status: null })}>${number.format(one.labelled)}${one.doubtful ? html`<sup title=${`${one.doubtful} doubtful`}>${one.doubtful}?</sup>` : ""}</button>` : ""}</td>
      ${!isAudit && html`<td class="n">${one.predicted ? html`<button class="plain" aria-pressed=${query.taxon === one.name} onClick=${() => change({ taxon: one.name, label: null })}>${number.format(one.predicted)}</button>` : ""}</td>`}</tr>`)}</tbody></table>
    ${!taxa.length && html`<p class="note">No name yet. Type one on a crop.</p>`}
  </aside>`;
}

/** @param {{id: string, objects: number, labelled: number}} props */
function Progress({ id, objects, labelled }) {
  return html`<label class="progress" title=${`Audit ${id}: a random sample in random order, without predictions`}><progress value=${labelled} max=${objects}></progress> ${number.format(labelled)} of ${number.format(objects)} labelled, predictions hidden</label>`;
}

/** @param {{crop: Crop, run: string, side: number, isAt: boolean, isChosen: boolean, onPick: (event: MouseEvent) => void}} props */
function Tile({ crop, run, side, isAt, isChosen, onPick }) {
  const longest = Math.max(crop.width_um, crop.height_um);
  const size = { width: `${Math.max(8, (side * crop.width_um) / longest)}px`, height: `${Math.max(8, (side * crop.height_um) / longest)}px` };
  const states = crop.label?.states, name = states ? shown(states) : crop.taxon;
  const colour = colourOf(states ? states.name || states.kind : crop.taxon);
  const state = crop.conflict ? "conflict" : states ? (states.unsure || states.name.includes("?") ? "doubtful" : "labelled") : crop.taxon ? "predicted" : "bare";
  return html`<div class=${`crop ${state}${isAt ? " at" : ""}${isChosen ? " chosen" : ""}`} role="option" aria-selected=${isChosen} onClick=${onPick}
    aria-label=${`${name ?? "not named"}, object ${crop.object_id} of ${crop.slide_id}, ${Math.round(longest)} micrometres, ${state}`}
    style=${{ width: `${side + 12}px` }}>
    <div class="frame" style=${{ height: `${side}px` }}><img loading="lazy" alt="" src=${cropUrl(run, crop, crop.object_id)} style=${size} /></div>
    <div class="name" style=${{ borderColor: colour }}>${name ?? " "}</div>
    <div class="size">${Math.round(longest)} µm${crop.confidence !== null && !states ? html` · ${Math.round(crop.confidence * 100)} %` : ""}</div>
  </div>`;
}

/** @param {{name: string, value: string, options: string[][], onChange: (value: string) => void}} props */
function Choice({ name, value, options, onChange }) {
  return html`<label>${name} <select value=${value} onChange=${(/** @type {any} */ event) => { onChange(event.target.value); event.target.blur(); }}>
    ${options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}</select></label>`;
}

/** @param {string} name @param {string|string[]} given */
function chip(name, given) {
  const value = Array.isArray(given) ? given.join(", ") : given;
  if (name === "taxon") return value ? `predicted ${value}` : "no prediction";
  return name === "label" ? `labelled ${value}` : `${name} ${value || "none"}`;
}

/** @param {number} from @param {number} to @returns {number[]} both ends included, in either direction */
function range(from, to) {
  const [low, high] = from < to ? [from, to] : [to, from];
  return Array.from({ length: high - low + 1 }, (_, i) => low + i);
}

/** @param {EventTarget|null} target */
function isField(target) {
  return target instanceof HTMLInputElement ? target.type !== "range" : target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement;
}
