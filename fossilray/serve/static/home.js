// The run at a glance: figures, wells, slides, and what to do next.
import { html, useEffect, useState } from "./vendor/htm-preact.module.js";
import { get, slideUrl } from "./api.js";

/** @param {{runs: string[]}} props */
export function Home({ runs }) {
  return html`<main class="home">${runs.map((run) => html`<${Run} key=${run} run=${run} />`)}</main>`;
}

const number = new Intl.NumberFormat("en");

/** @param {{run: string}} props */
function Run({ run }) {
  const [summary, setSummary] = useState(/** @type {any} */ (null));
  const [slides, setSlides] = useState(/** @type {import("./api.js").Slide[]} */ ([]));
  const [problem, setProblem] = useState("");
  const [typed, setTyped] = useState("");
  useEffect(() => {
    get(`/runs/${encodeURIComponent(run)}`).then(setSummary, (error) => setProblem(error.message));
    get(`/runs/${encodeURIComponent(run)}/slides`).then(setSlides, (error) => setProblem(error.message));
  }, [run]);
  if (problem) return html`<p role="alert" class="problem">${problem}</p>`;
  if (!summary) return html`<p class="loading">Reading ${run}…</p>`;
  const label = `/label?run=${encodeURIComponent(run)}`;
  const wanted = typed.toLowerCase();
  const listed = slides.filter((one) => `${one.slide_id} ${one.well ?? ""}`.toLowerCase().includes(wanted));
  return html`<section>
    <h1>${run}</h1>
    <p class="address">${summary.url}</p>
    <dl class="figures">
      <${Figure} value=${summary.objects} name="objects" />
      <${Figure} value=${summary.slides} name="slides" />
      <${Figure} value=${summary.wells.length} name=${summary.wells.length === 1 ? "well" : "wells"} />
      <${Figure} value=${summary.scanned_mm2} name="mm² scanned" />
      <${Figure} value=${summary.labelled} name="labelled" />
      ${summary.conflicts > 0 && html`<${Figure} value=${summary.conflicts} name="conflicts" />`}
      ${summary.failed > 0 && html`<${Figure} value=${summary.failed} name="slides failed" />`}
    </dl>
    ${summary.held_objects !== null && html`<p class="note">The grid chooses from ${number.format(summary.held_objects)} objects on ${number.format(summary.held_slides)} slides drawn at random; slides show all of theirs.</p>`}
    <p class="next">${next(summary, label)}</p>
    <h2>Wells</h2>
    <table>
      <thead><tr><th>Well</th><th class="n">Slides</th><th class="n">Objects</th><th class="n">Depth, m</th><th></th></tr></thead>
      <tbody>${summary.wells.map((/** @type {any} */ well) => html`<tr>
        <td>${well.well || "no well"}</td><td class="n">${number.format(well.slides)}</td><td class="n">${number.format(well.objects)}</td>
        <td class="n">${well.top_m === null ? "" : well.top_m === well.base_m ? well.top_m : `${well.top_m} – ${well.base_m}`}</td>
        <td><a href=${`${label}&well=${encodeURIComponent(well.well)}`}>crops</a>${well.well && html` <a href=${`/well?run=${encodeURIComponent(run)}&well=${encodeURIComponent(well.well)}`}>chart</a>`}</td></tr>`)}</tbody>
    </table>
    <h2>Slides</h2>
    <input class="filter" type="search" placeholder="Name or well" aria-label="Show slides whose name or well contains" value=${typed}
      onInput=${(/** @type {any} */ event) => setTyped(event.target.value)} />
    <table>
      <thead><tr><th>Slide</th><th>Well</th><th class="n">Depth, m</th><th class="n">Objects</th><th class="n">Labelled</th><th>Doubts</th></tr></thead>
      <tbody>${listed.slice(0, 500).map((one) => html`<tr key=${one.slide_id}>
        <td><a href=${slideUrl(run, one.slide_id)}>${one.slide_id}</a></td><td>${one.well ?? ""}</td><td class="n">${one.depth_m ?? ""}</td>
        <td class="n">${number.format(one.objects)}</td><td class="n">${number.format(one.labelled)}</td><td class="doubts">${one.doubts.join(" ")}</td></tr>`)}</tbody>
    </table>
    ${listed.length > 500 && html`<p class="note">${number.format(listed.length - 500)} more; type a part of the name.</p>`}
  </section>`;
}

/** @param {any} summary @param {string} label */
function next(summary, label) {
  if (!summary.labels) return html`Nothing can be labelled: start <code>fossilray serve</code> with <code>--labels FOLDER</code>. You can look at <a href=${label}>all crops</a> and at every slide below.`;
  if (summary.audit && summary.audit.labelled < summary.audit.objects) return html`Label <a href=${`${label}&queue=audit`}>the audit</a>: ${number.format(summary.audit.labelled)} of ${number.format(summary.audit.objects)} objects of a random sample are labelled.`;
  if (summary.conflicts) return html`Resolve <a href=${`${label}&status=conflict`}>${summary.conflicts} conflicts</a>: annotators gave these objects different names.`;
  if (!summary.labelled) return html`Begin to <a href=${`${label}&status=unlabelled&order=random`}>name crops drawn at random</a>.`;
  if (summary.predictions) return html`Review <a href=${`${label}&status=unlabelled&order=least-confident`}>what the classifier is least sure of</a>.`;
  return html`Go on <a href=${`${label}&status=unlabelled&order=random`}>naming crops</a>, then train, classify and chart: <code>fossilray classify ${summary.url} --labels ${summary.labels}</code>`;
}

/** @param {{value: number, name: string}} props */
function Figure({ value, name }) {
  return html`<div><dd>${number.format(value)}</dd><dt>${name}</dt></div>`;
}
