// The page on which a token is entered once; the server keeps it in a cookie that scripts cannot read.
const form = /** @type {HTMLFormElement} */ (document.getElementById("login"));
const token = /** @type {HTMLInputElement} */ (document.getElementById("token"));
const problem = /** @type {HTMLElement} */ (document.getElementById("problem"));

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const response = await fetch("/login", { method: "POST", body: token.value, redirect: "manual" });
  if (response.ok || response.type === "opaqueredirect") location.href = "/";
  else problem.textContent = (await response.json()).detail;
});
token.focus();
