// Requests to the API. A response that is no success becomes an Error with the server's own sentence.

/** @typedef {{name: string, may_label: boolean, runs: string[], version: string}} Session */
/** @typedef {{name: string, kind: string, situation: string|null, specimen: string|null, unsure: boolean, remark: string}} States */
/** @typedef {{states: States, who: string, at: string}} Label */
/** @typedef {{slide_id: string, object_id: number, attempt: string, box: number[], width_um: number, height_um: number,
 *   taxon: string|null, confidence: number|null, label: Label|null, conflict: boolean}} Crop */
/** @typedef {{name: string, predicted: number, labelled: number, doubtful: number}} Taxon */
/** @typedef {{slide_id: string, attempt: string, well: string|null, depth_m: number|null, objects: number, labelled: number,
 *   doubts: string[]}} Slide */

/**
 * @param {string} path below /api
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function get(path, signal) {
  return parsed(await fetch(`/api${path}`, { signal, headers: { accept: "application/json" } }));
}

/**
 * @param {string} path below /api
 * @param {any} body
 * @returns {Promise<any>}
 */
export async function post(path, body) {
  return parsed(
    await fetch(`/api${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    }),
  );
}

/**
 * @param {string} path below /api
 * @param {Blob} content
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function upload(path, content, signal) {
  return parsed(await fetch(`/api${path}`, { method: "POST", signal, headers: { "content-type": "application/octet-stream" }, body: content }));
}

/** @param {Response} response */
async function parsed(response) {
  if (response.status === 401) location.href = "/login";
  if (!response.ok) {
    const detail = await response.json().then((body) => body.detail, () => "");
    const error = new Error(typeof detail === "string" && detail ? detail : `the server parsed ${response.status}`);
    /** @type {any} */ (error).status = response.status;
    throw error;
  }
  return response.json();
}

/** @param {Record<string, string|number|(string|null)[]|null|undefined>} values @returns {string} a query string without what is empty */
export function queryOf(values) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values))
    if (Array.isArray(value)) for (const one of value) query.append(name, String(one));
    else if (value !== null && value !== undefined && value !== "") query.set(name, String(value));
  const text = query.toString();
  return text ? `?${text}` : "";
}

/** @param {string} run @param {{slide_id: string, attempt: string}} of @param {number} objectId */
export const cropUrl = (run, of, objectId) =>
  `/api/runs/${encodeURIComponent(run)}/slides/${encodeURIComponent(of.slide_id)}/${of.attempt}/crops/${objectId}.jpg`;

/** @param {string} run @param {{slide_id: string, attempt: string}} of @param {number} objectId */
export const surroundingsUrl = (run, of, objectId) => cropUrl(run, of, objectId).replace("/crops/", "/surroundings/");

/** @param {string} run @param {string} slideId @param {number} [objectId] */
export const slideUrl = (run, slideId, objectId) =>
  `/slide/${encodeURIComponent(run)}/${encodeURIComponent(slideId)}${objectId === undefined ? "" : `?object=${objectId}`}`;
