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
