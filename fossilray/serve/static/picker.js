// The box in which a name is typed: suggestions from the names that are known, kinds of what is no fossil included.
import { html, useRef, useState } from "./vendor/htm-preact.module.js";
import { KINDS, suggest } from "./names.js";

/** @typedef {{open: () => void}} PickerHandle */

/**
 * The input is always there and takes the focus at once, so that no key of a fast hand goes elsewhere.
 * @param {{handle: {current: PickerHandle|null}, names: string[], onChoose: (name: string) => void, onClose?: () => void}} props
 */
export function Picker({ handle, names, onChoose, onClose }) {
  const [typed, setTyped] = useState("");
  const [at, setAt] = useState(0);
  const [isOpen, setIsOpen] = useState(false);
  const input = /** @type {{current: HTMLInputElement|null}} */ (useRef(null));
  handle.current = {
    open() {
      setTyped("");
      setAt(0);
      setIsOpen(true);
      if (input.current) {
        input.current.value = "";
        input.current.focus();
      }
    },
  };
  const close = () => {
    setIsOpen(false);
    if (document.activeElement === input.current) input.current?.blur();
  };
  /** @param {string} text */
  function optionsFor(text) {
    const found = text.trim() ? suggest(text, [...names, ...KINDS.filter((kind) => !names.includes(kind))]) : [];
    const isNew = text.trim() && !found.some((name) => name.toLowerCase() === text.trim().toLowerCase());
    return { options: isNew ? [...found, text.trim()] : found, isNew };
  }
  const key = (/** @type {KeyboardEvent} */ event) => {
    event.stopPropagation();
    // The text as it is now: the page may not have been drawn since the last key.
    const { options } = optionsFor(input.current?.value ?? "");
    if (event.key === "Escape") { close(); onClose?.(); }
    else if (event.key === "ArrowDown") setAt((at + 1) % Math.max(options.length, 1));
    else if (event.key === "ArrowUp") setAt((at - 1 + options.length) % Math.max(options.length, 1));
    else if (event.key === "Enter" || event.key === "Tab") {
      if (options.length) { close(); onChoose(options[Math.min(at, options.length - 1)]); }
    } else return;
    event.preventDefault();
  };
  const { options, isNew } = optionsFor(typed);
  return html`<div class=${`picker${isOpen ? " open" : ""}`} role="dialog" aria-label="Name" aria-hidden=${isOpen ? null : "true"}>
    <input ref=${input} aria-label="Name of the taxon" role="combobox" aria-expanded=${isOpen} aria-controls="picker-names" tabindex=${isOpen ? 0 : -1}
      autocomplete="off" spellcheck="false" maxlength="200" onKeyDown=${key} onBlur=${() => setIsOpen(false)}
      onInput=${(/** @type {any} */ event) => { setTyped(event.target.value); setAt(0); }} />
    <ul id="picker-names" role="listbox">${options.map((name, i) => html`<li role="option" aria-selected=${i === at} class=${i === at ? "at" : ""}
      onMouseDown=${(/** @type {Event} */ event) => { event.preventDefault(); close(); onChoose(name); }}>${name}${isNew && i === options.length - 1 ? html` <em>new name</em>` : ""}</li>`)}</ul>
  </div>`;
}
