// Moments as the reader writes them: in his time zone, his digits, his calendar.
const locales = { fa: "fa-IR-u-ca-persian-nu-arabext", "zh-Hans": "zh-CN", ru: "ru-RU", en: undefined };
const locale = locales[document.documentElement.lang];
const day = { year: "numeric", month: "short", day: "numeric" };
const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const styles = {
  short: { month: "short", day: "numeric", ...clock },
  full: { ...day, ...clock, second: "2-digit" },
  second: { month: "short", day: "numeric", ...clock, second: "2-digit" },
  exact: { month: "short", day: "numeric", ...clock, second: "2-digit", fractionalSecondDigits: 3 },
  hour: { month: "short", day: "numeric", ...clock },
  day,
  utcday: { ...day, timeZone: "UTC" },
};
const made = {};
const years = new Intl.DateTimeFormat(locale, { year: "numeric" });

function formatter(name, at) {
  const style = styles[name] ?? styles.full;
  const now = new Date();
  // Of today, the day says nothing; a day of another year is one only with it.
  const today = !style.year && now.toDateString() === at.toDateString();
  const other = !style.year && years.format(now) !== years.format(at);
  const but = { ...(today && { month: undefined, day: undefined }), ...(other && { year: "numeric" }) };
  return made[`${name} ${today} ${other}`] ??= new Intl.DateTimeFormat(locale, { ...style, ...but });
}

export function localize(root) {
  for (const element of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(element.dateTime);
    element.title = element.textContent;
    element.dir = "auto";
    element.textContent = formatter(element.dataset.style, at).format(at);
  }
}

// A browser's date field is of the Gregorian calendar; beside it stands the day of the reader's own, where that is another.
function besides(field) {
  if (years.resolvedOptions().calendar === "gregory") return;
  const told = document.createElement("small");
  const tell = () => {
    const at = new Date(field.value);
    told.textContent = isNaN(at) ? "" : formatter("full", at).format(at);
  };
  field.after(told);
  field.addEventListener("input", tell);
  tell();
}

// A field of a date and a time knows no zone. It comes and goes in UTC; in between it is in the reader's time zone.
export function localizeFields(root) {
  if (!window.FormDataEvent) return; // Then it could not go in UTC.
  for (const field of root.querySelectorAll("input[type=datetime-local]")) {
    const came = field.value;
    field.value = moved(came, (text) => local(new Date(`${text}Z`)));
    const shown = field.value;
    besides(field);
    for (const label of field.labels[0].querySelectorAll("[data-local]")) label.textContent = label.dataset.local;
    field.form.addEventListener("formdata", ({ formData }) => {
      // Untouched, it goes as it came: an hour that the clocks have twice names two moments.
      const goes = field.value === shown ? came : moved(field.value, (text) => new Date(text).toISOString());
      formData.set(field.name, goes);
    });
  }
}

// A year that has not four digits on both sides stays as it was written: it is refused, and shown as such once more.
function moved(text, move) {
  const four = /^\d{4}-/;
  const there = four.test(text) ? move(text) : "";
  return four.test(there) ? there : text;
}

function local(at) {
  return new Date(at - 60_000 * at.getTimezoneOffset()).toISOString().slice(0, 19);
}
