// Names of taxa: what a few typed letters mean, and one colour for each name on all pages.

/** Kinds of what is no whole fossil, in the words of a label set. */
export const KINDS = ["wood", "cuticle", "amorphous matter", "mineral", "bubble", "dirt", "several objects", "part of an object", "no object"];

/**
 * Whether each typed part begins a word of the name, in order: "leu con" means Leucospermum conocarpodendron.
 * @param {string} typed @param {string} name
 */
export function matches(typed, name) {
  const words = plain(name).split(/[\s_-]+/);
  let at = 0;
  for (const part of plain(typed).split(/\s+/).filter(Boolean)) {
    while (at < words.length && !words[at].startsWith(part)) at += 1;
    if (at === words.length) return false;
    at += 1;
  }
  return true;
}

/** @param {string} typed @param {string[]} names @param {number} most @returns {string[]} best first */
export function suggest(typed, names, most = 8) {
  const first = plain(typed).split(/\s+/)[0] ?? "";
  return names
    .filter((name) => matches(typed, name))
    .sort((a, b) => Number(plain(b).startsWith(first)) - Number(plain(a).startsWith(first)))
    .slice(0, most);
}

/** @param {string} text */
function plain(text) {
  return text.normalize("NFD").replace(/[̀-ͯ]/g, "").toLowerCase().trim();
}

/** @param {string|null|undefined} name @returns {string} a colour that is the same for a name everywhere */
export function colourOf(name) {
  if (!name) return "hsl(0 0% 55%)";
  let hash = 2166136261;
  for (const letter of name) hash = Math.imul(hash ^ (letter.codePointAt(0) ?? 0), 16777619);
  const mixed = (hash ^ (hash >>> 15)) >>> 0;
  return `hsl(${(mixed % 360)} ${58 + (mixed >>> 9) % 25}% ${42 + (mixed >>> 17) % 14}%)`;
}

/** @param {import("./api.js").States} states @returns {string} as a palynologist would write it */
export function shown(states) {
  const name = states.kind === "fossil" ? states.name : states.name ? `${states.name} (${states.kind})` : states.kind;
  const marks = [states.situation && states.situation !== "in place" ? states.situation : "", states.unsure ? "unsure" : ""];
  return [name, ...marks.filter(Boolean)].join(", ");
}

/** @param {string} name of a taxon or a kind @returns {import("./api.js").States} */
export function statesOf(name) {
  const isKind = KINDS.includes(name);
  return { name: isKind ? "" : name, kind: isKind ? name : "fossil", situation: null, specimen: null, unsure: false, remark: "" };
}
