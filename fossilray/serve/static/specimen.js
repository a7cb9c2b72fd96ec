// One object, large: its surroundings, measures, prediction, and who named it.
import { html, useEffect, useState } from "./vendor/htm-preact.module.js";
import { cropUrl, get, queryOf, slideUrl, surroundingsUrl } from "./api.js";
import { colourOf, shown } from "./names.js";

const MEASURES = [["width_um", "width", "µm"], ["height_um", "height", "µm"], ["area_um2", "area of the box", "µm²"], ["score", "detector's score", ""], ["opacity", "opacity", ""], ["sharpness", "sharpness", ""]];

/** @param {{run: string, crop: import("./api.js").Crop, queue?: string|null}} props; predictions are hidden in the queue of an audit */
export function Specimen({ run, crop, queue }) {
  const [summary, setSummary] = useState(/** @type {any} */ (null));
  const [isWide, setIsWide] = useState(true);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    // A short wait, so that running along a row fetches nothing.
    const timer = setTimeout(() => get(`/runs/${encodeURIComponent(run)}/objects/${encodeURIComponent(crop.slide_id)}/${crop.object_id}${queryOf({ queue })}`, abort.signal)
      .then(setSummary, (error) => { if (error.name !== "AbortError") setProblem(error.message); }), 120);
    return () => { clearTimeout(timer); abort.abort(); };
  }, [crop.label]);
  const identity = `${crop.slide_id}:${crop.object_id}`;
  return html`<div class="specimen">
    <figure>${isWide
      ? html`<img class="wide" alt=${`Object ${crop.object_id} with its surroundings`} src=${surroundingsUrl(run, crop, crop.object_id)} onError=${() => setIsWide(false)} />`
      : html`<img class="tight" alt=${`Object ${crop.object_id}`} src=${cropUrl(run, crop, crop.object_id)} />`}</figure>
    <p class="identity"><code>${identity}</code> <button class="plain" title="Copy the object's identity" onClick=${() => navigator.clipboard?.writeText(identity)}>copy</button> ${queue !== "audit" && html`<a href=${slideUrl(run, crop.slide_id, crop.object_id)}>on the slide</a>`}</p>
    ${problem && html`<p class="problem">${problem}</p>`}
    ${crop.taxon && html`<p><span class="dot" style=${{ background: colourOf(crop.taxon) }}></span>predicted <i>${crop.taxon}</i>${crop.confidence === null ? "" : `, ${Math.round(crop.confidence * 100)} %`}${summary?.columns.genus_2 ? html`, then <i>${summary.columns.genus_2}</i>, ${Math.round(summary.columns.genus_2_score * 100)} %` : ""}</p>`}
    ${(summary?.labels ?? []).map((/** @type {import("./api.js").Label} */ label) => html`<p class="given"><span class="dot" style=${{ background: colourOf(label.states.name || label.states.kind) }}></span><b>${shown(label.states)}</b> by ${label.who}, ${label.at.slice(0, 16).replace("T", " ")}${label.states.remark ? html`<br />${label.states.remark}` : ""}</p>`)}
    ${summary && html`<dl class="measures">
      <dt>well</dt><dd>${summary.well ?? "none"}</dd><dt>depth</dt><dd>${summary.depth_m === null ? "none" : `${summary.depth_m} m`}</dd>
      ${MEASURES.map(([column, name, unit]) => summary.columns[column] == null ? null : html`<dt>${name}</dt><dd>${round(summary.columns[column])} ${unit}</dd>`)}
    </dl>`}
  </div>`;
}

/** @param {number} value */
const round = (value) => (Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));
