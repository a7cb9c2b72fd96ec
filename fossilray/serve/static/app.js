// The frame of all pages: who looks, what is not saved yet, and which page the address names.
import { html, render, useEffect, useState } from "./vendor/htm-preact.module.js";
import { get } from "./api.js";
import { Help } from "./help.js";
import { Home } from "./home.js";
import { IdentifyPage } from "./identify.js";
import * as journal from "./journal.js";
import { LabelPage } from "./label.js";
import { QueryPage } from "./query.js";
import { SlidePage } from "./slide.js";
import { WellPage } from "./well.js";

const root = /** @type {HTMLElement} */ (document.getElementById("app"));

/** @param {string} path @param {boolean} [replace] */
export function go(path, replace = false) {
  if (replace) history.replaceState(null, "", path);
  else history.pushState(null, "", path);
  dispatchEvent(new PopStateEvent("popstate"));
}

addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest("a[href^='/']") : null;
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || link.hasAttribute("download")) return;
  event.preventDefault();
  go(/** @type {HTMLAnchorElement} */ (link).getAttribute("href") ?? "/");
});

/** @param {{session: import("./api.js").Session}} props */
function App({ session }) {
  const [address, setAddress] = useState(location.pathname + location.search);
  const [saving, setSaving] = useState({ pending: 0, problem: "" });
  const [needsHelp, setNeedsHelp] = useState(false);
  useEffect(() => {
    const moved = () => setAddress(location.pathname + location.search);
    const key = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "F1") {
        event.preventDefault();
        setNeedsHelp((before) => !before);
      } else if (event.key === "Escape") setNeedsHelp(false);
    };
    addEventListener("popstate", moved);
    addEventListener("keydown", key);
    const end = journal.watch(setSaving);
    return () => {
      removeEventListener("popstate", moved);
      removeEventListener("keydown", key);
      end();
    };
  }, []);
  const [path, query] = address.split("?");
  const values = new URLSearchParams(query ?? "");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const run = (parts[0] === "slide" ? parts[1] : values.get("run")) ?? session.runs[0];
  return html`
    <header>
      <a class="brand" href="/">fossilray</a>
      <nav aria-label="Pages">
        <a href="/" aria-current=${parts.length ? null : "page"}>Run</a>
        <a href=${`/label?run=${encodeURIComponent(run)}`} aria-current=${parts[0] === "label" ? "page" : null}>Label</a>
        <a href=${`/well?run=${encodeURIComponent(run)}`} aria-current=${parts[0] === "well" ? "page" : null}>Chart</a>
        <a href="/identify" aria-current=${parts[0] === "identify" ? "page" : null}>Identify</a>
        <a href=${`/query?run=${encodeURIComponent(run)}`} aria-current=${parts[0] === "query" ? "page" : null}>Query</a>
      </nav>
      <span class="grow"></span>
      <${Saving} ...${saving} />
      <span class="who" title="Your labels are recorded under this name">${session.name}</span>
      <button class="plain" onClick=${() => setNeedsHelp(true)} title="Keys (F1)">Keys</button>
    </header>
    ${needsHelp && html`<${Help} onClose=${() => setNeedsHelp(false)} />`}
    ${page(parts, run, values, session)}
  `;
}

/** @param {string[]} parts @param {string} run @param {URLSearchParams} values @param {import("./api.js").Session} session */
function page(parts, run, values, session) {
  if (parts[0] === "slide") return html`<${SlidePage} key=${`${run}/${parts[2]}`} run=${run} slideId=${parts[2]} values=${values} session=${session} />`;
  if (parts[0] === "label") return html`<${LabelPage} key=${run} run=${run} values=${values} session=${session} />`;
  if (parts[0] === "query") return html`<${QueryPage} key=${run} run=${run} values=${values} />`;
  if (parts[0] === "well") return html`<${WellPage} key=${run} run=${run} values=${values} />`;
  if (parts[0] === "identify") return html`<${IdentifyPage} />`;
  return html`<${Home} runs=${session.runs} />`;
}

/** @param {{pending: number, problem: string}} props */
function Saving({ pending, problem }) {
  if (problem)
    return html`<span class="saving problem" role="alert">${pending ? `${pending} not saved on the server, kept in this browser: ` : ""}${problem}</span>`;
  return html`<span class="saving" role="status">${pending ? `saving ${pending}…` : "all saved"}</span>`;
}

try {
  const session = await get("/session");
  if (session.may_label) await journal.start(session.name);
  root.textContent = "";
  render(html`<${App} session=${session} />`, root);
} catch (error) {
  root.innerHTML = "";
  const text = document.createElement("p");
  text.className = "loading";
  text.setAttribute("role", "alert");
  text.textContent = `The server cannot be reached: ${error instanceof Error ? error.message : error}`;
  root.append(text);
}
