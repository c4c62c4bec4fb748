// Asking before what cannot be taken back, copying, and a preview that keeps up with its form.
function confirmed(form) {
  form.addEventListener("submit", (event) => {
    if (!window.confirm(form.dataset.confirm)) event.preventDefault();
  });
}

function copies(button) {
  if (!navigator.clipboard) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    const text = button.textContent;
    button.textContent = button.dataset.done;
    setTimeout(() => { button.textContent = text; }, 2000);
  });
}

function previews(form) {
  let timer;
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const answer = await fetch(form.dataset.preview, { method: "POST", body: new URLSearchParams(new FormData(form)) });
      const place = document.getElementById("preview");
      if (!answer.ok || answer.redirected || !place) return;
      const shown = new DOMParser().parseFromString(await answer.text(), "text/html");
      place.replaceChildren(...shown.body.childNodes);
      enliven(place);
    }, 300);
  });
}

export function enliven(root) {
  root.querySelectorAll("form[data-confirm]").forEach(confirmed);
  root.querySelectorAll("[data-copy]").forEach(copies);
  root.querySelectorAll("form[data-preview]").forEach(previews);
}
