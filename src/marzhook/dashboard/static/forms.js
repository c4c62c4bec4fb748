// Sending a form once, asking before what cannot be taken back, copying, and a preview that keeps up with its form.
let sent = null;
let forget;
let typed = false; // and not sent

// A second click while the first one's answer is on its way must not act twice. By address: the form itself may have been
// exchanged meanwhile.
function once(event) {
  const form = event.target;
  if (form.method !== "post") return;
  const { asks } = form.elements;
  const to = form.getAttribute("action") ?? "";
  if (to === sent || (asks && !window.confirm(asks.value))) return event.preventDefault();
  sent = to;
  typed = false;
  // Where nothing says that a page was given up, it can be sent again after a while.
  clearTimeout(forget);
  forget = setTimeout(() => { sent = null; }, 30_000);
  // Answered: it is not sent, or the server would ask on a page.
  if (asks) asks.disabled = true;
}

export function sendOnce() {
  // Back to this page, and its reload, ask for it; an answer to a form, where they would ask whether to send that again.
  const { here, answer } = document.body.dataset;
  if (answer !== undefined) history.replaceState(null, "", here);
  document.addEventListener("submit", once);
  // Back on this page, or the answer was not waited for.
  for (const [target, type] of [[window, "pageshow"], [window.navigation, "navigateerror"]]) {
    target?.addEventListener(type, () => { sent = null; });
  }
  document.addEventListener("input", () => { typed = true; });
  // The browser kept the page as it was left, and what it shows may have changed since, by its own form above all. Where
  // it answers a form, its own address is not one to open.
  window.addEventListener("pageshow", ({ persisted }) => {
    if (persisted && !typed) location.replace(document.body.dataset.here);
  });
}

function copies(button) {
  if (!navigator.clipboard) return;
  button.hidden = false;
  const text = button.textContent;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = button.dataset.done;
    setTimeout(() => { button.textContent = text; }, 2000);
  });
}

function previews(form) {
  let timer;
  let latest = 0;
  form.addEventListener("input", () => {
    const mine = ++latest;
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const answer = await fetch(form.dataset.preview, { method: "POST", body: new URLSearchParams(new FormData(form)) });
      const place = document.getElementById("preview");
      if (!answer.ok || answer.redirected || !place) return;
      const shown = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (mine !== latest) return; // a later one may have been answered first
      place.replaceChildren(...shown.body.childNodes);
      enliven(place);
    }, 300);
  });
}

// Boxes that are not seen, because all are chosen, are not meant.
function chooses(choices) {
  const { form } = choices.querySelector("input");
  const tell = () => choices.querySelectorAll("input").forEach((box) => { box.disabled = form.elements.which.value === "all"; });
  form.addEventListener("change", tell);
  tell();
}

export function enliven(root) {
  root.querySelectorAll(".choices").forEach(chooses);
  root.querySelectorAll("[data-copy]").forEach(copies);
  root.querySelectorAll("form[data-preview]").forEach(previews);
}
