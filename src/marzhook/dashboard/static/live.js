// Parts of a page that follow along: when the service says that something changed, the page is fetched and they are
// exchanged. One request at a time, none while nobody looks, and nothing is kept from one to the next. Where that does not
// work, the page says so, and tries again.
import { held } from "./hands.js";

const reached = "a, button, summary, pre";
// In milliseconds: until it is tried again, which grows, and until a reader is told.
const [soon, longest, grace, patience] = [2_000, 60_000, 4_000, 30_000];
// The service says something every 30 s (live.py); on a slow line it may come late.
const silence = 90_000;
// Also while nothing happens what waits grows older, hours go out of a chart, and a day ends. A page that nobody tells of
// changes looks for them as often.
const aging = 60_000;
// A window without the focus is fetched anew at most so often, where another one tells it.
const spread = 3_000;
// A browser has few connections to one host. Of its windows that are seen, one has a stream and tells the others.
const me = Math.random();
const isTold = "told" in document.body.dataset;
let enliven, windows, stream, teller, timer, due;
let wait = soon;
let busy = false;
let again = false;
let following = false;
let fetched = true;
let late = false;
let signedOut = false;
let leaving = 0; // when another page was asked for: this one may be that of what is just being deleted
let known = Date.now(); // when all that is shown was right
let heard; // when the stream, or the window that has one, last said anything

const parts = () => document.querySelectorAll("[data-live]");

function later(time) {
  clearTimeout(timer);
  timer = setTimeout(refresh, time);
}

async function refresh() {
  if (busy || document.hidden) {
    again = true;
    return;
  }
  if (Date.now() - leaving < patience) {
    later(1000);
    return;
  }
  if (held(parts())) {
    later(500);
    return;
  }
  busy = true;
  again = signedOut = false;
  clearTimeout(timer);
  try {
    // Where the page answers a form, its own address is not one to open.
    const asked = { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(patience) };
    const answer = await fetch(document.body.dataset.here, asked);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    signedOut = answer.redirected;
    // The service's own page, not one of what stands before it; one that says what is wrong with its address has the parts, too.
    fetched = answer.status < 500 && Boolean(fresh.body.dataset.here) && !signedOut;
    // Deleted, or not for this reader any more: the page itself says so.
    const has = ({ id }) => fresh.getElementById(id);
    if (fetched && !answer.ok && ![...parts()].some(has)) return location.replace(document.body.dataset.here);
    if (fetched) exchange(fresh);
  } catch {
    fetched = false; // the service restarts, or the line is down
  } finally {
    busy = false;
  }
  if (signedOut) close();
  else if (!fetched) {
    if (!isTold) lost();
    retry();
  } else {
    if (again) later(1000);
    if (following) wait = soon;
    known = Date.now();
    open();
  }
  tell();
}

function retry() {
  later(wait);
  wait = Math.min(2 * wait, longest);
}

function exchange(fresh) {
  // Where somebody has signed in anew in another window, what is sent from here is of that session, too.
  const [token] = fresh.getElementsByName("form_token");
  if (token) for (const field of document.getElementsByName("form_token")) field.value = token.value;
  for (const old of parts()) {
    const part = fresh.getElementById(old.id);
    if (!part) continue;
    for (const details of old.querySelectorAll("details[open][id]")) {
      const same = part.querySelector(`#${CSS.escape(details.id)}`);
      if (same) same.open = true;
    }
    enliven(part);
    lookAgain(part);
    if (plain(part) === plain(old)) continue;
    // Pressed or marked since the page was asked for: then it is asked for once more.
    if (held([old])) {
      again = true;
      return;
    }
    const focused = old.contains(document.activeElement) && document.activeElement;
    const place = focused && alike(old, focused).indexOf(focused);
    const goesOn = reading(old);
    old.replaceChildren(...part.childNodes);
    if (focused) (alike(old, focused)[place] ?? old).focus({ preventScroll: true });
    goesOn();
  }
  document.body.dataset.state = fresh.body.dataset.state;
}

// Each page's forms have a key of their own, of which one is as good as another.
function plain(part) {
  return part.innerHTML.replace(/(name="form_key" value=")[^"]*/g, "$1");
}

