// Identification of a photograph: dropped, pasted, chosen or taken; its objects as cards with shares and specimens.
import { html, useCallback, useEffect, useRef, useState } from "./vendor/htm-preact.module.js";
import { cropUrl, get, queryOf, slideUrl, upload } from "./api.js";
import { colourOf } from "./names.js";

/** @typedef {{name: string, share: number, in_set: boolean}} Share */
/** @typedef {{similarity: number, name: string|null, who: string|null, predicted: string|null, run: string|null, slide_id: string|null,
 *   object_id: number|null, attempt: string|null, well: string|null, depth_m: number|null, width_um: number|null,
 *   height_um: number|null, file: string|null}} Specimen */
/** @typedef {{number: number, box: number[], width_um: number|null, height_um: number|null, detector_score: number|null, taxa: Share[],
 *   set_size: number|null, novelty_p: number|null, is_novel: boolean, sentence: string, nearest_labelled: Specimen[],
 *   nearest_unlabelled: Specimen[]}} Found */
/** @typedef {{name: string, sha256: string}} Network */
/** @typedef {{name: string, width: number, height: number, um_per_px: number|null, um_per_px_from: string|null, view: string,
 *   objects: Found[], found: number, notes: string[], detector: Network, backbone: Network, head: Network|null}} Result */
/** @typedef {{id: string, result: Result, runs: Record<string, string>}} Identified */

const ACCEPTED = "image/jpeg,image/png,image/tiff,image/bmp,image/webp,.tif,.tiff";
const number = new Intl.NumberFormat("en");
const VIEWS = { auto: "either", crop: "one fossil", field: "a field" };
const MOST_BARS = 6;
const SOURCES = { file: "from the file", sidecar: "from a sidecar", given: "as given" };

