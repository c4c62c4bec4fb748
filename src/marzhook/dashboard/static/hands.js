// What a reader is doing just now: pressing something, or marking a text. What is under his hands must not be exchanged: a
// click is one only where it ends on what it began on.
const patience = 60_000; // milliseconds: a text that somebody forgot is no reason to show old figures all day
let pressed = false;
let letGo;
let since = 0;

function press(event) {
  if (event.type === "keydown" ? event.key !== " " : event.button > 1) return;
  clearTimeout(letGo);
  pressed = true;
  since = 0;
}

function release() {
  clearTimeout(letGo);
  // The click comes after it.
  letGo = setTimeout(() => { pressed = false; }, 100);
}

for (const type of ["pointerdown", "keydown"]) addEventListener(type, press, true);
for (const type of ["pointerup", "pointercancel", "contextmenu", "keyup", "blur"]) addEventListener(type, release);
// What was marked before may have been forgotten; this was not.
document.addEventListener("selectionchange", () => { since = 0; });

// Whether one of these parts of the page is to stay as it is for now.
export function held(parts) {
  const selection = getSelection();
  const marked = !selection.isCollapsed && [...parts].some((part) => selection.containsNode(part, true));
  if (pressed || !selection.isCollapsed) since ||= Date.now();
  else since = 0;
  return (pressed || marked) && Date.now() - since < patience;
}
