// Acts of the annotator: kept in the browser (IndexedDB) until the server has written them to its disk.
import { post } from "./api.js";

/** @typedef {{id: string, slide_id: string, object_id: number|null, box?: number[]|null, attempt: string,
 *   states: import("./api.js").States|null}} Act */
/** @typedef {{key?: number, run: string, who: string, act: Act}} Kept */

const MOST_AT_ONCE = 200;
const TRY_AGAIN_MS = 2000;

/** @type {Promise<IDBDatabase>|null} */
let opened = null;
/** @type {Set<(state: {pending: number, problem: string}) => void>} */
const listeners = new Set();
const state = { pending: 0, problem: "" };
let who = "";
let isSending = false;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("fossilray", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("acts", { keyPath: "key", autoIncrement: true });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * @template T
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest<T>|void} work
 * @returns {Promise<T>} the result, once the transaction is complete
 */
async function transact(mode, work) {
  const base = await database();
  return new Promise((resolve, reject) => {
    const transaction = base.transaction("acts", mode, { durability: "strict" });
    const request = work(transaction.objectStore("acts"));
    transaction.oncomplete = () => resolve(/** @type {any} */ (request ? request.result : undefined));
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

/** @param {string} name of the person whose acts are sent; those of others wait for them */
export async function start(name) {
  who = name;
  await count();
  void send();
}

/** @param {(state: {pending: number, problem: string}) => void} listener @returns {() => void} ends it */
export function watch(listener) {
  listeners.add(listener);
  listener({ ...state });
  return () => listeners.delete(listener);
}

/** @param {string} run @param {Omit<Act, "id">[]} acts @returns {Promise<void>} when the browser has them */
export async function record(run, acts) {
  const kept = acts.map((act) => ({ run, who, act: { id: crypto.randomUUID(), ...act } }));
  await transact("readwrite", (store) => {
    for (const one of kept) store.add(one);
  });
  state.pending += kept.length;
  tell();
  void send();
}

async function count() {
  state.pending = await transact("readonly", (store) => store.count());
  tell();
}

async function send() {
  if (isSending) return;
  isSending = true;
  try {
    for (;;) {
      const mine = /** @type {Kept[]} */ (await transact("readonly", (store) => store.getAll(null, 2000))).filter(
        (one) => one.who === who,
      );
      if (!mine.length) break;
      const run = mine[0].run;
      const batch = mine.filter((one) => one.run === run).slice(0, MOST_AT_ONCE);
      /** @type {{accepted: string[], refused: Record<string, string>}} */
      const outcome = await post(`/runs/${encodeURIComponent(run)}/acts`, { acts: batch.map((one) => one.act) });
      const done = new Set([...outcome.accepted, ...Object.keys(outcome.refused)]);
      await transact("readwrite", (store) => {
        for (const one of batch) if (done.has(one.act.id)) store.delete(/** @type {number} */ (one.key));
      });
      state.problem = Object.values(outcome.refused)[0] ?? "";
      if (state.problem) dispatchEvent(new CustomEvent("fossilray-refused", { detail: outcome.refused }));
      await count();
    }
  } catch (error) {
    state.problem = error instanceof Error ? error.message : String(error);
    await count();
    setTimeout(() => void send(), TRY_AGAIN_MS);
  } finally {
    isSending = false;
  }
}

function tell() {
  for (const listener of listeners) listener({ ...state });
}

addEventListener("online", () => void send());
addEventListener("beforeunload", (event) => {
  if (state.pending) event.preventDefault();
});
