// The keys of all pages.
import { html, useEffect, useRef } from "./vendor/htm-preact.module.js";

const KEYS = [
  ["Grid of crops", [
    ["arrows, Shift+arrows", "move; extend the selection"],
    ["Space, Ctrl+A", "select or leave out the crop; select all"],
    ["any other letter, or a capital", "type a name: “leu con” finds Leucospermum conocarpodendron"],
    ["1 to 9", "one of the last nine names, shown below the crops"],
    ["Enter", "accept the prediction"],
    [".", "repeat the last label"],
    ["x", "not a fossil: then w wood, c cuticle, a amorphous, m mineral, b bubble, d dirt, s several, p part, n no object"],
    ["?", "questionable: adds ? to the name"],
    ["d", "doubtful: you are unsure"],
    ["r", "reworked"],
    ["v", "see it on the slide"],
    ["n, f", "next page, page before"],
    ["Ctrl+Z", "undo your last act, wherever you are"],
  ]],
  ["Slide", [
    ["+, -, 0", "zoom in, out, whole slide"],
    ["arrows", "next or previous object of the selection"],
    ["m", "draw a fossil that the detector missed"],
    ["x, then n", "strike out a false box"],
    ["b", "boxes on or off"],
  ]],
  ["Identify", [
    ["Ctrl+V", "identify the image of the clipboard"],
    ["arrows left and right", "previous or next object"],
    ["h", "heat map on or off"],
  ]],
];

/** @param {{onClose: () => void}} props */
export function Help({ onClose }) {
  const box = /** @type {{current: HTMLElement|null}} */ (useRef(null));
  useEffect(() => box.current?.focus(), []);
  return html`<div class="veil" onClick=${onClose}>
    <section class="help" role="dialog" aria-label="Keys" tabindex="-1" ref=${box} onClick=${(/** @type {Event} */ e) => e.stopPropagation()}>
      <button class="plain close" onClick=${onClose} aria-label="Close">✕</button>
      ${KEYS.map(([title, keys]) => html`<h2>${title}</h2><dl>${/** @type {string[][]} */ (keys).map(([key, what]) => html`<dt>${key}</dt><dd>${what}</dd>`)}</dl>`)}
    </section>
  </div>`;
}
