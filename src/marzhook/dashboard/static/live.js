// Parts of a page that follow along: when the service says that something changed, the page is fetched and they are
// exchanged. One request at a time, none while nobody looks, and nothing is kept from one to the next.
let busy = false;
let again = false;
let signedOut = false;
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
    signedOut = answer.redirected;
    if (answer.ok && !signedOut) exchange(new DOMParser().parseFromString(await answer.text(), "text/html"), ready);
  } catch {
    // The service restarts, or the line is down: the stream tells when it is back.
  } finally {
    busy = false;
  }
  if (again) setTimeout(() => refresh(ready), 1000);
}

function exchange(fresh, ready) {
  document.body.dataset.state = fresh.body.dataset.state;
  for (const old of document.querySelectorAll("[data-live]")) {
    const part = fresh.getElementById(old.id);
    if (!part) continue;
    for (const details of old.querySelectorAll("details[open][id]")) {
      const same = part.querySelector(`#${CSS.escape(details.id)}`);
      if (same) same.open = true;
    }
    ready(part);
    lookAgain(part, ready);
    if (part.innerHTML === old.innerHTML) continue;
    const place = [...old.querySelectorAll(reached)].indexOf(document.activeElement);
    old.replaceChildren(...part.childNodes);
    if (place >= 0) old.querySelectorAll(reached)[place]?.focus();
  }
}

// The figures were kept from a moment ago: what changed since is worth one more look.
function lookAgain(part, ready) {
  if (Number(part.dataset.again) > 0) setTimeout(() => refresh(ready), 1000 * part.dataset.again + 100);
}

export function follow(ready) {
  const parts = document.querySelectorAll("[data-live]");
  if (!parts.length) return;
  let stream;
  const open = () => {
    if (stream) return;
    // Told at once of what has changed since the page was made, if anything has.
    stream = new EventSource(`/live?since=${document.body.dataset.state}`);
    stream.addEventListener("change", () => refresh(ready));
    stream.addEventListener("error", ({ target }) => {
      // Of an answer that is no stream (the database is away, a proxy's own) the browser asks no more.
      if (target.readyState === EventSource.CLOSED) setTimeout(() => reopen(target), 10_000);
    });
  };
  const reopen = async (ended) => {
    if (stream !== ended || signedOut) return;
    stream = undefined;
    await refresh(ready);
    if (!document.hidden && !signedOut) open();
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
  parts.forEach((part) => lookAgain(part, ready));
}
