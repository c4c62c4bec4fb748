"""What does not fit on a page that a browser shows, as it is at its present size."""

from __future__ import annotations

from selenium.webdriver.remote.webdriver import WebDriver

# What has its text cut off, a letter in each line, or sticks out of its own box or out of the window, though nothing can
# scroll it.
UNFIT = r"""
const found = [], root = document.documentElement;
if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} wide, not ${root.clientWidth}`);
const told = (what, e) => found.push(`${what}: ${e.outerHTML.slice(0, 120)}`);
for (const e of document.body.querySelectorAll("*")) {
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  if (!box.width || style.clipPath !== "none" || e.closest("svg, thead, .skip, option, datalist")) continue;
  if (box.left < -1 || box.right > root.clientWidth + 1) told("out of the window", e);
  if (style.display === "inline" || ["auto", "scroll"].includes(style.overflowX)) continue;
  if (e.matches("input, meter, progress")) continue;
  if (e.matches("dd") && box.width < 70 && box.height > 100) told(`squeezed into ${box.width}`, e);
  if (e.scrollWidth > e.clientWidth + 1) told("cut off or sticking out", e);
}
// A heading of a table that is broken within its words.
for (const e of document.querySelectorAll("thead th")) {
  if (getComputedStyle(e.parentElement.parentElement).position === "absolute") continue;
  const range = document.createRange();
  range.selectNodeContents(e);
  const lines = new Set([...range.getClientRects()].map((box) => box.top)).size;
  const words = e.textContent.trim().split(/[\s-]+/u).length;
  if (lines > words && !/\p{Script=Han}/u.test(e.textContent)) told("broken within a word", e);
}
// A cell's label that runs over into its value: it stands in a place of its own width, and no range measures it.
const pen = document.createElement("canvas").getContext("2d");
for (const e of document.querySelectorAll("td[data-label]")) {
  const style = getComputedStyle(e, "::before");
  if (style.content === "none") continue;
  pen.font = style.font;
  const words = style.whiteSpace === "nowrap" ? [e.dataset.label] : e.dataset.label.split(/[\s-]+|\p{Script=Han}/u);
  const wide = Math.max(...words.map((word) => pen.measureText(word).width));
  if (wide > parseFloat(style.inlineSize) + 1) told("a label that is too long", e);
}
// Two pieces of text in the same place.
const places = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; (node = walker.nextNode());) {
  const e = node.parentElement;
  if (!node.data.trim() || e.closest("thead, .skip, option, select, svg, script, pre") || !e.checkVisibility()) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  for (const box of range.getClientRects()) if (box.width > 1) places.push([box, node]);
}
for (let i = 0; i < places.length; i++) for (let j = i + 1; j < places.length && j < i + 40; j++) {
  const [a, one] = places[i], [b, other] = places[j];
  const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  if (one !== other && wide > 2 && high > 6) found.push(`"${one.data.trim()}" is over "${other.data.trim()}"`);
}
return found;
"""


def unfold(page: WebDriver) -> None:
    """Open all that is folded."""
    page.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


def unfit(page: WebDriver) -> list[str]:
    """A line for each fault."""
    found: list[str] = page.execute_script(UNFIT)
    return found
