// Parts of a page that follow along: when the service says that something changed, the page is fetched and they are
// exchanged. One request at a time, none while nobody looks, and nothing is kept from one to the next.
let busy = false;
let again = false;
const reached = "a, button, summary, pre";

async function refresh(ready) {
  if (busy || document.hidden) {
    again = true;
    return;
  }
  busy = true;
  again = false;
  try {
    // Where the page answers a form, its own address is not one to open.
    const answer = await fetch(document.body.dataset.here, { headers: { Accept: "text/html" } });
    if (answer.ok && !answer.redirected) exchange(new DOMParser().parseFromString(await answer.text(), "text/html"), ready);
  } catch {
    // The service restarts, or the line is down: the stream tells when it is back.
  } finally {
    busy = false;
  }
  if (again) setTimeout(() => refresh(ready), 1000);
}

function exchange(fresh, ready) {
  for (const old of document.querySelectorAll("[data-live]")) {
    const part = fresh.getElementById(old.id);
    if (!part) continue;
    for (const details of old.querySelectorAll("details[open][id]")) {
      const same = part.querySelector(`#${CSS.escape(details.id)}`);
      if (same) same.open = true;
    }
    ready(part);
    // The figures were kept from a moment ago: what changed since is worth one more look.
    if (Number(part.dataset.again) > 0) setTimeout(() => refresh(ready), 1000 * part.dataset.again + 100);
    if (part.innerHTML === old.innerHTML) continue;
    const place = [...old.querySelectorAll(reached)].indexOf(document.activeElement);
    old.replaceChildren(...part.childNodes);
    if (place >= 0) old.querySelectorAll(reached)[place]?.focus();
  }
}

export function follow(ready) {
  if (!document.querySelector("[data-live]")) return;
  let stream;
  const open = () => {
    stream ??= new EventSource("/live");
    stream.addEventListener("change", () => refresh(ready));
  };
  // A browser has few connections to one host: a page in the background gives its own back.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      stream?.close();
      stream = undefined;
    } else {
      open();
    }
  });
  if (!document.hidden) open();
}