// What was unfolded stays where it is on the screen, and as far as it was read, whatever came in above it.
function reading(part) {
  const unfolded = [...part.querySelectorAll("details[open][id]")].map((details) => ({
    id: details.id,
    box: details.getBoundingClientRect(),
    read: [...details.querySelectorAll("pre")].map((text) => text.scrollTop),
  }));
  const seen = unfolded.find(({ box }) => box.bottom > 0 && box.top < innerHeight);
  return () => {
    for (const { id, read } of unfolded) {
      const texts = document.getElementById(id)?.querySelectorAll("pre") ?? [];
      texts.forEach((text, index) => { text.scrollTop = read[index] ?? 0; });
    }
    const same = seen && document.getElementById(seen.id);
    if (same) scrollBy(0, same.getBoundingClientRect().top - seen.box.top);
  };
}

// What does the same thing, wherever it stands now: of events, another one is in the place of the first.
function alike(part, element) {
  const does = (one) =>
    [
      one.tagName,
      one.rel || one.getAttribute("href") || one.dataset.copy,
      one.closest("form")?.getAttribute("action"),
      one.closest("details")?.id,
    ].join("\n");
  return [...part.querySelectorAll(reached)].filter((one) => does(one) === does(element));
}

// The figures were kept from a moment ago: what changed since is worth one more look, unless the page is told before.
function lookAgain(part) {
  if (Number(part.dataset.again) > 0) later(1000 * part.dataset.again + 100);
}

function open() {
  if (stream || teller || document.hidden) return;
  if (!isTold) return hears();
  // Told at once of what has changed since the page was made, if anything has.
  stream = new EventSource(`/live?since=${document.body.dataset.state}`);
  heard = Date.now();
  for (const type of ["open", "change", "ping"]) {
    stream.addEventListener(type, () => {
      hears();
      tells(type);
    });
  }
  stream.addEventListener("change", refresh);
  stream.addEventListener("error", ({ target }) => {
    if (target !== stream) return;
    tells("gone");
    lost();
    // Of an answer that is no stream (the database is away, a proxy's own) the browser asks no more.
    if (stream.readyState !== EventSource.CLOSED) return;
    stream = undefined;
    retry();
  });
  setTimeout(check, grace);
}

function hears() {
  heard = Date.now();
  if (following) return;
  following = true;
  wait = soon;
  if (!fetched) refresh();
  age();
  check();
}

function close(since) {
  if (stream) tells("gone");
  stream?.close();
  stream = teller = undefined;
  lost(since);
}

function tells(type) {
  windows?.postMessage({ type, from: me, state: document.body.dataset.state });
}

function told({ data: { type, from, state } }) {
  if (document.hidden) return;
  if (type === "gone") {
    if (from !== teller) return;
    close();
    // Whichever is the first tells the others.
    setTimeout(open, 1000 * Math.random());
    return;
  }
  // Of two that have a stream, both must know which one keeps it.
  if (stream && from < me) {
    if (type === "open" && following) tells(type);
    return;
  }
  stream?.close();
  stream = undefined;
  teller = from;
  hears();
  if (type === "ping" || (type === "open" && state === document.body.dataset.state)) return;
  due ??= setTimeout(() => {
    due = undefined;
    refresh();
  }, document.hasFocus() ? 0 : spread);
}

function age() {
  if (following && Date.now() - known >= aging) refresh();
}

// The other side may be gone without a word: asleep, moved to another network, or forgotten by what is in between.
function listen() {
  if (!(stream || teller) || Date.now() - heard < silence) return;
  close(heard);
  open();
}

function lost(since = Date.now()) {
  if (following && fetched && isTold) known = Math.max(known, since);
  following = false;
  setTimeout(check, grace);
}

function check() {
  late = !following && !document.hidden;
  tell();
}

function tell() {
  const place = document.getElementById("following");
  const what = signedOut ? "signed-out" : late || !fetched ? `late ${known}` : "";
  if (!place || place.dataset.says === what) return;
  place.dataset.says = what;
  place.replaceChildren();
  if (!what) return;
  const said = document.getElementById(what.split(" ")[0]).content.cloneNode(true);
  for (const time of said.querySelectorAll("time")) time.dateTime = time.textContent = new Date(known).toISOString();
  enliven(said);
  place.append(said);
}

export function follow(ready) {
  if (!parts().length) return;
  enliven = ready;
  if (isTold && window.BroadcastChannel) {
    windows = new BroadcastChannel("live");
    windows.onmessage = told;
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return close();
    if (isTold) open();
    if (again || !isTold) refresh();
  });
  window.addEventListener("beforeunload", () => { leaving = Date.now(); });
  window.addEventListener("pageshow", () => { leaving = 0; });
  setInterval(listen, silence / 9);
  setInterval(age, aging / 6);
  if (!document.hidden) open();
  parts().forEach((part) => lookAgain(part));
}
