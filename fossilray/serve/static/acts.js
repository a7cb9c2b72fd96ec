// Labelling: what a key or a chosen name does to objects, the last names, and undo.
import * as journal from "./journal.js";
import { shown, statesOf } from "./names.js";

/** @typedef {{run: string, slide_id: string, object_id: number|null, box?: number[]|null, attempt: string,
 *   before: import("./api.js").States|null, after: import("./api.js").States|null}} Done */

const LAST = "fossilray-last-names";
const MOST_UNDO = 500;

/** @type {Done[][]} */
const done = [];
/** @type {import("./api.js").States|null} */
let repeated = null;

/** @returns {{name: string, used: number}[]} */
function slots() {
  try {
    return JSON.parse(localStorage.getItem(LAST) ?? "[]");
  } catch {
    return [];
  }
}

/** @returns {string[]} the last nine names, each at the digit that it got: a new one takes that of the name unused for longest */
export const lastNames = () => slots().map((slot) => slot.name);

/** @returns {import("./api.js").States|null} */
export const lastStates = () => repeated;

/** @param {string} name */
function remember(name) {
  const kept = slots();
  const used = kept.reduce((most, slot) => Math.max(most, slot.used), 0) + 1;
  let slot = kept.find((one) => one.name === name);
  if (!slot && kept.length < 9) kept.push((slot = { name, used }));
  slot ??= kept.reduce((least, one) => (one.used < least.used ? one : least));
  Object.assign(slot, { name, used });
  localStorage.setItem(LAST, JSON.stringify(kept));
}

/**
 * Record a label of each object; null withdraws it.
 * @param {string} run
 * @param {{slide_id: string, object_id: number|null, box?: number[]|null, attempt: string, before: import("./api.js").States|null}[]} objects
 * @param {(object: {before: import("./api.js").States|null}, i: number) => import("./api.js").States|null} statesFor
 */
export async function label(run, objects, statesFor) {
  const acts = objects
    .map((one, i) => ({ ...one, run, after: statesFor(one, i) }))
    .filter((one) => one.after !== null || one.before !== null);
  if (!acts.length) return;
  const newest = acts[acts.length - 1].after;
  if (newest) {
    repeated = newest;
    remember(newest.kind === "fossil" ? newest.name : newest.kind);
  }
  done.push(acts);
  if (done.length > MOST_UNDO) done.shift();
  try {
    await send(run, acts.map((one) => ({ ...one, states: one.after })));
  } catch (error) {
    done.splice(done.indexOf(acts), 1);
    throw error;
  }
}

/** @returns {Promise<Done[]|null>} what was undone; null if there is nothing */
export async function undo() {
  const last = done.pop();
  if (!last) return null;
  await send(last[0].run, last.map((one) => ({ ...one, states: one.before })));
  return last;
}

/** @param {string} run @param {any[]} acts */
async function send(run, acts) {
  await journal.record(
    run,
    acts.map((one) => ({
      slide_id: one.slide_id,
      object_id: one.object_id,
      attempt: one.attempt,
      states: one.states,
      ...(one.object_id === null ? { box: one.box } : {}),
    })),
  );
}

/**
 * @param {string} name
 * @param {import("./api.js").States|null} before whose situation and doubt stay if the name stays
 */
export function named(name, before) {
  const states = statesOf(name);
  return before && shown({ ...before, situation: null, unsure: false }) === name ? before : states;
}
