// Moments as the reader writes them: in his time zone, his digits, his calendar.
const locales = { fa: "fa-IR-u-ca-persian-nu-arabext", "zh-Hans": "zh-CN", ru: "ru-RU", en: undefined };
const locale = locales[document.documentElement.lang];
const day = { year: "numeric", month: "short", day: "numeric" };
const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const styles = {
  short: { month: "short", day: "numeric", ...clock },
  full: { ...day, ...clock, second: "2-digit" },
  exact: { month: "short", day: "numeric", ...clock, second: "2-digit", fractionalSecondDigits: 3 },
  hour: { month: "short", day: "numeric", ...clock },
  day,
  utcday: { ...day, timeZone: "UTC" },
};
const made = {};

function formatter(style) {
  made[style] ??= new Intl.DateTimeFormat(locale, styles[style] ?? styles.full);
  return made[style];
}

export function localize(root) {
  for (const element of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(element.dateTime);
    const today = new Date().toDateString() === at.toDateString();
    // Of today, the day says nothing.
    const style = { ...(styles[element.dataset.style] ?? styles.full) };
    element.title = element.textContent;
    element.dir = "auto";
    if (today && ["short", "exact", "hour"].includes(element.dataset.style)) {
      delete style.month;
      delete style.day;
      element.textContent = new Intl.DateTimeFormat(locale, style).format(at);
    } else {
      element.textContent = formatter(element.dataset.style).format(at);
    }
  }
}

// A field of a date and a time knows no zone. It comes and goes in UTC; in between it is in the reader's time zone.
export function localizeFields(root) {
  if (!window.FormDataEvent) return; // Then it could not go in UTC.
  for (const field of root.querySelectorAll("input[type=datetime-local]")) {
    const came = field.value;
    if (came) field.value = local(new Date(`${came}Z`));
    const shown = field.value;
    for (const label of field.labels[0].querySelectorAll("[data-local]")) label.textContent = label.dataset.local;
    field.form.addEventListener("formdata", ({ formData }) => {
      // Untouched, it goes as it came: an hour that the clocks have twice names two moments.
      if (field.value !== shown) formData.set(field.name, field.value && new Date(field.value).toISOString());
      else formData.set(field.name, came);
    });
  }
}

function local(at) {
  return new Date(at - 60_000 * at.getTimezoneOffset()).toISOString().slice(0, 19);
}