export function IdentifyPage() {
  const [about, setAbout] = useState(/** @type {any} */ (null));
  const [identified, setIdentified] = useState(/** @type {Identified|null} */ (null));
  const [busy, setBusy] = useState("");
  const [problem, setProblem] = useState("");
  const [view, setView] = useState("auto");
  const [mpp, setMpp] = useState("");
  const [at, setAt] = useState(0);
  const [heat, setHeat] = useState("");
  const [isOver, setIsOver] = useState(false);
  const last = /** @type {{current: File|null}} */ (useRef(null));
  const current = /** @type {{current: AbortController|null}} */ (useRef(null));

  useEffect(() => { get("/identify").then(setAbout, (error) => setProblem(error.message)); }, []);

  const identify = useCallback(async (/** @type {File|null|undefined} */ file, /** @type {{view?: string, mpp?: string}} */ more = {}) => {
    if (!file) return;
    last.current = file;
    current.current?.abort();
    const abort = new AbortController();
    current.current = abort;
    setBusy(file.name || "the pasted image");
    setProblem("");
    try {
      const query = queryOf({ name: file.name || "pasted image", view: more.view ?? view, mpp: (more.mpp ?? mpp).replace(",", ".") });
      const found = /** @type {Identified} */ (await upload(`/identify${query}`, file, abort.signal));
      setIdentified(found);
      setAt(0);
      setHeat("");
    } catch (error) {
      if (abort.signal.aborted) return;
      setIdentified(null);
      setProblem(error instanceof Error ? error.message : String(error));
    }
    setBusy("");
  }, [view, mpp]);

  useEffect(() => {
    const paste = (/** @type {ClipboardEvent} */ event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
      if (file) { event.preventDefault(); void identify(file); }
    };
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, [identify]);

  const objects = identified?.result.objects ?? [];
  // Keys of a fast hand come before the page is drawn again.
  const now = /** @type {{current: number}} */ (useRef(0));
  now.current = at;
  const choose = useCallback((/** @type {number} */ next) => {
    now.current = next;
    setAt(next);
    setHeat("");
    // After the card has its specimens, which change its height.
    requestAnimationFrame(() => document.getElementById(`object-${next}`)?.scrollIntoView({ block: "nearest" }));
  }, []);
  useEffect(() => {
    const key = (/** @type {KeyboardEvent} */ event) => {
      if (event.target instanceof Element && event.target.closest("input, select, textarea")) return;
      if (event.ctrlKey || event.metaKey || event.altKey || !objects.length) return;
      if (event.key === "ArrowRight" || event.key === "n") choose(Math.min(now.current + 1, objects.length - 1));
      else if (event.key === "ArrowLeft" || event.key === "p") choose(Math.max(now.current - 1, 0));
      else if (event.key === "h" && objects[at].taxa.length) setHeat(heat ? "" : objects[at].taxa[0].name);
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, [objects, at, heat]);

  const drop = (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    setIsOver(false);
    void identify(event.dataTransfer?.files[0]);
  };
  return html`<main class=${`identify${isOver ? " over" : ""}`} onDrop=${drop}
    onDragOver=${(/** @type {DragEvent} */ event) => { event.preventDefault(); setIsOver(true); }}
    onDragLeave=${(/** @type {DragEvent} */ event) => { if (event.currentTarget === event.target) setIsOver(false); }}>
    <div class="stage">
      <div class="conditions">
        <${Chooser} onFile=${identify} />
        <span class="note hint">or drop or paste one</span>
        <span class="grow"></span>
        <label>Shows <select value=${view} onChange=${(/** @type {any} */ event) => { setView(event.target.value); void identify(last.current, { view: event.target.value }); }}>
          ${Object.entries(VIEWS).map(([value, name]) => html`<option value=${value}>${name}</option>`)}</select></label>
        <label>µm per px <input class="mpp" inputmode="decimal" placeholder="of the file" value=${mpp}
          onChange=${(/** @type {any} */ event) => { setMpp(event.target.value); void identify(last.current, { mpp: event.target.value }); }} /></label>
      </div>
      <div class="photograph" aria-busy=${busy ? "true" : "false"}>
        ${identified && !busy ? html`<${Photograph} identified=${identified} at=${at} onChoose=${choose} />`
          : html`<div class="target"><p class="large">${busy ? `Identifying ${busy}…` : "Drop a photograph here"}</p>
            ${!busy && html`<p class="note">of one fossil, cropped tightly, or of a whole field of view (JPEG, PNG, TIFF, BMP, WebP). It stays on this server.</p>`}</div>`}
      </div>
      ${problem && html`<p class="problem foot" role="alert">${problem}</p>`}
      ${identified && !busy && html`<${Summary} result=${identified.result} />`}
    </div>
    <section class="cards" aria-label="Objects" aria-live="polite">
      ${identified && !busy ? objects.map((found, i) => html`<${Card} key=${`${identified.id}/${i}`} identified=${identified} found=${found} isAt=${i === at}
          heat=${i === at ? heat : ""} onHeat=${setHeat} onChoose=${() => { if (i !== at) choose(i); }} />`)
        : html`<${About} about=${about} />`}
      ${identified && !busy && !objects.length && html`<p class="note">No object was found. <button onClick=${() => { setView("crop"); void identify(last.current, { view: "crop" }); }}>Take the whole image as one fossil</button></p>`}
    </section>
  </main>`;
}

/** @param {{onFile: (file: File|undefined) => void}} props */
function Chooser({ onFile }) {
  const take = (/** @type {any} */ event) => { onFile(event.target.files[0]); event.target.value = ""; };
  return html`<label class="button primary">Choose a file<input class="unseen" type="file" accept=${ACCEPTED} onChange=${take} /></label>
    <label class="button">Take a photograph<input class="unseen" type="file" accept="image/*" capture="environment" onChange=${take} /></label>`;
}

/** @param {{identified: Identified, at: number, onChoose: (at: number) => void}} props */
function Photograph({ identified, at, onChoose }) {
  const { width, height, objects, view, name } = identified.result;
  const stroke = Math.max(width, height) / 400;
  return html`<svg viewBox=${`0 0 ${width} ${height}`} role="img" aria-label=${`${name}, ${objects.length} objects`} style=${{ maxWidth: `${Math.max(3 * width, 480)}px` }}>
    <image href=${`/api/identify/${identified.id}/image.jpg`} width=${width} height=${height} />
    ${view === "field" && objects.map((found, i) => {
      const [left, top, right, bottom] = found.box;
      return html`<g class=${`box ${kindOf(found)}${i === at ? " at" : ""}`} onClick=${() => onChoose(i)}>
        <rect x=${left} y=${top} width=${right - left} height=${bottom - top} stroke=${strokeOf(found)} stroke-width=${i === at ? 2.2 * stroke : stroke} />
        <text x=${left + stroke} y=${Math.max(top - 2 * stroke, 7 * stroke)} font-size=${9 * stroke} stroke-width=${2 * stroke}>${found.number + 1}</text>
      </g>`;
    })}
  </svg>`;
}

/** @param {Found} found */
const kindOf = (found) => (found.is_novel ? "novel" : found.set_size === 1 ? "sure" : found.taxa.length ? "open" : "unnamed");

/** @param {Found} found */
const strokeOf = (found) => (found.is_novel || !found.taxa.length ? "#666" : colourOf(found.taxa[0].name));

/** @param {{result: Result}} props */
function Summary({ result }) {
  const scale = result.um_per_px === null ? "µm per px unknown" : `${Number(result.um_per_px.toPrecision(4))} µm per px ${SOURCES[/** @type {"file"} */ (result.um_per_px_from)]}`;
  const content = result.view === "crop" ? "taken as one fossil" : `a field of view with ${number.format(result.found)} objects`;
  return html`<div class="summary">
    <p><b>${result.name}</b>, ${result.width} × ${result.height} px, ${content}, ${scale}.</p>
    <details><summary>${result.notes.length} notes, and what was used</summary>
      <ul>${result.notes.map((note) => html`<li>${note}</li>`)}</ul>
      <p class="digests">${[["head", result.head], ["backbone", result.backbone], ["detector", result.detector]].map(([kind, used]) => used && html`<span>${kind} ${/** @type {Network} */ (used).name} <code title=${/** @type {Network} */ (used).sha256}>${/** @type {Network} */ (used).sha256.slice(0, 12)}</code></span>`)}</p>
    </details>
  </div>`;
}

/** @param {{about: any}} props */
function About({ about }) {
  if (!about) return html`<p class="loading">Loading the networks and specimens…</p>`;
  return html`<div class="about">
    <h2>What it can do here</h2>
    ${about.head ? html`<p>Objects are named by <b>${about.head.name}</b>, which knows ${about.classes.length} taxa:</p>
        <p class="classes">${about.classes.slice(0, 60).map((/** @type {string} */ name) => html`<span class="chip"><span class="dot" style=${{ background: colourOf(name) }}></span>${name}</span>`)}${about.classes.length > 60 ? ` and ${about.classes.length - 60} more` : ""}</p>
        <p class="note">An object gets the set of taxa that cannot be excluded, each with its share, or is called like nothing labelled.</p>`
      : html`<p>No head is given, so that nothing is named: start <code>fossilray serve</code> with <code>--head FILE</code>. Objects are cut, measured, and compared with specimens.</p>`}
    ${about.scopes.length > 0 && html`<ul>${about.scopes.map((/** @type {string} */ scope) => html`<li>${scope}</li>`)}</ul>`}
    ${about.left_out.map((/** @type {string} */ reason) => html`<p class="problem">Not compared: ${reason}</p>`)}
  </div>`;
}

/** @param {{identified: Identified, found: Found, isAt: boolean, heat: string, onHeat: (taxon: string) => void, onChoose: () => void}} props */
function Card({ identified, found, isAt, heat, onHeat, onChoose }) {
  const { id, result } = identified;
  const source = heat ? `/api/identify/${id}/heat/${found.number}.jpg?taxon=${encodeURIComponent(heat)}` : `/api/identify/${id}/crops/${found.number}.jpg`;
  const [left, top, right, bottom] = found.box;
  const size = found.width_um === null ? `${right - left} × ${bottom - top} px` : `${found.width_um} × ${found.height_um} µm`;
  const score = found.detector_score === null ? "" : `, detector ${found.detector_score.toFixed(2)}`;
  const bar = (/** @type {Share} */ share) => html`<li class=${share.in_set ? "in" : "out"}>
    <button class="plain" aria-pressed=${heat === share.name} title=${`Heat map of ${share.name}`} onClick=${() => onHeat(heat === share.name ? "" : share.name)}>${share.name}</button>
    <span class="bar"><span style=${{ width: `${Math.max(share.share * 100, 0.5)}%`, background: share.in_set ? colourOf(share.name) : null }}></span></span>
    <span class="n">${percent(share.share)}</span></li>`;
  return html`<article id=${`object-${found.number}`} class=${`card ${kindOf(found)}${isAt ? " at" : ""}`} tabindex="0" aria-current=${isAt ? "true" : null}
      onClick=${onChoose} onFocus=${onChoose}>
    <figure><img src=${source} alt=${heat ? `Heat map of ${heat} on object ${found.number + 1}` : `Object ${found.number + 1}`} loading="lazy" />
      <figcaption>${heat ? `evidence for ${heat}` : `${result.view === "field" ? `${found.number + 1}: ` : ""}${size}${score}`}</figcaption></figure>
    <div class="naming">
      <p class="sentence">${found.sentence}</p>
      <ul class="shares">${found.taxa.slice(0, MOST_BARS).map(bar)}</ul>
      ${isAt && found.taxa.length > MOST_BARS && html`<details><summary class="small">${found.taxa.length - MOST_BARS} more</summary><ul class="shares">${found.taxa.slice(MOST_BARS).map(bar)}</ul></details>`}
      ${found.taxa.length > 0 && html`<p class="small">
        ${found.novelty_p === null ? "" : `p of novelty ${found.novelty_p < 0.01 ? found.novelty_p.toPrecision(2) : found.novelty_p.toFixed(2)}`}
        <button aria-pressed=${Boolean(heat)} onClick=${() => onHeat(heat ? "" : found.taxa[0].name)}>Heat map</button></p>`}
    </div>
    ${isAt && html`<${Specimens} title="Nearest labelled" specimens=${found.nearest_labelled} runs=${identified.runs} />
      <${Specimens} title="Nearest unlabelled" specimens=${found.nearest_unlabelled} runs=${identified.runs} />`}
  </article>`;
}

/** @param {{title: string, specimens: Specimen[], runs: Record<string, string>}} props */
function Specimens({ title, specimens, runs }) {
  if (!specimens.length) return html`<p class="small specimens-none">${title}: none to compare with.</p>`;
  const named = new Map();
  for (const { name, predicted } of specimens) if (name ?? predicted) named.set(name ?? predicted, (named.get(name ?? predicted) ?? 0) + 1);
  const counts = [...named].sort((a, b) => b[1] - a[1]).slice(0, 4).map(([name, count]) => `${count} ${name}`);
  return html`<section class="specimens" aria-label=${title}>
    <h3>${title} <span class="small">${specimens.length}${counts.length ? `: ${counts.join(", ")}` : ""}</span></h3>
    <ol>${specimens.map((one) => html`<${Near} specimen=${one} run=${one.run === null ? undefined : runs[one.run]} />`)}</ol>
  </section>`;
}

/** @param {{specimen: Specimen, run: string|undefined}} props */
function Near({ specimen, run }) {
  const { slide_id: slideId, object_id: objectId, attempt } = specimen;
  const origin = specimen.file ?? `${slideId}:${objectId}`;
  const depth = specimen.depth_m === null ? "" : ` ${number.format(specimen.depth_m)}\u00a0m`;
  const title = [origin, specimen.who && `named by ${specimen.who}`, !specimen.name && specimen.predicted && "predicted"].filter(Boolean).join(", ");
  const picture = run && slideId !== null && objectId !== null && attempt !== null
    ? html`<a href=${slideUrl(run, slideId, objectId)} aria-label=${`${specimen.name ?? specimen.predicted ?? "specimen"} ${origin} on its slide`}><img loading="lazy" alt="" src=${cropUrl(run, { slide_id: slideId, attempt }, objectId)} ...${proportions(specimen)} /></a>`
    : html`<span class="small">${origin}</span>`;
  return html`<li title=${title}><span class="frame">${picture}</span>
    <span class="name">${specimen.name ? html`<b>${specimen.name}</b>` : html`<i>${specimen.predicted ?? "no name"}</i>`}</span>
    <span class="small">${specimen.similarity.toFixed(2)}${specimen.who ? `, by ${specimen.who}` : specimen.predicted && !specimen.name ? ", predicted" : ""}</span>
    <span class="small origin">${specimen.well ?? ""}${depth}</span></li>`;
}

/** Width and height in the proportions of the object: crops are stored as squares. @param {Specimen} specimen */
function proportions({ width_um: width, height_um: height }) {
  const longest = Math.max(width ?? 1, height ?? 1);
  return { width: Math.max(8, Math.round((72 * (width ?? 1)) / longest)), height: Math.max(8, Math.round((72 * (height ?? 1)) / longest)) };
}

/** @param {number} share */
const percent = (share) => (share >= 0.005 && share < 0.995 ? `${Math.round(share * 100)} %` : `${(share * 100).toFixed(1)} %`);
